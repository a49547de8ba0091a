"""A client of 2026-07-28: every request says all about itself, and nothing is left of it afterwards."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mcp_types import (
    CLIENT_CAPABILITIES_META_KEY,
    CLIENT_INFO_META_KEY,
    PROTOCOL_VERSION_META_KEY,
)

from tests.protocol.client import Client, EventStream, Exchange, Headers, Response

MODERN = "2026-07-28"
ASKABLE: dict[str, Any] = {"elicitation": {"form": {}, "url": {}}, "sampling": {"tools": {}}, "roots": {}}
NAMED = {"tools/call": "name", "prompts/get": "name", "resources/read": "uri"}


class Stateless:
    """Sends requests of the stateless era by way of a client.

    Args:
        capabilities: what it declares with every request.
    """

    def __init__(self, client: Client, capabilities: Mapping[str, Any] | None = None) -> None:
        self.client = client
        self.capabilities: Mapping[str, Any] = {} if capabilities is None else capabilities

    def message(self, method: str, params: Mapping[str, Any] | None = None, **meta: Any) -> dict[str, Any]:
        """A request with its envelope; ``meta`` are more of its keys, with underscores for slashes."""
        envelope = {
            PROTOCOL_VERSION_META_KEY: MODERN,
            CLIENT_INFO_META_KEY: {"name": "a stateless client", "version": "1.0"},
            CLIENT_CAPABILITIES_META_KEY: self.capabilities,
        }
        return self.client.message(method, {**(params or {}), "_meta": {**envelope, **meta}})

    def headers(self, message: Any, headers: Headers | None = None) -> Headers:
        """The headers that go with a message, and what this request has on top."""
        made: dict[str, Any] = {"MCP-Protocol-Version": MODERN, "Mcp-Method": message["method"]}
        key = NAMED.get(message["method"])
        name = (message.get("params") or {}).get(key) if key else None
        if isinstance(name, str):
            made["Mcp-Name"] = name
        return made | dict(headers or {})

    def begin(self, message: Any, headers: Headers | None = None, *, slow: bool = False) -> Exchange:
        """Post a message, and do not wait for the response."""
        return self.client.begin(message, headers=self.headers(message, headers), slow=slow)

    async def post(self, message: Any, headers: Headers | None = None) -> Response:
        return await self.begin(message, headers).response()

    async def request(self, method: str, params: Mapping[str, Any] | None = None, **meta: Any) -> Response:
        return await self.post(self.message(method, params, **meta))

    def tool(self, name: str, arguments: Mapping[str, Any] | None = None, **more: Any) -> dict[str, Any]:
        """The message that calls a tool; ``more`` are its other params, such as answers."""
        return self.message("tools/call", {"name": name, "arguments": dict(arguments or {}), **more})

    async def call_tool(self, name: str, arguments: Mapping[str, Any] | None = None, **more: Any) -> Any:
        """A tool's whole result, be it an error, or what is wanted of the client."""
        return (await self.post(self.tool(name, arguments, **more))).result

    async def call(self, name: str, **arguments: Any) -> Any:
        """A tool's structured output."""
        result = await self.call_tool(name, arguments)
        assert not result.get("isError"), result
        assert result["resultType"] == "complete", result
        return result["structuredContent"]

    async def again(
        self, message: Mapping[str, Any], result: Mapping[str, Any], answers: Mapping[str, Any]
    ) -> Response:
        """Send a request once more, with the answers to what its result asks and the state that came with it."""
        params = {**message["params"], "inputResponses": dict(answers)}
        params.pop("requestState", None)
        if "requestState" in result:
            params["requestState"] = result["requestState"]
        return await self.post({**message, "id": next(self.client.ids), "params": params})

    async def stream(self, message: Any) -> EventStream:
        """The event stream that a message is answered with."""
        return await self.begin(message).stream()

    async def listen(self, **notifications: Any) -> EventStream:
        """A stream of notices."""
        return await self.stream(self.message("subscriptions/listen", {"notifications": notifications}))


def with_progress(message: dict[str, Any], token: Any = "progress") -> dict[str, Any]:
    """A request whose sender wants to hear of its progress."""
    params = message["params"]
    return {**message, "params": {**params, "_meta": {**params["_meta"], "progressToken": token}}}
