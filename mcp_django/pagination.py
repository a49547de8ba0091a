"""Long lists in pages (server/utilities/pagination). The SDK answers with the whole list; this cuts it."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from mcp.shared.exceptions import MCPError

from mcp_django import jsonrpc
from mcp_django.conf import mcp_settings

LISTS = {
    "tools/list": "tools",
    "prompts/list": "prompts",
    "resources/list": "resources",
    "resources/templates/list": "resourceTemplates",
}


def page(result: dict[str, Any], key: str, params: Mapping[str, Any] | None) -> dict[str, Any]:
    """One page of a list's result, ``MCP_DJANGO_PAGE_SIZE`` long (server/utilities/pagination).

    Raises:
        MCPError: -32602, the cursor is not ours or points behind the end.
    """
    start = position(params)
    end = start + mcp_settings.PAGE_SIZE
    items = result[key]
    if start and start >= len(items):
        raise MCPError(jsonrpc.INVALID_PARAMS, "Invalid cursor: the list has become shorter. Start again without one.")
    if end < len(items):
        result["nextCursor"] = base64.urlsafe_b64encode(f"at:{end}".encode()).decode()
    result[key] = items[start:end]
    return result


def position(params: Mapping[str, Any] | None) -> int:
    """Where a list request's cursor points; 0 without one.

    Raises:
        MCPError: -32602, it is no cursor of ours.
    """
    cursor = (params or {}).get("cursor")
    if cursor is None:
        return 0
    try:
        text = base64.b64decode(str(cursor).encode("ascii"), altchars=b"-_", validate=True).decode("ascii")
        prefix, _, number = text.partition(":")
        if prefix == "at" and number.isdigit() and len(number) < 10:
            return int(number)
    except (ValueError, binascii.Error):
        pass
    raise MCPError(jsonrpc.INVALID_PARAMS, "Invalid cursor: send back a nextCursor as it came, or none.")
