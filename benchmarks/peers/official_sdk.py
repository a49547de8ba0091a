"""The official SDK's own Streamable HTTP application, sessions in the memory of its process."""

from __future__ import annotations

from mcp.server.mcpserver import MCPServer
from pydantic import BaseModel
from starlette.applications import Starlette


class Sum(BaseModel):
    result: int


async def add(a: int, b: int) -> Sum:
    return Sum(result=a + b)


def _application(*, json_response: bool) -> Starlette:
    # The SDK logs every session it opens at INFO: at WARNING it is as quiet as the others.
    server = MCPServer("benchmark", log_level="WARNING")
    server.tool()(add)
    return server.streamable_http_app(json_response=json_response)


def as_it_comes() -> Starlette:
    return _application(json_response=False)


def with_json_responses() -> Starlette:
    return _application(json_response=True)
