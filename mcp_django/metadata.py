"""Protected resource metadata (RFC 9728): where clients read which authorization servers they can get tokens from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from django.http import HttpRequest, HttpResponse
from django.urls import get_resolver
from django.views.decorators.csrf import csrf_exempt

from mcp_django import http, jsonrpc, origins
from mcp_django.auth.credentials import metadata_of, resource_url
from mcp_django.http import HTTPRefusal, Response, json_response, refusal
from mcp_django.routes import match_of, mcp_routes
from mcp_django.server import MCPServer, mcp
from mcp_django.views import raw_headers

ALLOWED: Final = "GET, HEAD, OPTIONS"
# Long enough for a client that looks more than once while it connects, short enough for a deployment that changes them.
CACHE_CONTROL: Final = "public, max-age=300"
PATTERN: Final = frozenset("<([*?+|^$\\")


@csrf_exempt
def resource_metadata(request: HttpRequest, endpoint: str = "") -> HttpResponse:
    """The view, for ``/.well-known/oauth-protected-resource`` with an endpoint's path after it, and without one.

    Open to everybody: whoever reads it has no token yet. It says nothing but which scopes there are.
    """
    asked = http.Request(request.method or "", raw_headers(request), b"", lambda body: request)
    origin: str | None = None
    try:
        origin = origins.check_host_and_origin(asked)
        response = answer(request, endpoint.strip("/"))
    except HTTPRefusal as error:
        response = error.response
    if origin is None:
        # A cache must not give this to a browser page: it does not let that one read it.
        response.headers.append(("Vary", "Origin"))
    else:
        origins.add_cors(response, origin)
    answered = HttpResponse(response.body, status=response.status, headers=dict(response.headers))
    if not response.body:
        del answered["Content-Type"]
    return answered


# As Django's login_not_required: a redirect to a login page helps no client.
resource_metadata.login_required = False  # type: ignore[attr-defined]


def answer(request: HttpRequest, place: str) -> Response:
    """The response to one request.

    Args:
        place: the endpoint's path within the project, without slashes at its ends; empty if none is named.

    Raises:
        HTTPRefusal: 404, there is no MCP server, or it has no metadata; 405.
    """
    if request.method == "OPTIONS":
        return Response(
            204,
            headers=[
                ("Allow", ALLOWED),
                ("Access-Control-Allow-Methods", ALLOWED),
                ("Access-Control-Allow-Headers", origins.CORS_REQUEST_HEADERS),
                ("Access-Control-Max-Age", "3600"),
            ],
        )
    if request.method not in ("GET", "HEAD"):
        raise refusal(405, jsonrpc.INVALID_REQUEST, "Metadata are read with GET.", Allow=ALLOWED)
    for found, server in places() if not place else [(place, server_at(place))]:
        if server is not None and (said := metadata_of(server, request)) is not None:
            response = json_response(document(server, resource_url(request, found), said))
            response.headers.append(("Cache-Control", CACHE_CONTROL))
            return response
    raise refusal(404, jsonrpc.INVALID_REQUEST, "There is no protected MCP server with metadata at this path.")


def document(server: MCPServer, resource: str, said: dict[str, Any]) -> dict[str, Any]:
    """The metadata of an endpoint (RFC 9728, section 2).

    Args:
        resource: its URL.
        said: what its authenticators say.
    """
    scopes = sorted(server.all_scopes.union(said.get("scopes_supported", ())))
    return {
        "resource": resource,
        **said,
        **({"scopes_supported": scopes} if scopes else {}),
        "bearer_methods_supported": ["header"],
        "resource_name": server.title or server.identity["name"],
    }


def server_at(place: str) -> MCPServer | None:
    """The server whose endpoint is at a path within the project, with or without a slash at its end."""
    for path in (f"/{place}", f"/{place}/"):
        match = match_of(path)
        # One with a guard of the project's around it has metadata all the same.
        server = getattr(match.func, "mcp_server", None) if match is not None else None
        if isinstance(server, MCPServer):
            return server
    return None


def places() -> Iterator[tuple[str, MCPServer]]:
    """The endpoints whose path is no pattern, the default server's first, then in the order of the URLconf."""
    routes = [(route.strip("/"), server) for route, server in mcp_routes(get_resolver()) if not PATTERN & set(route)]
    return iter(sorted(routes, key=lambda route: route[1] is not mcp))
