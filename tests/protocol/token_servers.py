"""Servers whose callers come with bearer tokens of the project's own, and their URLconf."""

from __future__ import annotations

from typing import TypedDict

from django.urls import include, path

from mcp_django import Context, MCPServer
from mcp_django.auth import public
from mcp_django.tokens import BearerTokens
from tests.protocol.servers import Bearer
from tests.protocol.stage import stage

closed = MCPServer("tokens", authenticators=[BearerTokens])
second = MCPServer("tokens-second", authenticators=["mcp_django.tokens.BearerTokens"])
open_to_all = MCPServer("tokens-open", authenticators=[BearerTokens, public])
mixed = MCPServer("tokens-mixed", authenticators=[BearerTokens, Bearer()])


class Caller(TypedDict):
    user: str
    email: str


async def whoami(ctx: Context) -> Caller:
    """Who calls, by the row that came with the token: the ORM would refuse to work here."""
    return {"user": ctx.user.get_username(), "email": getattr(ctx.user, "email", "")}


async def walk(ctx: Context, place: str) -> Caller:
    """Take a step, stop at a gate of the test's, and take another."""
    await ctx.report_progress(1, 2)
    await stage.visit(place)
    await ctx.report_progress(2, 2)
    return await whoami(ctx)


for server in (closed, second, open_to_all, mixed):
    server.tool()(whoami)
    server.tool()(walk)


@closed.tool(scopes=["books:write"])
async def write_book() -> int:
    """For tokens with a scope, or without any limit."""
    return 1


@closed.tool(permission="auth.view_group")
async def see_groups() -> int:
    """For users with a permission."""
    return 1


urlpatterns = [
    path("tokens/", include(closed.urls)),
    path("tokens-second/", include(second.urls)),
    path("tokens-open/", include(open_to_all.urls)),
    path("tokens-mixed/", include(mixed.urls)),
]
