"""Servers that take OAuth tokens."""

from __future__ import annotations

from typing import TypedDict

from mcp_django import Context, MCPServer
from mcp_django.auth import OAuthToolkit, public
from tests.protocol.stage import stage

guarded = MCPServer("protocol-oauth", title="Guarded", authenticators=[OAuthToolkit])
scoped = MCPServer("protocol-oauth-scoped", authenticators=[OAuthToolkit], scopes=["library:read"])
both = MCPServer("protocol-oauth-or-not", authenticators=[OAuthToolkit, public])
open_to_all = MCPServer("protocol-oauth-none", authenticators=[public])


class Caller(TypedDict):
    user: str
    restored: bool


@guarded.tool()
async def whoami(ctx: Context) -> Caller:
    return {"user": ctx.user.get_username(), "restored": ctx.restored is not None}


@guarded.tool()
async def progress(ctx: Context) -> str:
    """Report one step, then wait at the gate, if there is one."""
    await ctx.report_progress(1)
    await stage.visit("progress")
    return "done"


@guarded.tool(scopes=["library:report"])
async def report() -> str:
    return "as you may"


@guarded.tool(permission="library.view_report", scopes=["library:report"])
async def secret_report() -> str:
    return "as few may"


scoped.tool()(whoami)
scoped.tool(scopes=["library:report"])(report)
both.tool()(whoami)
open_to_all.tool()(whoami)
