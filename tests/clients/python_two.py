"""Driver of the official Python client, 2.x."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import httpx2
from mcp import Client
from mcp.client.session import ClientRequestContext, IncomingMessage
from mcp.client.streamable_http import streamable_http_client
from mcp_types import ElicitRequestParams, ElicitResult, Implementation, PromptReference

from tests.clients.lines import Command, serve

SECONDS = 60


class Driver:
    def __init__(self) -> None:
        self.stack = AsyncExitStack()
        self.client: Client | None = None
        self.seen: list[Any] = []

    async def handle(self, command: Command) -> Any:
        match command:
            case {"do": "connect", "url": url, "name": name, "headers": headers}:
                return await self.connect(url, name, headers)
            case {"do": "call", "name": name, "arguments": arguments}:
                seconds = command.get("seconds", SECONDS)
                result = await self.connected.call_tool(name, arguments, seconds, self.progressed)
                return result.model_dump(mode="json", by_alias=True)
            case {"do": "seen"}:
                return self.seen
            case {"do": "read", "uri": uri}:
                return (await self.connected.read_resource(uri)).model_dump(mode="json", by_alias=True)
            case {"do": "prompt", "name": name}:
                return (await self.connected.get_prompt(name)).model_dump(mode="json", by_alias=True)
            case {"do": "list"}:
                return await self.list()
            case {"do": "close"}:
                await self.stack.aclose()
                return None
        raise ValueError(f"Unknown command {command}")

    @property
    def connected(self) -> Client:
        assert self.client is not None, "Send connect first."
        return self.client

    async def connect(self, url: str, name: str, headers: dict[str, str]) -> dict[str, Any]:
        self.seen = []
        http = await self.stack.enter_async_context(httpx2.AsyncClient(headers=headers, timeout=SECONDS))
        transport = streamable_http_client(url, http_client=http)
        info = Implementation(name=name, version="2")
        # "auto" would look for the modern era first; here the handshake and its session are the point.
        client = Client(
            transport,
            mode="legacy",
            client_info=info,
            read_timeout_seconds=SECONDS,
            elicitation_callback=self.asked,
            message_handler=self.noticed,
        )
        self.client = await self.stack.enter_async_context(client)
        return {"protocolVersion": self.client.protocol_version}

    async def progressed(self, progress: float, total: float | None, message: str | None) -> None:
        self.seen.append(["progress", progress])

    async def asked(self, context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        self.seen.append(["asked", params.message])
        return ElicitResult(action="accept", content={"name": "Ada"})

    async def noticed(self, message: IncomingMessage) -> None:
        if not isinstance(message, Exception) and message.method != "notifications/progress":
            self.seen.append([message.method])

    async def list(self) -> dict[str, list[str]]:
        client = self.connected
        completed = await client.complete(
            PromptReference(name="test_prompt_with_arguments"), {"name": "arg1", "value": ""}
        )
        return {
            "tools": [tool.name for tool in (await client.list_tools()).tools],
            "resources": [str(resource.uri) for resource in (await client.list_resources()).resources],
            "templates": [each.uri_template for each in (await client.list_resource_templates()).resource_templates],
            "prompts": [prompt.name for prompt in (await client.list_prompts()).prompts],
            "completions": completed.completion.values,
        }


if __name__ == "__main__":
    asyncio.run(serve(Driver().handle))
