"""One running call: the SDK's dispatch context over one HTTP exchange, in a task of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

import anyio
from mcp.shared.dispatcher import CallOptions
from mcp.shared.exceptions import MCPError
from mcp.shared.message import ServerMessageMetadata
from mcp.shared.transport_context import TransportContext

from mcp_django import jsonrpc, limits, threads
from mcp_django.auth import Principal
from mcp_django.cursors import NOTICES
from mcp_django.exceptions import ClientCannot, NoSession
from mcp_django.http import Request
from mcp_django.running import current_call
from mcp_django.slots import taken

if TYPE_CHECKING:
    from mcp_types import ClientCapabilities, Implementation, InitializeRequestParams, InputRequiredResult

    from mcp_django.context import Context
    from mcp_django.handlers import Handler
    from mcp_django.live import LiveSession

ResultT = TypeVar("ResultT")

LOG_LEVELS: Final = ("debug", "info", "notice", "warning", "error", "critical", "alert", "emergency")  # RFC 5424
CHANGES: Final = frozenset(NOTICES.values())


class Peer(Protocol):
    """What is known of the client that sent a call: by its handshake, or by the envelope of the request itself."""

    @property
    def protocol_version(self) -> str: ...

    @property
    def client_params(self) -> InitializeRequestParams | None: ...

    @property
    def client_info(self) -> Implementation | None: ...

    @property
    def capabilities(self) -> ClientCapabilities: ...

    @property
    def log_level(self) -> str | None:
        """The least level of log messages that it wants; empty for all, None for none."""

    @property
    def initialized(self) -> bool: ...


class Channel(Protocol):
    """What a request is answered by, and what leads back to its sender meanwhile."""

    @property
    def streams_allowed(self) -> bool: ...

    @property
    def calls(self) -> set[Any]:
        """Where the running calls of its kind are noted."""

    async def send(self, message: dict[str, Any]) -> None: ...

    async def settle(self, place: int, answer: dict[str, Any]) -> None: ...

    async def close_connections(self) -> None: ...


class Call:
    """One message being handled: whose it is, and the channel back to its sender.

    This is the SDK's ``DispatchContext`` and the ``Outbound`` of its connection. Hooks have no channel: what they send
    is dropped, and they cannot ask.

    Args:
        server: the name of the server. peer: what is known of the client.
        place: which of the channel's requests it answers.
    """

    __slots__ = (
        "_cancel_event",
        "_place",
        "_progress_token",
        "_settled",
        "_task",
        "cancelled",
        "channel",
        "http",
        "id",
        "method",
        "over",
        "peer",
        "principal",
        "reason",
        "server",
    )

    def __init__(
        self,
        server: str,
        peer: Peer,
        principal: Principal,
        http: Request,
        request: jsonrpc.Request | None,
        channel: Channel | None,
        place: int = 0,
    ) -> None:
        self.server = server
        self.peer = peer
        self.principal = principal
        self.http = http
        self.id = request.id if request is not None else None
        self.method = request.method if request is not None else ""
        self.channel = channel
        self.cancelled = False
        self.over = False
        self.reason = "Request cancelled"
        self._place = place
        meta = request.params.get("_meta") if request is not None and request.params is not None else None
        self._progress_token = meta.get("progressToken") if isinstance(meta, dict) else None
        self._cancel_event: anyio.Event | None = None
        self._settled: asyncio.Event | None = None
        self._task: asyncio.Task[Any] | None = None

    @property
    def session(self) -> LiveSession:
        """The session that the call belongs to.

        Raises:
            NoSession: the client speaks a revision without sessions.
        """
        raise NoSession

    @property
    def session_id(self) -> str | None:
        """The ``Mcp-Session-Id``, if the call belongs to a session."""
        return None

    async def conduct(self, context: Context, run: Callable[[], Awaitable[ResultT]]) -> ResultT | InputRequiredResult:
        """Run a handler, and have the client asked what it asks, in the way of the client's revision.

        Raises:
            ClientCannot: the client cannot be asked this; nothing was sent.
        """
        raise NotImplementedError(f"{type(self).__name__} must define conduct().")

    def handler(self, handler_class: type[Handler]) -> Handler:
        """The instance of a handler class that serves this call."""
        raise NotImplementedError(f"{type(self).__name__} must define handler().")

    def start(self, make: Callable[[], Coroutine[Any, Any, dict[str, Any]]]) -> None:
        """Run the call in a task of its own, at most ``MCP_DJANGO_MAX_CONCURRENT_CALLS`` at a time, and settle its
        exchange with what comes of it."""
        self._task = threads.start(lambda: self._run(make))

    async def _run(self, make: Callable[[], Coroutine[Any, Any, dict[str, Any]]]) -> None:
        assert self.channel is not None
        assert self.id is not None
        current_call.set(self)
        self._began()
        try:
            answer = await self._answer(self.id, make)
            if not self.over:
                self.over = True
                await self.channel.settle(self._place, answer)
                self._note_settled()
        finally:
            self._ended()
            # The task's context holds the call: without this, every call would be left to the garbage collector,
            # whose full runs stop the loop.
            self._task = None

    def _began(self) -> None:
        assert self.channel is not None
        self.channel.calls.add(self)

    def _ended(self) -> None:
        assert self.channel is not None
        self.channel.calls.discard(self)

    async def _answer(
        self, id: jsonrpc.RequestId, make: Callable[[], Coroutine[Any, Any, dict[str, Any]]]
    ) -> dict[str, Any]:
        try:
            self._check_limits()
            slots = await taken()
            try:
                return jsonrpc.result(id, await make())
            finally:
                slots.release()
        except MCPError as error:
            return jsonrpc.error(id, error.code, error.message, error.data)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self.cancelled or task is None:
                raise
            # The cancelling has come to its end here; the answer is still to be written.
            task.uncancel()
            return jsonrpc.error(id, jsonrpc.REQUEST_CANCELLED, self.reason)

    def _check_limits(self) -> None:
        """See that its caller may make one more call.

        Raises:
            MCPError: it may not.
        """
        limits.check_call(self.principal, self.http, self.method)

    def cancel(self, reason: str = "Request cancelled") -> None:
        """Stop the call at its next await; one that has ended is left alone. From any thread."""
        task = self._task
        if task is not None and not task.done():
            # Under WSGI the cancelling request runs in another thread's loop, which must not touch this one's.
            task.get_loop().call_soon_threadsafe(self._cancel, task, reason)

    def _cancel(self, task: asyncio.Task[Any], reason: str) -> None:
        if not (self.over or self.cancelled or task.done()):
            self.cancelled = True
            self.reason = reason
            self.cancel_requested.set()
            task.cancel()

    def give_up(self, reason: str) -> None:
        """Answer with an error now, whatever the call is busy with, and stop it if it can be stopped. From any
        thread."""
        task = self._task
        if task is not None and not task.done():
            task.get_loop().call_soon_threadsafe(self._give_up, reason)

    def _give_up(self, reason: str) -> None:
        if self.over or self.channel is None or self.id is None:
            return
        self.over = True
        self.cancelled = True
        if self._task is not None:
            self._task.cancel()
        error = jsonrpc.error(self.id, jsonrpc.CALL_LOST, reason)
        channel, place = self.channel, self._place

        async def settle() -> None:
            await channel.settle(place, error)
            self._note_settled()

        threads.start(settle)

    @property
    def settled(self) -> asyncio.Event:
        """Set once the answer is written."""
        if self._settled is None:
            self._settled = asyncio.Event()
        return self._settled

    def _note_settled(self) -> None:
        # Nobody asks but at shutdown.
        if self._settled is not None:
            self._settled.set()

    @property
    def headers(self) -> Mapping[str, str]:
        """The request's headers, names in lower case."""
        return self.http.headers

    async def close_connection(self) -> None:
        """Close the connection on which the client waits; it comes back for the rest. Clients of other revisions than
        2025-11-25 would not, so for them this does nothing."""
        if self._has_channel:
            assert self.channel is not None
            await self.channel.close_connections()

    @property
    def _has_channel(self) -> bool:
        return self.channel is not None and not self.over

    # The SDK's DispatchContext

    @property
    def transport(self) -> TransportContext:
        return TransportContext(
            kind="streamable-http", can_send_request=self.can_send_request, headers=self.http.headers
        )

    @property
    def can_send_request(self) -> bool:
        return self._has_channel and self.channel is not None and self.channel.streams_allowed

    @property
    def request_id(self) -> jsonrpc.RequestId | None:
        return self.id

    @property
    def message_metadata(self) -> ServerMessageMetadata:
        return ServerMessageMetadata(
            related_request_id=self.id,
            request_context=self,
            close_sse_stream=self.close_connection,
            can_send_request=self.can_send_request,
        )

    @property
    def cancel_requested(self) -> anyio.Event:
        if self._cancel_event is None:
            self._cancel_event = anyio.Event()
        return self._cancel_event

    async def send_raw_request(
        self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None
    ) -> dict[str, Any]:
        """Ask the client and wait for its answer.

        Raises:
            ClientCannot: it cannot be asked this; nothing was sent.
            MCPError: it answered with an error, or not in time.
        """
        if not self._has_channel:
            raise ClientCannot(
                "Nothing can be asked here: the request is over, or it is a hook, which has no client that waits."
            )
        return await self._ask(method, params or {}, (opts or {}).get("timeout"))

    async def _ask(self, method: str, params: Mapping[str, Any], seconds: float | None) -> dict[str, Any]:
        raise NotImplementedError(f"{type(self).__name__} must define _ask().")

    async def notify(self, method: str, params: Mapping[str, Any] | None, opts: CallOptions | None = None) -> None:
        if not self._has_channel or not self._wanted(method, params):
            return
        message = jsonrpc.notification(method, params)
        if method in CHANGES:
            await self._tell_of_change(message)
        else:
            assert self.channel is not None
            await self.channel.send(message)

    async def _tell_of_change(self, message: dict[str, Any]) -> None:
        """What changes is no concern of one call: a stream carries it that lives longer."""

    async def progress(self, progress: float, total: float | None = None, message: str | None = None) -> None:
        if self._progress_token is None:
            return
        params = {"progressToken": self._progress_token, "progress": progress, "total": total, "message": message}
        await self.notify("notifications/progress", {key: value for key, value in params.items() if value is not None})

    def _wanted(self, method: str, params: Mapping[str, Any] | None) -> bool:
        """Whether a message is none of a log level that the client does not want (server/utilities/logging)."""
        least = self.peer.log_level
        level = (params or {}).get("level")
        if method != "notifications/message" or level not in LOG_LEVELS or least == "":
            return True
        return least in LOG_LEVELS and LOG_LEVELS.index(level) >= LOG_LEVELS.index(least)
