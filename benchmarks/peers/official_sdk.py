"""The official SDK's own Streamable HTTP application, sessions in the memory of its process."""

from __future__ import annotations

import asyncio

from mcp.server.mcpserver import Context, MCPServer
from pydantic import BaseModel
from starlette.applications import Starlette

from benchmarks.peers.event_store import InMemoryEventStore


class Sum(BaseModel):
    result: int


class Steps(BaseModel):
    steps: int


async def add(a: int, b: int) -> Sum:
    return Sum(result=a + b)


async def slow_progress(steps: int, seconds: float, ctx: Context) -> Steps:
    for step in range(1, steps + 1):
        await asyncio.sleep(seconds / steps)
        await ctx.report_progress(step, steps)
    return Steps(steps=steps)


def _server() -> MCPServer:
    # The SDK logs every session it opens at INFO: at WARNING it is as quiet as the others.
    server = MCPServer("benchmark", log_level="WARNING")
    server.tool()(add)
    server.tool()(slow_progress)
    return server


def as_it_comes() -> Starlette:
    return _server().streamable_http_app()


def with_json_responses() -> Starlette:
    return _server().streamable_http_app(json_response=True)


def with_event_store() -> Starlette:
    return _server().streamable_http_app(event_store=InMemoryEventStore())
