"""Tools that answer with each kind of content, resources, prompts and completions."""

from __future__ import annotations

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
    TextContent,
    TextResourceContents,
)

from demo_project.everything.server import everything

PNG = b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8DwHwAFBQIAX8jx0gAAAABJRU5ErkJggg==")
WAV = b64decode("UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAA=")
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
