"""Durable MCP servers inside Django: sessions live in the database and go on in any process.

Names are imported at first use: the MCP SDK takes half a second that a management command need not spend.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mcp_django.auth import AuthenticationFailed, Authenticator, Principal
    from mcp_django.context import Context
    from mcp_django.handlers import Handler, RestoreMarker, prompt, resource, tool
    from mcp_django.handles import Handle
    from mcp_django.model_resources import resource_updates
    from mcp_django.server import MCPServer, mcp

__all__ = [
    "AuthenticationFailed",
    "Authenticator",
    "Context",
    "Handle",
    "Handler",
    "MCPServer",
    "Principal",
    "RestoreMarker",
    "mcp",
    "prompt",
    "resource",
    "resource_updates",
    "tool",
]

_HOMES = {
    "AuthenticationFailed": "mcp_django.auth",
    "Authenticator": "mcp_django.auth",
    "Context": "mcp_django.context",
    "Handle": "mcp_django.handles",
    "Handler": "mcp_django.handlers",
    "MCPServer": "mcp_django.server",
    "Principal": "mcp_django.auth",
    "RestoreMarker": "mcp_django.handlers",
    "mcp": "mcp_django.server",
    "prompt": "mcp_django.handlers",
    "resource": "mcp_django.handlers",
    "resource_updates": "mcp_django.model_resources",
    "tool": "mcp_django.handlers",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
