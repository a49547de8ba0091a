"""An MCP client of a few lines over httpx: what it sends and gets is in plain sight."""

from __future__ import annotations

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.live.servers import Server

T = TypeVar("T")
EVERYTHING = "/everything/mcp"
LIVE = "/live/mcp"
ACCEPT = "application/json, text/event-stream"


class RPCError(Exception):
    """A JSON-RPC error that came with HTTP 200."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error.get('code')}: {error.get('message')}")
        self.code = error.get("code")


class Client:
    """One session; `at()` carries it to another server that shares the database."""

    def __init__(
        self,
        server: Server,
        *,
        path: str = EVERYTHING,
        version: str = "2025-11-25",
        token: str | None = None,
        name: str = "live-tests",
    ) -> None:
        self.server = server
        self.path = path
        self.version = version
        self.token = token
        self.name = name
        self.session_id: str | None = None
        self.ids = itertools.count(1)
        if token:
            server.secrets.add(token)

    def headers(self) -> dict[str, str]:
        headers = {"Accept": ACCEPT}
        if self.session_id:
            headers |= {"Mcp-Session-Id": self.session_id, "MCP-Protocol-Version": self.version}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        return headers

    def send(self, http_method: str, body: object = None) -> httpx.Response:
        return self.server.http.request(
            http_method, self.path, headers=self.headers(), json=body if http_method == "POST" else None
        )

    def message(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        message: dict[str, Any] = {"jsonrpc": "2.0", "id": next(self.ids), "method": method}
        return message | ({"params": params} if params is not None else {})

    def handshake(self) -> httpx.Response:
        """Send `initialize` alone and return the response, whatever it is."""
        info = {"name": self.name, "version": "1.0"}
        params = {"protocolVersion": self.version, "capabilities": {}, "clientInfo": info}
        response = self.send("POST", self.message("initialize", params))
        if given := response.headers.get("mcp-session-id"):
            self.server.secrets.add(given)
        return response

    def initialize(self) -> Client:
        response = self.handshake()
        assert response.status_code == 200, (response.status_code, response.text)
        self.session_id = response.headers["mcp-session-id"]
        self.version = result_of(response)["protocolVersion"]
        assert self.notify("notifications/initialized").status_code == 202
        return self

    def notify(self, method: str) -> httpx.Response:
        return self.send("POST", {"jsonrpc": "2.0", "method": method})

    def post(self, method: str, params: dict[str, Any] | None = None) -> httpx.Response:
        return self.send("POST", self.message(method, params))

    def request(self, method: str, params: dict[str, Any] | None = None) -> Any:
        response = self.post(method, params)
        assert response.status_code == 200, (response.status_code, response.text)
        return result_of(response)

    def post_call(self, tool: str, **arguments: object) -> httpx.Response:
        return self.post("tools/call", {"name": tool, "arguments": arguments})

    def call(self, tool: str, **arguments: object) -> Any:
        result = self.request("tools/call", {"name": tool, "arguments": arguments})
        assert not result.get("isError"), result
        return result["structuredContent"]

    def delete(self) -> httpx.Response:
        return self.send("DELETE")

    def at(self, server: Server) -> Client:
        """The same session on another server."""
        other = Client(server, path=self.path, version=self.version, token=self.token, name=self.name)
        other.session_id = self.session_id
        if self.session_id:
            server.secrets.add(self.session_id)
        # JSON-RPC ids must not repeat within a session, whichever server answers.
        other.ids = self.ids
        return other


def result_of(response: httpx.Response) -> Any:
    message = response.json()
    if "error" in message:
        raise RPCError(message["error"])
    return message["result"]


def all_at_once(number: int, function: Callable[[int], T]) -> list[T]:
    """Run `function(0)` to `function(number - 1)` in threads that start together; results in order."""
    start = Barrier(number)

    def run(index: int) -> T:
        start.wait(timeout=30)
        return function(index)

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(run, range(number)))


def error_code(response: httpx.Response) -> int:
    code: int = json.loads(response.content)["error"]["code"]
    return code
