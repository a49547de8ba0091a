"""Where in the URLconf MCP servers are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.conf import settings
from django.urls import Resolver404, ResolverMatch, URLPattern, URLResolver, get_resolver, resolve

from mcp_django.server import MCPServer, autodiscover


def last_segment(path: str) -> str:
    """The last segment of a path, a trailing slash aside."""
    return path.rstrip("/").rpartition("/")[2]


def mcp_routes(resolver: URLResolver, prefix: str = "") -> Iterator[tuple[str, MCPServer]]:
    """The routes in a URLconf that lead to a server's own view, as written, with the server."""
    for pattern in resolver.url_patterns:
        route = prefix + str(pattern.pattern)
        if isinstance(pattern, URLResolver):
            yield from mcp_routes(pattern, route)
        elif isinstance(pattern, URLPattern):
            server = server_of(pattern.callback)
            if server is not None:
                yield route, server


def served() -> list[MCPServer]:
    """The servers that the project has URLs for."""
    if not getattr(settings, "ROOT_URLCONF", None):
        return []
    autodiscover()
    return list(dict.fromkeys(server for _route, server in mcp_routes(get_resolver())))


def server_of(view: Any) -> MCPServer | None:
    """The server whose view this is. A decorated view is none: its decorator would be passed over."""
    server = getattr(view, "mcp_server", None)
    return server if isinstance(server, MCPServer) and server.view is view else None


def match_of(path_info: str) -> ResolverMatch | None:
    """What the URLconf has at a path."""
    try:
        return resolve(path_info)
    except Resolver404:
        return None
