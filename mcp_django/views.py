"""The Django view of a server's endpoint: for projects that want their middleware around it, and for WSGI."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Protocol, cast

from django.core.handlers.asgi import ASGIRequest
from django.db.transaction import non_atomic_requests
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.urls import URLPattern, path

from mcp_django import http
from mcp_django.conf import mcp_settings
from mcp_django.endpoint import respond

if TYPE_CHECKING:
    from django.http.response import HttpResponseBase

    from mcp_django.server import MCPServer


class View(Protocol):
    """An endpoint's view, as the URLconf holds it."""

    mcp_server: MCPServer
    csrf_exempt: bool
    login_required: bool

    def __call__(self, request: HttpRequest) -> Awaitable[HttpResponseBase]: ...


def view_of(server: MCPServer) -> View:
    """The async view that serves ``server``."""

    async def mcp_endpoint(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        # What the URL captured is in request.resolver_match, for handlers that want it.
        response = await respond(server, adapted(request))
        if response.frames is not None:
            # The encoding keeps GZipMiddleware away, which would press each frame and wrap the stream twice.
            headers = {**dict(response.headers), "Content-Encoding": "identity"}
            return EventStream(response.frames, status=response.status, headers=headers)
        answer = HttpResponse(response.body, status=response.status, headers=dict(response.headers))
        if not response.body:
            del answer["Content-Type"]
        return answer

    # ATOMIC_REQUESTS would refuse an async view.
    view = cast(View, non_atomic_requests(mcp_endpoint))
    view.mcp_server = server
    # A CSRF token is no part of the protocol; foreign origins are refused by the endpoint itself.
    view.csrf_exempt = True
    # Who may come in is the server's to say, and a redirect to a login page helps no client.
    view.login_required = False
    return view


class EventStream(StreamingHttpResponse):
    """A response whose frames end with it: Django closes only its own wrapper when the reader goes away."""

    def __init__(self, frames: AsyncGenerator[bytes, None], **kwargs: Any) -> None:
        super().__init__(frames, **kwargs)
        self._frames = frames

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async with aclosing(self._frames):
            async for frame in super().__aiter__():
                yield frame


def patterns_of(server: MCPServer) -> list[URLPattern]:
    """The endpoint with and without trailing slash: APPEND_SLASH cannot redirect a POST."""
    view = cast("Callable[..., HttpResponseBase]", server.view)
    return [path("mcp", view, name=f"mcp-{server.name}"), path("mcp/", view)]


def adapted(request: HttpRequest) -> http.Request:
    """Django's request as the endpoint takes it."""
    streams = isinstance(request, ASGIRequest)
    adapted = http.Request(
        request.method or "",
        raw_headers(request),
        b"",
        lambda body: request,
        streams=streams,
        peer=request.META.get("REMOTE_ADDR") or "",
    )
    try:
        http.check_declared_length(request.META.get("CONTENT_LENGTH") or None)
        adapted.body = body_of(request)
    except http.HTTPRefusal as refusal:
        adapted.fault = refusal
    return adapted


def raw_headers(request: HttpRequest) -> Iterable[tuple[bytes, bytes]]:
    """The headers as they came: Django joins repeated ones, the ASGI scope still has them apart."""
    if isinstance(request, ASGIRequest):
        return cast(Iterable[tuple[bytes, bytes]], request.scope["headers"])
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in request.headers.items()]


def body_of(request: HttpRequest) -> bytes:
    """The body, up to our own limit: ``request.body`` has another, meant for forms.

    Raises:
        HTTPRefusal: 413.
    """
    if not hasattr(request, "_body"):
        body = request.read(mcp_settings.MAX_BODY_BYTES + 1)
        if len(body) > mcp_settings.MAX_BODY_BYTES:
            raise http.too_large()
        # For whoever asks ctx.request.body later.
        request._body = body
    if len(request.body) > mcp_settings.MAX_BODY_BYTES:
        raise http.too_large()
    return request.body
