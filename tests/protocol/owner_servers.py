"""Two servers with the same tools, which give their callers one of everything that belongs to somebody."""

from __future__ import annotations

from typing import TypedDict

from pydantic import BaseModel

from mcp_django import Context, Handle, MCPServer
from mcp_django.auth import OAuthToolkit, public
from mcp_django.tokens import BearerTokens

one = MCPServer("owners-one", authenticators=[OAuthToolkit, BearerTokens, public])
two = MCPServer("owners-two", authenticators=[OAuthToolkit, BearerTokens, public])


class Note(Handle):
    """A note; write makes one."""


class Name(BaseModel):
    name: str


class Caller(TypedDict):
    user: str
    restored: bool


async def whoami(ctx: Context) -> Caller:
    """Who calls, and whether this process has restored the session."""
    return {"user": ctx.user.get_username(), "restored": ctx.restored is not None}


async def walk(ctx: Context, text: str) -> str:
    """Take two steps, so that there are events before the last."""
    await ctx.report_progress(1, 2)
    await ctx.report_progress(2, 2)
    return text


async def write(text: str) -> Note:
    """Write a note."""
    return await Note.acreate({"text": text})


async def read(note: Note) -> str:
    """Read a note."""
    return str(await note.state.aget("text"))


async def ask(ctx: Context, text: str) -> str:
    """Ask for a name before the text is told."""
    answer = await ctx.elicit("What is your name?", Name)
    return text if answer.action == "accept" else answer.action


for server in (one, two):
    for each in (whoami, walk, write, read, ask):
        server.tool()(each)
