"""Where the demo's endpoints are, and what to put into a client to connect to them."""

from __future__ import annotations

import json
from typing import NamedTuple


class Endpoint(NamedTuple):
    name: str
    url: str
    description: str


class Configuration(NamedTuple):
    client: str
    text: str


def endpoints(base_url: str) -> list[Endpoint]:
    """The MCP endpoints under ``base_url`` (no slash at its end)."""
    return [
        Endpoint("library", f"{base_url}/mcp", "a small public library: search, borrow, return, import"),
        Endpoint("everything", f"{base_url}/everything/mcp", "every protocol feature once"),
    ]


def configurations(base_url: str) -> list[Configuration]:
    """Ready to paste."""
    servers = {endpoint.name: {"type": "http", "url": endpoint.url} for endpoint in endpoints(base_url)}
    return [
        Configuration(
            "Claude Code",
            "\n".join(f"claude mcp add --transport http {name} {server['url']}" for name, server in servers.items()),
        ),
        Configuration("VS Code (.vscode/mcp.json)", json.dumps({"servers": servers}, indent=2)),
        Configuration("Most others (mcp.json)", json.dumps({"mcpServers": servers}, indent=2)),
    ]
