# mypy: ignore-errors
"""Driver of the official Python client, 1.x.

It runs in an environment of its own, hence no type checks against the 2.x that is installed beside the tests.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any

import httpx
from mcp import ClientSession
from mcp.client.streamable_http import streamable_http_client
from mcp.types import ElicitResult, Implementation, PromptReference, ServerNotification
from pydantic import AnyUrl

from tests.clients.lines import Command, serve

SECONDS = 60


class Driver:
    def __init__(self) -> None:
        self.stack = AsyncExitStack()
        self.session: Any = None
        self.seen: list[Any] = []

    async def handle(self, command: Command) -> Any:
        match command:
            case {"do": "connect", "url": url, "name": name, "headers": headers}:
                return await self.connect(url, name, headers)
            case {"do": "call", "name": name, "arguments": arguments}:
                seconds = command.get("seconds", SECONDS)
                result = await self.session.call_tool(name, arguments, timedelta(seconds=seconds), self.progressed)
                return result.model_dump(mode="json", by_alias=True)
            case {"do": "seen"}:
                return self.seen
            case {"do": "read", "uri": uri}:
                return (await self.session.read_resource(AnyUrl(uri))).model_dump(mode="json", by_alias=True)
            case {"do": "prompt", "name": name}:
                return (await self.session.get_prompt(name)).model_dump(mode="json", by_alias=True)
            case {"do": "list"}:
                return await self.list()
            case {"do": "close"}:
                await self.stack.aclose()
                return None
        raise ValueError(f"Unknown command {command}")

    async def connect(self, url: str, name: str, headers: dict[str, str]) -> dict[str, Any]:
        self.seen = []
        http = await self.stack.enter_async_context(httpx.AsyncClient(headers=headers, timeout=SECONDS))
        reader, writer, _ = await self.stack.enter_async_context(streamable_http_client(url, http_client=http))
        session = ClientSession(
            reader,
            writer,
            read_timeout_seconds=timedelta(seconds=SECONDS),
            client_info=Implementation(name=name, version="1"),
            elicitation_callback=self.asked,
            message_handler=self.noticed,
        )
        self.session = await self.stack.enter_async_context(session)
        return {"protocolVersion": (await self.session.initialize()).protocolVersion}

    async def progressed(self, progress: float, total: float | None, message: str | None) -> None:
        self.seen.append(["progress", progress])

    async def asked(self, context: Any, params: Any) -> ElicitResult:
        self.seen.append(["asked", params.message])
        return ElicitResult(action="accept", content={"name": "Ada"})

    async def noticed(self, message: Any) -> None:
        if isinstance(message, ServerNotification) and message.root.method != "notifications/progress":
            self.seen.append([message.root.method])

    async def list(self) -> dict[str, list[str]]:
        session = self.session
        completed = await session.complete(
            PromptReference(type="ref/prompt", name="test_prompt_with_arguments"),
            {"name": "arg1", "value": ""},
        )
        return {
            "tools": [tool.name for tool in (await session.list_tools()).tools],
            "resources": [str(resource.uri) for resource in (await session.list_resources()).resources],
            "templates": [each.uriTemplate for each in (await session.list_resource_templates()).resourceTemplates],
            "prompts": [prompt.name for prompt in (await session.list_prompts()).prompts],
            "completions": completed.completion.values,
        }


if __name__ == "__main__":
    asyncio.run(serve(Driver().handle))
