"""The handshake as handlers hear of it: served once, and replayed for sessions that are restored."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from mcp.server.runner import ServerRunner
from mcp.shared.dispatcher import OnNotify
from mcp.shared.exceptions import MCPError

from mcp_django import threads
from mcp_django.exceptions import HookFailed, SessionNotFound, StoreUnavailable
from mcp_django.handlers import RestoreMarker
from mcp_django.kernel import on_request
from mcp_django.running import current_call

if TYPE_CHECKING:
    from mcp_django.kernel import Kernel
    from mcp_django.session_calls import SessionCall

logger = logging.getLogger("mcp_django.calls")

# Read off the class, see kernel.on_request.
on_notify: Callable[[ServerRunner[Any]], OnNotify] = vars(ServerRunner)["on_notify"].func


async def initialize(kernel: Kernel, call: SessionCall, params: dict[str, Any]) -> dict[str, Any]:
    """Serve the ``initialize`` request, middleware included; handlers hear of it by :func:`open_handlers`."""
    return await on_request(kernel.runner(call))(call, "initialize", params)


async def open_handlers(kernel: Kernel, call: SessionCall, marker: RestoreMarker | None) -> None:
    """Make the session's handler instances and tell them of the handshake."""
    current_call.set(call)
    for handler_class in kernel.handler_classes:
        handler = handler_class()
        handler._session = call.session
        call.session.handlers[handler_class] = handler
        await hook(handler.on_initialize, call.session.client_params, marker)


async def initialized(kernel: Kernel, call: SessionCall, marker: RestoreMarker | None) -> None:
    """``notifications/initialized``: through the SDK's middleware, then to the handlers."""
    current_call.set(call)
    await on_notify(kernel.runner(call))(call, "notifications/initialized", None)
    for handler in call.session.handlers.values():
        await hook(handler.on_initialized, marker)


async def replay(kernel: Kernel, call: SessionCall, params: dict[str, Any]) -> None:
    """Replay the handshake of a session that is being restored, with its marker.

    The negotiated version stays what the client was told, whatever this version of the code would negotiate.
    """
    marker = call.session.marker
    assert marker is not None
    await initialize(kernel, call, params)
    await open_handlers(kernel, call, marker)
    if marker.initialized_at is not None:
        await initialized(kernel, call, marker)
    for handler in call.session.handlers.values():
        await hook(handler.on_restore, marker)


async def hook(method: Callable[..., Any], *args: Any) -> None:
    """Run a hook, sync or async.

    Raises:
        MCPError: the hook raised it, to refuse with a text of its own.
        SessionNotFound, StoreUnavailable: the session ended meanwhile, or its state could not be reached.
        HookFailed: it raised anything else, which is logged.
    """
    try:
        # By way of the function: bound methods are made anew at each access, and wrappers are kept by identity.
        await threads.asynchronous(method.__func__)(method.__self__, *args)  # type: ignore[attr-defined]
    except (MCPError, SessionNotFound, StoreUnavailable):
        raise
    except Exception as error:
        logger.exception("hook=%s failed", method.__qualname__)
        raise HookFailed("A handler of this server failed while the session was being set up. Try again.") from error
