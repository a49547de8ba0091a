"""The fixtures that the official conformance suite expects of a server; names and results are the suite's."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode
from typing import Any

from mcp.server.mcpserver import Audio, Image, UserMessage
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import (
    CompletionArgument,
    EmbeddedResource,
    PromptReference,
    ResourceTemplateReference,
    SamplingMessage,
    TextContent,
    TextResourceContents,
)
from pydantic import BaseModel, Field

from demo_project.everything.server import everything
from mcp_django import Context

PNG = b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==")
WAV = b64decode("UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA=")
PAUSE = 0.05
JSON_SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {
            "$anchor": "addressDef",
            "type": "object",
            "properties": {"street": {"type": "string"}, "city": {"type": "string"}},
        }
    },
    "properties": {
        "name": {"type": "string"},
        "address": {"$ref": "#/$defs/address"},
        "contactMethod": {"type": "string", "enum": ["phone", "email"]},
        "phone": {"type": "string"},
        "email": {"type": "string"},
    },
    "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
    "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
    "then": {"required": ["phone"]},
    "else": {"required": ["email"]},
    "additionalProperties": False,
}


def text(value: str) -> TextContent:
    return TextContent(type="text", text=value)


def embedded(uri: str, mime_type: str, value: str) -> EmbeddedResource:
    return EmbeddedResource(type="resource", resource=TextResourceContents(uri=uri, mime_type=mime_type, text=value))


@everything.tool()
def test_simple_text() -> TextContent:
    """Answer with text."""
    return text("This is a simple text response for testing.")


@everything.tool()
def test_image_content() -> Image:
    """Answer with an image."""
    return Image(data=PNG, format="png")


@everything.tool()
def test_audio_content() -> Audio:
    """Answer with audio."""
    return Audio(data=WAV, format="wav")


@everything.tool()
def test_embedded_resource() -> EmbeddedResource:
    """Answer with an embedded resource."""
    return embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")


@everything.tool()
def test_multiple_content_types() -> list[TextContent | Image | EmbeddedResource]:
    """Answer with text, an image and a resource."""
    return [
        text("Multiple content types test:"),
        Image(data=PNG, format="png"),
        embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}'),
    ]


@everything.tool()
def test_error_handling() -> TextContent:
    """Fail."""
    raise ToolError("This tool intentionally returns an error for testing")


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


@everything.tool(input_schema=JSON_SCHEMA)
def json_schema_2020_12_tool(
    name: str | None = None,
    address: dict[str, str] | None = None,
    contactMethod: str | None = None,
    phone: str | None = None,
    email: str | None = None,
) -> TextContent:
    """Take arguments whose schema uses keywords that no Python signature can say."""
    return text(f"Reach {name or 'them'} at {phone or email}.")


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
async def test_reconnection(ctx: Context) -> TextContent:
    """Close the stream before the answer, so that the client has to come back for it."""
    await ctx.report_progress(0, 1)
    await ctx.close_sse_stream()
    await asyncio.sleep(0.2)
    return text("Reconnection test completed")


@everything.resource("test://static-text", mime_type="text/plain")
def static_text() -> str:
    """A text that never changes."""
    return "This is the content of the static text resource."


@everything.resource("test://static-binary", mime_type="image/png")
def static_binary() -> bytes:
    """An image that never changes."""
    return PNG


@everything.resource("test://template/{id}/data", mime_type="application/json")
def template_data(id: str) -> str:
    """A resource for each id."""
    return json.dumps({"id": id, "templateTest": True, "data": f"Data for ID: {id}"})


@everything.resource("test://watched-resource", mime_type="text/plain")
def watched_resource() -> str:
    """A resource that can be subscribed to."""
    return "Watched resource content."


@everything.prompt()
def test_simple_prompt() -> str:
    """A prompt without arguments."""
    return "This is a simple prompt for testing."


@everything.prompt()
def test_prompt_with_arguments(arg1: str, arg2: str) -> str:
    """A prompt with two required arguments."""
    return f"Prompt with arguments: arg1='{arg1}', arg2='{arg2}'"


@everything.prompt()
def test_prompt_with_embedded_resource(resourceUri: str) -> list[UserMessage]:
    """A prompt that embeds the resource it is given."""
    return [
        UserMessage(embedded(resourceUri, "text/plain", "Embedded resource content for testing.")),
        UserMessage("Please process the embedded resource above."),
    ]


@everything.prompt()
def test_prompt_with_image() -> list[UserMessage]:
    """A prompt that carries an image."""
    return [UserMessage(Image(data=PNG, format="png")), UserMessage("Please analyze the image above.")]


@everything.completion()
def complete(ref: PromptReference | ResourceTemplateReference, argument: CompletionArgument, context: Any) -> list[str]:
    """A few made-up values for the arguments above."""
    values = ["test-one", "test-two", "other"] if argument.name in ("arg1", "arg2") else ["1", "2", "123"]
    return [value for value in values if value.startswith(argument.value)]
