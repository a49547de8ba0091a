"""HTTP requests as both entries hand them on, and the checks that need no session. No ORM.

A refusal is an :class:`HTTPRefusal` that carries the whole response, body included, so that every layer below
the entries can raise it and both entries answer it alike.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Hashable, Iterable
from copy import copy
from typing import TYPE_CHECKING, Any, Final

from django.http import HttpRequest

from mcp_django import jsonrpc
from mcp_django.conf import mcp_settings

if TYPE_CHECKING:
    from mcp_django.connections import Connection

SESSION_HEADER: Final = "mcp-session-id"
VERSION_HEADER: Final = "mcp-protocol-version"

LAST_EVENT_HEADER: Final = "last-event-id"

JSON_HEADERS: Final = [("Content-Type", "application/json")]
# Proxies are not to hold frames back, nor to press them together.
STREAM_HEADERS: Final = [
    ("Content-Type", "text/event-stream"),
    ("Cache-Control", "no-cache, no-transform"),
    ("X-Accel-Buffering", "no"),
]
RETRY_AFTER_SECONDS: Final = 3
MAX_HEADER_BYTES: Final = 64 * 1024

METHODS: Final = ("GET", "POST", "DELETE", "OPTIONS")


class Request:
    """One HTTP request: method, headers with lower-case names, and the body once it is read.

    ``repeated`` holds the names that came more than once: Django joins such headers, and a joined session id or
    version must not pass for one. ``django`` makes Django's request object from the body; most requests never need
    it. ``streams`` says whether the connection can carry an event stream. ``fault`` is a refusal that the entry came
    upon while it read the request; it is raised once it is known whether a browser may read the answer.
    ``disconnect`` tells of the client's going away, where the entry can know. ``peer`` is the address at the other end
    of the connection, empty if it has none. ``target`` is all that the request's URL is made of beside headers, for
    whoever remembers what was made of it; None if that is not known.
    """

    __slots__ = (
        "_django",
        "_made",
        "body",
        "disconnect",
        "fault",
        "header_bytes",
        "headers",
        "method",
        "peer",
        "repeated",
        "streams",
        "target",
    )

    def __init__(
        self,
        method: str,
        raw_headers: Iterable[tuple[bytes, bytes]],
        body: bytes,
        django: Callable[[bytes], HttpRequest],
        *,
        streams: bool = True,
        peer: str = "",
        target: Hashable = None,
    ) -> None:
        self.method = method
        self.target = target
        self.peer = peer
        self.streams = streams
        self.body = body
        self.fault: HTTPRefusal | None = None
        self.disconnect: Disconnect | None = None
        self.headers: dict[str, str] = {}
        self.repeated: set[str] | None = None
        self.header_bytes = 0
        for raw_name, raw_value in raw_headers:
            self.header_bytes += len(raw_name) + len(raw_value)
            # Some servers leave the white space around a value, which is no part of it (RFC 9110, 5.5).
            name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1").strip(" \t")
            if name in self.headers:
                # Lists may come in several lines (RFC 9110, 5.3), cookies with another separator (RFC 6265, 5.4).
                self.repeated = (self.repeated or set()) | {name}
                value = ("; " if name == "cookie" else ", ").join((self.headers[name], value))
            self.headers[name] = value
        self._django = django
        self._made: HttpRequest | None = None

    @property
    def django(self) -> HttpRequest:
        """Django's request object, made at first use and then kept."""
        if self._made is None:
            self._made = self._django(self.body)
        return self._made

    def afresh(self) -> Request:
        """The same request as if it came now: nothing that its making or its user brought to light is kept."""
        other = copy(self)
        other._made = None
        other._django = lambda body: unseen(self._django(body))
        return other

    def single(self, name: str) -> str | None:
        """The value of a header that may come at most once.

        Raises:
            HTTPRefusal: 400, it came twice.
        """
        if self.repeated and name in self.repeated:
            raise refusal(400, jsonrpc.INVALID_REQUEST, f"The header {name} must be sent once, it came more often.")
        return self.headers.get(name)


def unseen(request: HttpRequest) -> HttpRequest:
    """A copy of Django's request without what middleware and authentication have put there."""
    made = copy(request)
    for name in ("session", "user", "auser", "_cached_user", "_acached_user"):
        vars(made).pop(name, None)
    return made


class Disconnect:
    """Notices that the client of one request has gone. It begins to look when somebody wants to know.

    Args:
        gone: returns when that is so.
    """

    __slots__ = ("_callbacks", "_gone", "_task")

    def __init__(self, gone: Callable[[], Coroutine[Any, Any, None]]) -> None:
        self._gone = gone
        self._callbacks: list[Callable[[], None]] = []
        self._task: asyncio.Task[None] | None = None

    def call(self, callback: Callable[[], None]) -> None:
        """Call this when the client has gone."""
        self._callbacks.append(callback)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._look())

    def stop(self) -> None:
        """The request is over."""
        if self._task is not None:
            self._task.cancel()
            # A cancelled task holds on to the frames that it was in, and so to this.
            self._task = None
        self._callbacks.clear()

    async def _look(self) -> None:
        await self._gone()
        for callback in self._callbacks:
            callback()


class Response:
    """One HTTP response: in one piece, or ``frames`` of an event stream as they come.

    ``connection`` is what the frames come from, where that can be ended from outside.
    """

    __slots__ = ("body", "connection", "frames", "headers", "status")

    def __init__(
        self,
        status: int,
        body: bytes = b"",
        headers: list[tuple[str, str]] | None = None,
        frames: AsyncGenerator[bytes, None] | None = None,
        connection: Connection | None = None,
    ) -> None:
        self.status = status
        self.body = body
        self.headers = headers if headers is not None else []
        self.frames = frames
        self.connection = connection


class HTTPRefusal(Exception):
    """A request is answered with an HTTP error; ``response`` is the whole answer."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status, response.body)
        self.response = response


def json_response(value: Any, status: int = 200) -> Response:
    """``value`` as an ``application/json`` response."""
    return Response(status, jsonrpc.encode(value), JSON_HEADERS.copy())


def refusal(status: int, code: int, text: str, *, data: Any = None, **headers: str) -> HTTPRefusal:
    """An HTTP error with a JSON-RPC error in its body (``id`` null: the request was not looked into)."""
    response = json_response(jsonrpc.error(None, code, text, data), status)
    response.headers += [(name.replace("_", "-"), value) for name, value in headers.items()]
    return HTTPRefusal(response)


def session_not_found() -> HTTPRefusal:
    """The one answer for an id that is unknown, ended, expired, of somebody else or of another server.

    404 tells the client to start anew (Streamable HTTP, session management); nothing in it tells which it was.
    """
    return refusal(
        404,
        jsonrpc.SESSION_NOT_FOUND,
        "Session not found: it is unknown or has ended. Send a new initialize request without Mcp-Session-Id.",
    )


def unavailable() -> HTTPRefusal:
    """503: whether the session lives is not known right now. Never 404, which would make the client drop it."""
    return refusal(
        503,
        jsonrpc.INTERNAL_ERROR,
        "The session store is not available at the moment. The session is kept; try again.",
        Retry_After=str(RETRY_AFTER_SECONDS),
    )


def too_large() -> HTTPRefusal:
    """413, with the setting's name for whoever runs the server."""
    return refusal(
        413,
        jsonrpc.INVALID_REQUEST,
        f"The body is larger than {mcp_settings.MAX_BODY_BYTES} bytes (MCP_DJANGO_MAX_BODY_BYTES).",
    )


def check_header_size(request: Request) -> None:
    """Some servers limit headers and some do not; this endpoint does under each.

    Raises:
        HTTPRefusal: 431.
    """
    if request.header_bytes > MAX_HEADER_BYTES:
        raise refusal(431, jsonrpc.INVALID_REQUEST, f"The headers are larger than {MAX_HEADER_BYTES} bytes.")


def check_declared_length(value: str | None) -> None:
    """Refuse a body by its Content-Length before a byte of it is read.

    Raises:
        HTTPRefusal: 413, or 400 for a length that is no number.
    """
    if value is None:
        return
    if not value.isascii() or not value.isdigit():
        raise refusal(400, jsonrpc.INVALID_REQUEST, "Content-Length is not a number.")
    if len(value) > 15 or int(value) > mcp_settings.MAX_BODY_BYTES:
        raise too_large()


def stream_response(connection: Connection) -> Response:
    """An event stream."""
    return Response(200, headers=STREAM_HEADERS.copy(), frames=connection.frames(), connection=connection)


def too_many_streams(scope: str) -> HTTPRefusal:
    """429 for a session, 503 for a process that has as many connections on streams as it may."""
    if scope == "session":
        return refusal(
            429,
            jsonrpc.SERVER_BUSY,
            f"The session has {mcp_settings.MAX_SESSION_STREAMS} streams open, which is as many as it may "
            "(MCP_DJANGO_MAX_SESSION_STREAMS). Close one first.",
            Retry_After=str(RETRY_AFTER_SECONDS),
        )
    return refusal(
        503,
        jsonrpc.SERVER_BUSY,
        "This server process has as many streams open as it may (MCP_DJANGO_MAX_STREAMS). Try again.",
        Retry_After=str(RETRY_AFTER_SECONDS),
    )
