"""What goes over the wire: the one call that everything here measures, in both eras of the protocol."""

from __future__ import annotations

import json
from typing import Any

LEGACY_VERSION = "2025-11-25"
MODERN_VERSION = "2026-07-28"

_COMMON_HEADERS = {
    "Content-Type": "application/json",
    "Accept": "application/json, text/event-stream",
}

INITIALIZE = json.dumps(
    {
        "jsonrpc": "2.0",
        "id": 0,
        "method": "initialize",
        "params": {
            "protocolVersion": LEGACY_VERSION,
            "capabilities": {"roots": {"listChanged": True}, "sampling": {}, "elicitation": {}},
            "clientInfo": {"name": "benchmark", "title": "Benchmark", "version": "1.0"},
        },
    }
)
INITIALIZED = json.dumps({"jsonrpc": "2.0", "method": "notifications/initialized"})


def _call_template(meta: dict[str, Any] | None) -> str:
    params: dict[str, Any] = {"name": "add", "arguments": {"a": "NUMBER", "b": 1}}
    if meta is not None:
        params["_meta"] = meta
    call = {"jsonrpc": "2.0", "id": "NUMBER", "method": "tools/call", "params": params}
    return json.dumps(call).replace('"NUMBER"', "%d")


# Formatted with the same number twice, by Python's ``%`` or Lua's ``string.format``: call number n asks for
# n + 1, so that every answer can be checked by itself, whichever connection it came in on.
LEGACY_CALL = _call_template(None)
MODERN_CALL = _call_template(
    {
        "io.modelcontextprotocol/protocolVersion": MODERN_VERSION,
        "io.modelcontextprotocol/clientInfo": {"name": "benchmark", "title": "Benchmark", "version": "1.0"},
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
    }
)


def opening_headers() -> dict[str, str]:
    return dict(_COMMON_HEADERS)


def legacy_headers(session_id: str) -> dict[str, str]:
    return _COMMON_HEADERS | {"Mcp-Session-Id": session_id, "MCP-Protocol-Version": LEGACY_VERSION}


def modern_headers() -> dict[str, str]:
    return _COMMON_HEADERS | {
        "MCP-Protocol-Version": MODERN_VERSION,
        "Mcp-Method": "tools/call",
        "Mcp-Name": "add",
    }
