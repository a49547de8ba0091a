"""What benchmarks and acceptance tests call. Names, arguments and results are a contract."""

from __future__ import annotations

import asyncio
import os
from typing import Annotated, Literal

from django.contrib.auth import get_user_model
from pydantic import BaseModel, Field

from demo_project.everything.models import Visibility
from demo_project.everything.server import everything
from mcp_django import Context

HIDDEN_TOOL = "now_you_see_me"


class SessionInfo(BaseModel):
    session_id: str | None = Field(description="Null for clients of revisions without sessions")
    pid: int
    restored: bool = Field(description="Whether this process restored the session")
    restore_count: int = Field(description="How often this process restored it")
    protocol_version: str
    client_name: str
    user: str | None = Field(description="The user's name, null for anonymous callers")


class Count(BaseModel):
    value: int


class Steps(BaseModel):
    steps: int


class Rows(BaseModel):
    rows: int


class Toggled(BaseModel):
    visible: bool = Field(description=f"Whether {HIDDEN_TOOL} is shown now")


class Seen(BaseModel):
    seen: bool


class Name(BaseModel):
    name: str = Field(min_length=1, max_length=100, description="Your name")


class NameAnswer(BaseModel):
    action: Literal["accept", "decline", "cancel"]
    name: str | None = Field(description="Null unless accepted")


@everything.tool()
async def add(a: int, b: int) -> int:
    """Add two numbers, and do nothing else."""
    return a + b


@everything.tool()
async def session_info(ctx: Context) -> SessionInfo:
    """Who and where: the session, the process that answers, the client and the user."""
    marker = ctx.restored
    return SessionInfo(
        session_id=ctx.session_id if ctx.has_session else None,
        pid=os.getpid(),
        restored=marker is not None,
        restore_count=marker.process_restore_count if marker else 0,
        protocol_version=ctx.protocol_version or "",
        client_name=ctx.client_info.name if ctx.client_info else "",
        user=ctx.user.get_username() or None,
    )


@everything.tool()
async def count(ctx: Context) -> Count:
    """Count the calls of this tool in this session, whichever process they reach."""
    return Count(value=await ctx.state.aincrement("count"))


@everything.tool()
async def slow_progress(
    steps: Annotated[int, Field(ge=1, le=100_000)],
    seconds: Annotated[float, Field(ge=0, le=3_600)],
    ctx: Context,
) -> Steps:
    """Take that many seconds, and report progress after each of the evenly spaced steps."""
    for step in range(1, steps + 1):
        await asyncio.sleep(seconds / steps)
        await ctx.report_progress(step, steps)
    return Steps(steps=steps)


@everything.tool()
async def ask_name(ctx: Context) -> NameAnswer:
    """Ask the user for their name."""
    answer = await ctx.elicit("What is your name?", Name)
    return NameAnswer(action=answer.action, name=answer.data.name if answer.action == "accept" else None)


@everything.tool()
def orm_roundtrip() -> Rows:
    """Do one ORM query in a sync function."""
    return Rows(rows=get_user_model().objects.count())


@everything.tool()
def toggle_tool() -> Toggled:
    """Show the tool now_you_see_me to everybody, or hide it from everybody."""
    visibility, _created = Visibility.objects.get_or_create(tool=HIDDEN_TOOL)
    visible = visibility.toggle()
    everything.notify_tools_changed()
    return Toggled(visible=visible)


def is_visible() -> bool:
    return Visibility.objects.shows(HIDDEN_TOOL)


@everything.tool(HIDDEN_TOOL, enabled=is_visible)
async def now_you_see_me() -> Seen:
    """Say that you see me. toggle_tool hides me."""
    return Seen(seen=True)
