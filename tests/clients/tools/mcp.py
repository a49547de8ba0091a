from __future__ import annotations

from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR

from demo_project.everything.server import everything
from mcp_django import Context


@everything.tool()
async def fail_loudly(ctx: Context) -> str:
    """Report progress, then end with a JSON-RPC error."""
    await ctx.report_progress(1, 2)
    raise MCPError(INTERNAL_ERROR, "This tool always fails.")
