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
from mcp.shared.exceptions import McpError
from mcp.types import (
    CancelledNotification,
    CancelledNotificationParams,
    ClientNotification,
    ElicitResult,
    Implementation,
    PromptReference,
    ResourceUpdatedNotification,
    ServerNotification,
)
from pydantic import AnyUrl

from tests.clients.lines import Command, arguments_of, serve

SECONDS = 60


class Driver:
    def __init__(self) -> None:
        self.stack = AsyncExitStack()
        self.session: Any = None
        self.seen: list[Any] = []
        self.content: dict[str, Any] = {}
        self.call: Any = None
        self.call_id = 0
        self.version: Any = None

    async def handle(self, command: Command) -> Any:
        match command:
            case {"do": "connect"}:
                return await self.connect(**arguments_of(command))
            case {"do": "negotiated"}:
                return self.version
            case {"do": "call"}:
                return (await self.call_tool(**arguments_of(command))).model_dump(mode="json", by_alias=True)
            case {"do": "begin"}:
                self.call_id = self.session._request_id
                self.call = asyncio.create_task(self.call_tool(**arguments_of(command)))
                return None
            case {"do": "give_up"}:
                return await self.give_up()
            case {"do": "seen"}:
                return self.seen
            case {"do": "listen", "uris": uris}:
                for uri in uris:
                    await self.session.subscribe_resource(AnyUrl(uri))
                return None
            case {"do": "read", "uri": uri}:
                return (await self.session.read_resource(AnyUrl(uri))).model_dump(mode="json", by_alias=True)
            case {"do": "prompt", "name": name}:
                prompt = await self.session.get_prompt(name, command.get("arguments"))
                return prompt.model_dump(mode="json", by_alias=True)
            case {"do": "complete", "prompt": prompt, "argument": argument, "value": value}:
                ref = PromptReference(type="ref/prompt", name=prompt)
                return (await self.session.complete(ref, {"name": argument, "value": value})).completion.values
            case {"do": "list"}:
                return await self.list()
            case {"do": "close"}:
                await self.stack.aclose()
                return None
        raise ValueError(f"Unknown command {command}")

    async def connect(self, url, name, headers, mode="legacy", content=None) -> dict[str, Any]:
        assert mode == "legacy", "This release knows no other era."
        self.seen, self.content = [], content or {"name": "Ada"}
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
        self.version = (await self.session.initialize()).protocolVersion
        return {"protocolVersion": self.version}

    async def call_tool(self, name: str, arguments: dict[str, Any], seconds: float = SECONDS) -> Any:
        return await self.session.call_tool(name, arguments, timedelta(seconds=seconds), self.progressed)

    async def give_up(self) -> str:
        """Cancel what `begin` began. This release stops waiting and tells nobody, so that is up to its user."""
        cancelled = CancelledNotification(params=CancelledNotificationParams(requestId=self.call_id))
        await self.session.send_notification(ClientNotification(cancelled))
        try:
            return f"It ended with {await self.call}"
        except McpError as error:
            return str(error)

    async def progressed(self, progress: float, total: float | None, message: str | None) -> None:
        self.seen.append(["progress", progress])

    async def asked(self, context: Any, params: Any) -> ElicitResult:
        self.seen.append(["asked", params.message])
        return ElicitResult(action="accept", content=self.content)

    async def noticed(self, message: Any) -> None:
        if isinstance(message, ServerNotification) and message.root.method != "notifications/progress":
            uri = [str(message.root.params.uri)] if isinstance(message.root, ResourceUpdatedNotification) else []
            self.seen.append([message.root.method, *uri])

    async def list(self) -> dict[str, list[str]]:
        session = self.session
        return {
            "tools": [tool.name for tool in (await session.list_tools()).tools],
            "resources": [str(resource.uri) for resource in (await session.list_resources()).resources],
            "templates": [each.uriTemplate for each in (await session.list_resource_templates()).resourceTemplates],
            "prompts": [prompt.name for prompt in (await session.list_prompts()).prompts],
        }


if __name__ == "__main__":
    asyncio.run(serve(Driver().handle))
