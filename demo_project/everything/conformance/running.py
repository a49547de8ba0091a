"""Tools that say something while they run, or change what others hear of."""

from __future__ import annotations

import asyncio
from typing import Annotated

from mcp_types import TextContent
from pydantic import Field

from demo_project.everything.conformance.contents import text
from demo_project.everything.server import everything
from mcp_django import Context

PAUSE = 0.05


@everything.tool()
async def test_tool_with_progress(ctx: Context) -> TextContent:
    """Report progress three times."""
    for progress in (0, 50, 100):
        await ctx.report_progress(progress, 100, f"Completed step {progress} of 100")
        await asyncio.sleep(PAUSE)
    meta = ctx.request_context.meta or {}
    return text(f"Progress token: {meta.get('progress_token')}")


@everything.tool()
async def test_tool_with_logging(ctx: Context) -> TextContent:
    """Log three times."""
    for message in ("Tool execution started", "Tool processing data", "Tool execution completed"):
        await ctx.info(message)
        await asyncio.sleep(PAUSE)
    return text("Logged three messages.")


@everything.tool()
async def test_logging_tool(ctx: Context) -> TextContent:
    """Log once; a client of 2026-07-28 hears of it only if the request asks for a log level."""
    await ctx.info("The tool runs")
    return text("Logged one message.")


@everything.tool()
async def test_reconnection(ctx: Context) -> TextContent:
    """Close the stream before the answer, so that the client has to come back for it."""
    await ctx.report_progress(0, 1)
    await ctx.close_sse_stream()
    await asyncio.sleep(0.2)
    return text("Reconnection test completed")


@everything.tool()
async def test_trigger_tool_change(ctx: Context) -> TextContent:
    """Tell everybody who listens that the tool list changed."""
    await ctx.notify_tools_changed()
    return text("The tool list changed.")


@everything.tool()
async def test_trigger_prompt_change(ctx: Context) -> TextContent:
    """Tell everybody who listens that the prompt list changed."""
    await ctx.notify_prompts_changed()
    return text("The prompt list changed.")


@everything.tool("test_x_mcp_header")
def mirrored_argument(
    region: Annotated[str, Field(description="A name", json_schema_extra={"x-mcp-header": "Region"})] = "",
) -> TextContent:
    """Take an argument that clients of 2026-07-28 mirror in the header Mcp-Param-Region."""
    return text(f"region={region}")
