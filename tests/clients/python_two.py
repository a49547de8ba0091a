"""Driver of the official Python client, 2.x."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any, Literal

import httpx2
from mcp import Client
from mcp.client.session import ClientRequestContext, IncomingMessage
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import Subscription
from mcp.shared.subscriptions import event_to_notification
from mcp_types import (
    CallToolResult,
    ElicitRequestParams,
    ElicitResult,
    Implementation,
    PromptReference,
    ResourceUpdatedNotification,
    ServerNotification,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from tests.clients.lines import Command, arguments_of, serve

SECONDS = 60
MODES: dict[str, Literal["legacy", "auto", "2026-07-28"]] = {
    "legacy": "legacy",
    "auto": "auto",
    "modern": "2026-07-28",
}


class Driver:
    def __init__(self) -> None:
        self.stack = AsyncExitStack()
        self.client: Client | None = None
        self.seen: list[Any] = []
        self.content: dict[str, Any] = {}
        self.call: asyncio.Task[Any] | None = None
        self.hearing: asyncio.Task[None] | None = None

    async def handle(self, command: Command) -> Any:
        match command:
            case {"do": "connect"}:
                return await self.connect(**arguments_of(command))
            case {"do": "negotiated"}:
                return self.connected.protocol_version
            case {"do": "call"}:
                return (await self.call_tool(**arguments_of(command))).model_dump(mode="json", by_alias=True)
            case {"do": "begin"}:
                self.call = asyncio.create_task(self.call_tool(**arguments_of(command)))
                return None
            case {"do": "give_up"}:
                return await self.give_up()
            case {"do": "seen"}:
                return self.seen
            case {"do": "listen"}:
                return await self.listen(**arguments_of(command))
            case {"do": "read", "uri": uri}:
                return (await self.connected.read_resource(uri)).model_dump(mode="json", by_alias=True)
            case {"do": "prompt", "name": name}:
                prompt = await self.connected.get_prompt(name, command.get("arguments"))
                return prompt.model_dump(mode="json", by_alias=True)
            case {"do": "complete", "prompt": prompt, "argument": argument, "value": value}:
                ref = PromptReference(name=prompt)
                return (await self.connected.complete(ref, {"name": argument, "value": value})).completion.values
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

    async def connect(
        self,
        url: str,
        name: str,
        headers: dict[str, str],
        mode: str = "legacy",
        content: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        self.seen, self.content, self.hearing = [], content or {"name": "Ada"}, None
        http = await self.stack.enter_async_context(httpx2.AsyncClient(headers=headers, timeout=SECONDS))
        client = Client(
            streamable_http_client(url, http_client=http),
            mode=MODES[mode],
            client_info=Implementation(name=name, version="2"),
            read_timeout_seconds=SECONDS,
            elicitation_callback=self.asked,
            message_handler=self.noticed,
        )
        self.client = await self.stack.enter_async_context(client)
        return {"protocolVersion": self.client.protocol_version}

    async def call_tool(self, name: str, arguments: dict[str, Any], seconds: float = SECONDS) -> CallToolResult:
        return await self.connected.call_tool(name, arguments, seconds, self.progressed)

    async def give_up(self) -> str:
        """Cancel what `begin` began; the client tells the server."""
        assert self.call is not None, "Send begin first."
        self.call.cancel()
        try:
            return f"It ended with {await self.call}"
        except asyncio.CancelledError:
            return "given up"

    async def listen(self, *, tools: bool, uris: list[str]) -> None:
        """Ask for notices, in the way of the era: a session has its GET stream, which needs no asking."""
        client = self.connected
        if client.protocol_version in MODERN_PROTOCOL_VERSIONS:
            listening = client.listen(tools_list_changed=tools, resource_subscriptions=uris)
            self.hearing = asyncio.create_task(self.hear(await self.stack.enter_async_context(listening)))
            return
        for uri in uris:
            await client.subscribe_resource(uri)

    async def hear(self, subscription: Subscription) -> None:
        async for event in subscription:
            self.take(event_to_notification(event, {}))

    async def progressed(self, progress: float, total: float | None, message: str | None) -> None:
        self.seen.append(["progress", progress])

    async def asked(self, context: ClientRequestContext, params: ElicitRequestParams) -> ElicitResult:
        self.seen.append(["asked", params.message])
        return ElicitResult(action="accept", content=self.content)

    async def noticed(self, message: IncomingMessage) -> None:
        # What comes over a subscription is heard by whoever reads that.
        if not isinstance(message, Exception) and self.hearing is None and message.method != "notifications/progress":
            self.take(message)

    def take(self, notification: ServerNotification) -> None:
        uri = [notification.params.uri] if isinstance(notification, ResourceUpdatedNotification) else []
        self.seen.append([notification.method, *uri])

    async def list(self) -> dict[str, list[str]]:
        client = self.connected
        return {
            "tools": [tool.name for tool in (await client.list_tools()).tools],
            "resources": [str(resource.uri) for resource in (await client.list_resources()).resources],
            "templates": [each.uri_template for each in (await client.list_resource_templates()).resource_templates],
            "prompts": [prompt.name for prompt in (await client.list_prompts()).prompts],
        }


if __name__ == "__main__":
    asyncio.run(serve(Driver().handle))
