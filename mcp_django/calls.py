"""One running call: the SDK's dispatch context over one HTTP exchange, in a task of its own."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import anyio
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import MCPError, NoBackChannelError
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext

from mcp_django import jsonrpc, threads
from mcp_django.auth import Principal
from mcp_django.conf import mcp_settings
from mcp_django.http import Request

if TYPE_CHECKING:
    from mcp_django.live import LiveSession

current_call: contextvars.ContextVar[Call] = contextvars.ContextVar("mcp_django_call")
"""The call that this code runs for; set in handlers and hooks."""


class Call:
    """One message being handled: whose it is, in which session, and the channel back to its sender.

    This is the SDK's ``DispatchContext`` and the ``Outbound`` of its connection. An answer in one piece carries
    nothing but the result: notifications to the client are dropped, requests to it are refused.
    """

    __slots__ = ("_cancel_event", "_task", "cancelled", "http", "id", "principal", "session", "session_id")

    def __init__(
        self,
        session: LiveSession,
        session_id: str,
        principal: Principal,
        http: Request,
        id: jsonrpc.RequestId | None = None,
    ) -> None:
        self.session = session
        self.session_id = session_id
        self.principal = principal
        self.http = http
        self.id = id
        self.cancelled = False
        self._cancel_event: anyio.Event | None = None
        self._task: asyncio.Task[Any] | None = None

    async def run(self, make: Callable[[], Coroutine[Any, Any, dict[str, Any]]]) -> dict[str, Any]:
        """Run the call in a task of its own, at most ``MCP_DJANGO_MAX_CONCURRENT_CALLS`` at a time.

        Whoever awaits this may be cancelled (a broken connection); the call goes on.

        Raises:
            MCPError: the client cancelled the call, or no slot became free in time.
        """
        self._task = threads.start(lambda: self._run(make))
        try:
            return await asyncio.shield(self._task)
        except asyncio.CancelledError:
            if not self.cancelled:
                raise
            raise MCPError(jsonrpc.REQUEST_CANCELLED, "Request cancelled") from None

    async def _run(self, make: Callable[[], Coroutine[Any, Any, dict[str, Any]]]) -> dict[str, Any]:
        current_call.set(self)
        self.session.calls.add(self)
        try:
            slots = _slots()
            if slots.locked():
                await _wait_for_slot(slots)
            else:
                await slots.acquire()
            try:
                return await make()
            finally:
                slots.release()
        finally:
            self.session.calls.discard(self)
            # The task's context holds the call: without this, every call would be left to the garbage collector,
            # whose full runs stop the loop.
            self._task = None

    def cancel(self) -> None:
        """Stop the call at its next await; one that has ended is left alone. From any thread."""
        task = self._task
        if task is not None and not task.done():
            # Under WSGI the cancelling request runs in another thread's loop, which must not touch this one's.
            task.get_loop().call_soon_threadsafe(self._cancel, task)

    def _cancel(self, task: asyncio.Task[Any]) -> None:
        if not task.done():
            self.cancelled = True
            self.cancel_requested.set()
            task.cancel()

    @property
    def headers(self) -> Mapping[str, str]:
        """The request's headers, names in lower case."""
        return self.http.headers

    # The SDK's DispatchContext

    @property
    def transport(self) -> TransportContext:
        return TransportContext(kind="streamable-http", can_send_request=False, headers=self.http.headers)

    @property
    def can_send_request(self) -> bool:
        return False

    @property
    def request_id(self) -> jsonrpc.RequestId | None:
        return self.id

    @property
    def message_metadata(self) -> ServerMessageMetadata:
        return ServerMessageMetadata(related_request_id=self.id, request_context=self, can_send_request=False)

    @property
    def cancel_requested(self) -> anyio.Event:
        if self._cancel_event is None:
            self._cancel_event = anyio.Event()
        return self._cancel_event

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        raise NoBackChannelError(method)

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        return None

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        return None


_slots_by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()


def _slots() -> asyncio.Semaphore:
    loop = asyncio.get_running_loop()
    slots = _slots_by_loop.get(loop)
    if slots is None:
        slots = _slots_by_loop[loop] = asyncio.Semaphore(mcp_settings.MAX_CONCURRENT_CALLS)
    return slots


async def _wait_for_slot(slots: asyncio.Semaphore) -> None:
    try:
        async with asyncio.timeout(mcp_settings.CALL_QUEUE_TIMEOUT):
            await slots.acquire()
    except TimeoutError:
        raise MCPError(
            jsonrpc.SERVER_BUSY, "The server is busy with as many calls as it may run at once. Try again later."
        ) from None
