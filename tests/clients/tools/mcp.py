from __future__ import annotations

import asyncio
from typing import Annotated, TypedDict

from mcp.server.mcpserver import Elicit, Resolve
from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR
from pydantic import BaseModel, Field

from demo_project.everything.server import everything
from mcp_django import Context, mcp

WALK_SECONDS = 30

walking: set[str] = set()


class Walking(TypedDict):
    walking: bool


class Title(BaseModel):
    name: str = Field(description="How you are called by strangers")


class Name(BaseModel):
    name: str = Field(description="How you are called by friends")


class Names(TypedDict):
    resolved: str
    elicited: str


@everything.tool()
async def fail_loudly(ctx: Context) -> str:
    """Report progress, then end with a JSON-RPC error."""
    await ctx.report_progress(1, 2)
    raise MCPError(INTERNAL_ERROR, "This tool always fails.")


@everything.tool()
@mcp.tool()
async def walk(party: str, aloud: bool, ctx: Context) -> Walking:
    """Walk until somebody stops it. Who walks aloud says so at once."""
    walking.add(party)
    try:
        if aloud:
            await ctx.report_progress(1)
        await asyncio.sleep(WALK_SECONDS)
    finally:
        walking.discard(party)
    return {"walking": False}


@everything.tool()
@mcp.tool()
async def is_walking(party: str) -> Walking:
    """Whether it walks, in this process."""
    return {"walking": party in walking}


def title_of_user() -> Elicit[Title]:
    return Elicit("What do strangers call you?", Title)


@everything.tool()
async def ask_both_ways(title: Annotated[Title, Resolve(title_of_user)], ctx: Context) -> Names:
    """Ask by a resolver, and then by the context."""
    answer = await ctx.elicit("And what do friends?", Name)
    return {"resolved": title.name, "elicited": answer.data.name if answer.action == "accept" else ""}
