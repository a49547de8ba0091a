"""What goes over the wire: the calls that are measured, in both eras of the protocol."""

from __future__ import annotations

import json
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Call:
    """A call as it is sent, and how its answer is to be checked.

    Args:
        name: by which the load generator knows how to check answers (``load.lua``).
        legacy, modern: the message, formatted with the same number twice, by Python's ``%`` or Lua's
            ``string.format``. Every answer can be checked by itself, whichever connection it came in on.
    """

    name: str
    legacy: str
    modern: str = ""


def _template(name: str, arguments: dict[str, Any], meta: dict[str, Any] | None = None) -> str:
    """A call in which ``NUMBER`` is to become its number, twice: the request id, and another."""
    params: dict[str, Any] = {"name": name, "arguments": arguments}
    if meta is not None:
        params["_meta"] = meta
    call = {"jsonrpc": "2.0", "id": "NUMBER", "method": "tools/call", "params": params}
    return json.dumps(call).replace('"NUMBER"', "%d")


# Call number n asks for n + 1.
ADD = Call(
    "add",
    legacy=_template("add", {"a": "NUMBER", "b": 1}),
    modern=_template(
        "add",
        {"a": "NUMBER", "b": 1},
        {
            "io.modelcontextprotocol/protocolVersion": MODERN_VERSION,
            "io.modelcontextprotocol/clientInfo": {"name": "benchmark", "title": "Benchmark", "version": "1.0"},
            "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
        },
    ),
)
# Call number n asks for three progress events with the token n.
PROGRESS = Call("progress", legacy=_template("slow_progress", {"steps": 3, "seconds": 0}, {"progressToken": "NUMBER"}))


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


def authorization(token: str | None) -> dict[str, str]:
    """The header of a client that does not come anonymously."""
    return {} if token is None else {"Authorization": f"Bearer {token}"}
