"""The native entry: URLs that lead to an MCP server are served here, everything else is Django.

Django's own handler takes a thread and about a millisecond for every request; this entry takes neither. In return
no middleware of the project runs for MCP requests. Which URLs are MCP servers is read from the URLconf, so they
have one home whichever entry serves them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from io import BytesIO
from typing import TYPE_CHECKING, Any

from django.core.handlers.asgi import ASGIRequest
from django.core.handlers.asgi import get_script_prefix as script_prefix_of
from django.core.signals import setting_changed
from django.urls import get_resolver, set_script_prefix

from mcp_django import conf, http, shutdown
from mcp_django.conf import mcp_settings
from mcp_django.endpoint import respond
from mcp_django.http import Disconnect
from mcp_django.routes import last_segment, match_of, mcp_routes, server_of
from mcp_django.server import MCPServer
from mcp_django.sse import Last
from mcp_django.store import session_store

if TYPE_CHECKING:
    from mcp_django.asgi import Receive, Scope, Send

logger = logging.getLogger("django.request")

MAX_ROUTES = 1024


class MCPApplication:
    """Serves MCP endpoints itself and hands everything else to ``django``."""

    runs_middleware = False

    def __init__(self, django: Any) -> None:
        # Servers are started without manage.py's checks; a misspelt setting is to be noticed all the same.
        conf.verify()
        self.django = django
        self._routes: dict[tuple[str, str], MCPServer] = {}
        self._last_segments: frozenset[str] | None = None
        self._any_segment = False
        setting_changed.connect(self._forget, weak=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            server = self.server_at(scope)
            if server is not None:
                await serve(server, scope, receive, send)
                return
        elif scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        await self.django(scope, receive, send)

    def server_at(self, scope: Scope) -> MCPServer | None:
        """The server that the URLconf has at a request's path, or None.

        Hits are remembered. For others the last path segment is compared first, so that ordinary pages do not pay
        for a second ``resolve()``.
        """
        key = (scope["path"], scope.get("root_path", ""))
        server = self._routes.get(key)
        if server is not None:
            return server
        if self._last_segments is None:
            self._read_urlconf()
            assert self._last_segments is not None
        if not self._any_segment and last_segment(scope["path"]) not in self._last_segments:
            return None
        match = django_request(scope).resolver_match
        server = server_of(match.func) if match is not None else None
        if server is not None and len(self._routes) < MAX_ROUTES:
            self._routes[key] = server
        return server

    def _read_urlconf(self) -> None:
        segments = {last_segment(route) for route, _server in mcp_routes(get_resolver())}
        self._any_segment = any(set(segment) & set("<([*?+|^$\\") for segment in segments)
        self._last_segments = frozenset(segments)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send(self._start())
            elif message["type"] == "lifespan.shutdown":
                await shutdown.farewell()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def _start(self) -> dict[str, Any]:
        """Warm up, so that the first request need not wait for the URLconf and the SDK; and fail early."""
        try:
            self._read_urlconf()
            for _route, server in mcp_routes(get_resolver()):
                server.kernel  # noqa: B018 - built at first access
            session_store()
        except Exception as error:
            logger.exception("MCP servers cannot be started")
            return {"type": "lifespan.startup.failed", "message": str(error)}
        return {"type": "lifespan.startup.complete"}

    def _forget(self, *, setting: str, **kwargs: Any) -> None:
        if setting == "ROOT_URLCONF":
            self._routes.clear()
            self._last_segments = None


async def serve(server: MCPServer, scope: Scope, receive: Receive, send: Send) -> None:
    """Read a request, let the endpoint answer it, send the answer."""
    request = await read(scope, receive)
    if request is None:
        return
    disconnect = request.disconnect = Disconnect(lambda: disconnected(receive))
    response = await respond(server, request)
    if response.status >= 400:
        log(response.status, scope)
    headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in response.headers]
    if response.frames is None:
        headers.append((b"content-length", str(len(response.body)).encode()))
    try:
        await send({"type": "http.response.start", "status": response.status, "headers": headers})
        if response.frames is None:
            await send({"type": "http.response.body", "body": response.body})
        else:
            await send_frames(response.frames, disconnect, send)
    finally:
        disconnect.stop()


async def send_frames(frames: AsyncGenerator[bytes, None], disconnect: Disconnect, send: Send) -> None:
    """Send an event stream until it ends or its reader goes away."""
    sending = asyncio.current_task()
    assert sending is not None
    gone = False

    def end() -> None:
        nonlocal gone
        gone = True
        sending.cancel()

    disconnect.call(end)
    more = True
    try:
        async with aclosing(frames):
            async for frame in frames:
                more = not isinstance(frame, Last)
                await send({"type": "http.response.body", "body": frame, "more_body": more})
        if more:
            await send({"type": "http.response.body", "body": b""})
    except asyncio.CancelledError:
        # Cancelled by the server, too: then it is to hear of it.
        if not gone or sending.uncancel():
            raise


async def read(scope: Scope, receive: Receive) -> http.Request | None:
    """The whole request; None if its sender went away before its end. A body that is too large is not read on."""
    if prefix := script_prefix_of(scope):
        set_script_prefix(prefix)
    request = http.Request(
        scope["method"],
        scope["headers"],
        b"",
        lambda body: django_request(scope, body),
        peer=peer_of(scope),
        target=target_of(scope),
    )
    chunks: list[bytes] = []
    try:
        http.check_declared_length(request.headers.get("content-length"))
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > mcp_settings.MAX_BODY_BYTES:
                raise http.too_large()
            more = message.get("more_body", False)
    except http.HTTPRefusal as refusal:
        request.fault = refusal
    else:
        request.body = chunks[0] if len(chunks) == 1 else b"".join(chunks)
    return request


def peer_of(scope: Scope) -> str:
    """The address at the other end; a Unix socket has none."""
    client = scope.get("client")
    return str(client[0] or "") if client else ""


def target_of(scope: Scope) -> tuple[Any, ...]:
    """All that the request's URL is made of beside headers."""
    return scope["path"], scope.get("root_path"), scope.get("scheme"), tuple(scope.get("server") or ())


async def disconnected(receive: Receive) -> None:
    """Return when the client has gone; everything else that it may send after its request is passed over."""
    while (await receive())["type"] != "http.disconnect":
        pass


def django_request(scope: Scope, body: bytes = b"") -> ASGIRequest:
    """Django's request object. MCP URLs have no query, and one in broken UTF-8 would make Django refuse it here."""
    query = scope.get("query_string", b"").decode("utf-8", "replace").encode()
    request = ASGIRequest({**scope, "query_string": query}, BytesIO(body))
    request.resolver_match = match_of(request.path_info)
    return request


def log(status: int, scope: Scope) -> None:
    """Log a refused request as Django does; the path has no secrets in it, headers are not logged."""
    level = logging.ERROR if status >= 500 else logging.WARNING
    logger.log(level, "MCP %s: %s %s", status, scope["method"], scope["path"], extra={"status_code": status})
