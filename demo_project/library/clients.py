"""Where the demo's endpoints are, and what to put into a client to connect to them."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from django.conf import settings

TOKEN = "TOKEN"


class Endpoint(NamedTuple):
    name: str
    url: str
    description: str
    is_open: bool = True
    """Whether anonymous clients may come in."""

    @property
    def headers(self) -> dict[str, str]:
        """What a client has to send beside the usual, with a token in place of the word."""
        return {} if self.is_open else {"Authorization": f"Bearer {TOKEN}"}


class Configuration(NamedTuple):
    client: str
    text: str


def endpoints(base_url: str) -> list[Endpoint]:
    """The MCP endpoints under ``base_url`` (no slash at its end)."""
    ways = "a token, or a login" if not settings.OAUTH else "a token, a login, or the URL alone for clients with OAuth"
    return [
        Endpoint("library", f"{base_url}/mcp", "a small public library: search, borrow, return, import"),
        Endpoint("everything", f"{base_url}/everything/mcp", "every protocol feature once"),
        Endpoint("members", f"{base_url}/members/mcp", f"closed to anonymous clients: {ways}", is_open=False),
    ]


def configurations(base_url: str) -> list[Configuration]:
    """Ready to paste, but for the token."""
    servers = {endpoint.name: server_of(endpoint) for endpoint in endpoints(base_url)}
    return [
        Configuration("Claude Code", "\n".join(command_of(endpoint) for endpoint in endpoints(base_url))),
        Configuration("VS Code (.vscode/mcp.json)", json.dumps({"servers": servers}, indent=2)),
        Configuration("Most others (mcp.json)", json.dumps({"mcpServers": servers}, indent=2)),
    ]


def server_of(endpoint: Endpoint) -> dict[str, Any]:
    """An endpoint as most clients have it in their files."""
    server: dict[str, Any] = {"type": "http", "url": endpoint.url}
    return server | {"headers": endpoint.headers} if endpoint.headers else server


def command_of(endpoint: Endpoint) -> str:
    """An endpoint as Claude Code is told of it."""
    headers = "".join(f' --header "{name}: {value}"' for name, value in endpoint.headers.items())
    return f"claude mcp add --transport http {endpoint.name} {endpoint.url}{headers}"
