"""An MCP client of a few lines, over httpx and plain sockets: what it sends and gets is in plain sight."""

from __future__ import annotations

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING, Any, TypeVar

import httpx

from tests.live.streams import Stream

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
        capabilities: dict[str, Any] | None = None,
    ) -> None:
        self.server = server
        self.path = path
        self.version = version
        self.token = token
        self.name = name
        self.capabilities = capabilities or {}
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
        params = {"protocolVersion": self.version, "capabilities": self.capabilities, "clientInfo": info}
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

    # Streams

    def open(self, http_method: str, body: object = None, after: str | None = None) -> Stream:
        """Send a request on a connection of its own and return the response while it is under way."""
        content = b"" if body is None else json.dumps(body).encode()
        headers = self.headers() | {"Host": f"127.0.0.1:{self.server.port}", "Connection": "close"}
        if body is not None:
            headers |= {"Content-Type": "application/json", "Content-Length": str(len(content))}
        if after is not None:
            headers["Last-Event-ID"] = after
        lines = [f"{http_method} {self.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
        request = "\r\n".join([*lines, "", ""]).encode("latin-1") + content
        return Stream(self.server.port, request, after, body.get("id") if isinstance(body, dict) else None)

    def start(self, tool: str, progress: str | None = None, **arguments: object) -> Stream:
        """Call a tool and return the response while it is under way. `progress` is the progress token."""
        return self.open("POST", self.call_message(tool, progress, **arguments))

    def call_message(self, tool: str, progress: str | None = None, **arguments: object) -> dict[str, Any]:
        params: dict[str, Any] = {"name": tool, "arguments": arguments}
        if progress is not None:
            params["_meta"] = {"progressToken": progress}
        return self.message("tools/call", params)

    def listen(self, after: str | None = None) -> Stream:
        """GET: the standalone stream, or what comes after an event id."""
        return self.open("GET", after=after)

    def resume(self, broken: Stream) -> Stream:
        """Go on where another connection broke."""
        assert broken.last_id is not None, "The connection broke before its first event id."
        return self.listen(broken.last_id)

    def answer(self, question: object, result: dict[str, Any]) -> httpx.Response:
        """Answer a question of the server's."""
        return self.send("POST", {"jsonrpc": "2.0", "id": question, "result": result})

    def cancel(self, request_id: object) -> httpx.Response:
        """Cancel a request of ours."""
        params = {"requestId": request_id, "reason": "not needed any more"}
        return self.send("POST", {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})

    def at(self, server: Server) -> Client:
        """The same session on another server."""
        other = Client(server, path=self.path, version=self.version, token=self.token, name=self.name)
        other.capabilities = self.capabilities
        other.session_id = self.session_id
        if self.session_id:
            server.secrets.add(self.session_id)
        # JSON-RPC ids must not repeat within a session, whichever server answers.
        other.ids = self.ids
        return other


def result_of(response: httpx.Response) -> Any:
    """The result, of a call that took its time, too: on a busy machine any call may become a stream."""
    text = response.text
    if response.headers["Content-Type"] == "text/event-stream":
        (text,) = (line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: {"))
    message = json.loads(text)
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
