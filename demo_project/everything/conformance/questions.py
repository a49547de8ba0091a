"""Tools that ask in the midst of their run: a request for clients of 2025, a round for those of 2026-07-28."""

from __future__ import annotations

from typing import Any

from mcp_types import SamplingMessage, TextContent
from pydantic import BaseModel, Field

from demo_project.everything.conformance.contents import text
from demo_project.everything.server import everything
from mcp_django import Context
from mcp_django.exceptions import ClientCannot


@everything.tool()
async def test_sampling(prompt: str, ctx: Context) -> TextContent:
    """Let the client's model answer a prompt."""
    answer = await ctx.session.create_message(
        [SamplingMessage(role="user", content=text(prompt))],
        max_tokens=100,
        related_request_id=ctx.request_id,
    )
    said = answer.content.text if isinstance(answer.content, TextContent) else f"({answer.content.type})"
    return text(f"LLM response: {said}")


class Account(BaseModel):
    username: str = Field(description="User's name")
    email: str = Field(description="User's email address")


class Defaults(BaseModel):
    """Every primitive type with a default (SEP-1034)."""

    name: str = "John Doe"
    age: int = 30
    score: float = 95.5
    status: str = Field("active", json_schema_extra={"enum": ["active", "inactive", "pending"]})
    verified: bool = True


OPTIONS = ["option1", "option2", "option3"]
TITLED: list[Any] = [
    {"const": "value1", "title": "First Option"},
    {"const": "value2", "title": "Second Option"},
    {"const": "value3", "title": "Third Option"},
]


class Choices(BaseModel):
    """Every way to write an enum (SEP-1330)."""

    untitledSingle: str = Field(json_schema_extra={"enum": [*OPTIONS]})
    titledSingle: str = Field(json_schema_extra={"oneOf": TITLED})
    legacyEnum: str = Field(
        json_schema_extra={
            "enum": ["opt1", "opt2", "opt3"],
            "enumNames": ["Option One", "Option Two", "Option Three"],
        }
    )
    untitledMulti: list[str] = Field(json_schema_extra={"items": {"type": "string", "enum": [*OPTIONS]}})
    titledMulti: list[str] = Field(json_schema_extra={"items": {"anyOf": TITLED}})


async def ask(ctx: Context, message: str, form: type[BaseModel]) -> TextContent:
    answer = await ctx.elicit(message, form)
    content = answer.data.model_dump_json() if answer.action == "accept" else "{}"
    return text(f"User response: action={answer.action}, content={content}")


@everything.tool()
async def test_elicitation(message: str, ctx: Context) -> TextContent:
    """Ask the user for two required values."""
    return await ask(ctx, message, Account)


@everything.tool()
async def test_elicitation_sep1034_defaults(ctx: Context) -> TextContent:
    """Ask the user, with a default for each primitive type."""
    return await ask(ctx, "Please review your profile", Defaults)


@everything.tool()
async def test_elicitation_sep1330_enums(ctx: Context) -> TextContent:
    """Ask the user to choose, with each way to write an enum."""
    return await ask(ctx, "Please choose", Choices)


@everything.tool()
async def test_streaming_elicitation(ctx: Context) -> TextContent:
    """Ask the user for two required values, having said so ahead of it."""
    await ctx.report_progress(0, 1, "The user is asked")
    return await ask(ctx, "Who are you?", Account)


@everything.tool()
async def test_missing_capability(ctx: Context) -> TextContent:
    """Work for clients that lend their model, and refuse all others."""
    capabilities = ctx.client_capabilities
    if capabilities is None or capabilities.sampling is None:
        raise ClientCannot("This tool needs a client that declares the capability `sampling`.", {"sampling": {}})
    return text("This client lends its model.")
