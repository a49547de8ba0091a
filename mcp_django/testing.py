"""Help for the tests of projects.

Django's ``TestCase`` wraps a test in a transaction that only its own connection sees, while this package works on
threads with connections of their own. :func:`connect` notices that and makes everything run on the test's
connection::

    class ShelfTests(TestCase):
        async def test_a_book_is_put_on_the_shelf(self):
            async with connect(mcp) as client:
                result = await client.call_tool("put_on_shelf", {"isbn": "978-3-16"})
                self.assertEqual(result["structuredContent"], {"books": 1})

In a ``TransactionTestCase``, or with pytest-django's ``django_db(transaction=True)``, nothing of this is needed but
the client.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import Any

from asgiref.sync import sync_to_async
from django.contrib.auth.models import AnonymousUser
from django.http import HttpRequest
from django.test import RequestFactory

from mcp_django import jsonrpc, lanes
from mcp_django.endpoint import respond
from mcp_django.exceptions import MCPDjangoError
from mcp_django.http import SESSION_HEADER, VERSION_HEADER, Request
from mcp_django.server import MCPServer
from mcp_django.sessions import sessions
from mcp_django.threads import in_transaction

DEFAULT_VERSION = "2025-11-25"
CAPABILITIES = {"elicitation/create": "elicitation", "sampling/createMessage": "sampling", "roots/list": "roots"}


class ClientError(MCPDjangoError):
    """The server answered a test client with an error.

    Args:
        status: the HTTP status. code, message, data: the JSON-RPC error, if there was one.
    """

    def __init__(self, status: int, error: Mapping[str, Any]) -> None:
        self.status = status
        self.code: int | None = error.get("code")
        self.message: str = error.get("message", "")
        self.data: Any = error.get("data")
        super().__init__(f"HTTP {status}, JSON-RPC error {self.code}: {self.message}")


@contextmanager
def inline() -> Iterator[None]:
    """Run store work and sync handlers on the test's own database connection."""
    before = lanes.inline.enabled
    lanes.inline.enabled = True
    try:
        yield
    finally:
        lanes.inline.enabled = before


Answerer = Callable[[dict[str, Any]], Mapping[str, Any]]
"""What a test client does when the server asks: takes the request's params, returns the result."""


class Client:
    """A client of one server, in the test's process and without sockets. Make it with :func:`connect`.

    ``notifications`` holds what came with answers: progress, log messages.
    """

    def __init__(
        self, server: MCPServer, headers: Mapping[str, str], answers: Mapping[str, Answerer] | None = None
    ) -> None:
        self.server = server
        self.session_id: str | None = None
        self.protocol_version: str | None = None
        self.initialize_result: dict[str, Any] = {}
        self.notifications: list[dict[str, Any]] = []
        self._headers = dict(headers)
        self._answers = dict(answers or {})
        self._ids = itertools.count(1)

    async def request(self, method: str, params: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send a request and return its result.

        Raises:
            ClientError: the server answered with an error.
        """
        message: dict[str, Any] = {"jsonrpc": "2.0", "id": next(self._ids), "method": method}
        if params is not None:
            message["params"] = dict(params)
        if method == "tools/call":
            message["params"]["_meta"] = {"progressToken": message["id"], **message["params"].get("_meta", {})}
        answer = await self._send("POST", jsonrpc.encode(message))
        return dict(answer["result"])

    async def notify(self, method: str, params: Mapping[str, Any] | None = None) -> None:
        """Send a notification."""
        message: dict[str, Any] = {"jsonrpc": "2.0", "method": method}
        if params is not None:
            message["params"] = dict(params)
        await self._send("POST", jsonrpc.encode(message))

    async def call_tool(self, name: str, arguments: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Call a tool and return its result; a failing tool is a result with ``isError``."""
        return await self.request("tools/call", {"name": name, "arguments": dict(arguments or {})})

    async def initialize(self, protocol_version: str = DEFAULT_VERSION) -> None:
        """Open a session; :func:`connect` has done it."""
        params = {
            "protocolVersion": protocol_version,
            "capabilities": {CAPABILITIES[method]: {} for method in self._answers if method in CAPABILITIES},
            "clientInfo": {"name": "mcp_django.testing", "version": "1"},
        }
        self.initialize_result = await self.request("initialize", params)
        self.protocol_version = self.initialize_result["protocolVersion"]
        await self.notify("notifications/initialized")

    async def end(self) -> None:
        """End the session; one that has ended before is left alone."""
        try:
            await self._send("DELETE", b"")
        except ClientError as error:
            if error.status != 404:
                raise

    def restart(self) -> None:
        """Forget all live sessions, as a restart of the process does: the next request restores."""
        sessions().live.clear()

    async def _send(self, method: str, body: bytes) -> dict[str, Any]:
        headers = {
            "host": "testserver",
            "content-type": "application/json",
            "accept": "application/json, text/event-stream",
            **self._headers,
        }
        if self.session_id is not None:
            headers[SESSION_HEADER] = self.session_id
        if self.protocol_version is not None:
            headers[VERSION_HEADER] = self.protocol_version
        raw = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        response = await respond(self.server, Request(method, raw, body, lambda body: self._django(headers, body)))
        if response.frames is not None:
            answer = await self._follow(response.frames)
        else:
            answer = jsonrpc.decode(response.body) if response.body else {}
        if response.status >= 400 or "error" in answer:
            raise ClientError(response.status, answer.get("error", {}))
        self.session_id = dict(response.headers).get("Mcp-Session-Id", self.session_id)
        return dict(answer)

    async def _follow(self, frames: AsyncGenerator[bytes, None]) -> Any:
        """Read an event stream to the answer, and answer what is asked meanwhile."""
        answer: Any = {}
        async for chunk in frames:
            for line in chunk.splitlines():
                if not (data := line.removeprefix(b"data: ") if line.startswith(b"data: ") else b""):
                    continue
                message = jsonrpc.decode(data)
                if "method" not in message:
                    answer = message
                elif "id" in message:
                    await self._answer(message)
                else:
                    self.notifications.append(message)
        return answer

    async def _answer(self, request: dict[str, Any]) -> None:
        answerer = self._answers.get(request["method"])
        if answerer is None:
            answer = jsonrpc.error(request["id"], jsonrpc.METHOD_NOT_FOUND, f"No answer to {request['method']}.")
        else:
            answer = jsonrpc.result(request["id"], dict(answerer(request.get("params") or {})))
        await self._send("POST", jsonrpc.encode(answer))

    def _django(self, headers: Mapping[str, str], body: bytes) -> HttpRequest:
        request = RequestFactory().generic("POST", "/mcp", body, "application/json", headers=headers)
        request.user = AnonymousUser()
        return request


@asynccontextmanager
async def connect(
    server: MCPServer,
    *,
    headers: Mapping[str, str] | None = None,
    answers: Mapping[str, Answerer] | None = None,
    protocol_version: str = DEFAULT_VERSION,
) -> AsyncIterator[Client]:
    """A client with an open session on ``server``; the session ends with the block.

    Args:
        headers: sent with every request, e.g. a cookie or an Authorization header.
        answers: what the client does when it is asked, by method, e.g. ``{"elicitation/create": lambda params:
            {"action": "accept", "content": {"name": "Ada"}}}``. The client declares the capabilities that go with them.
        protocol_version: what the client offers.

    Raises:
        ClientError: the server refused the session.
    """
    client = Client(server, headers or {}, answers)
    with inline() if await sync_to_async(in_transaction)() else nullcontext():
        await client.initialize(protocol_version)
        try:
            yield client
        finally:
            await client.end()
