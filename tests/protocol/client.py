"""An MCP client that drives an ASGI application in-process: no server, no socket, every byte in plain sight."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import json
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from mcp_django.asgi import Application

# For what a busy machine may take; nothing that works waits for it.
SECONDS = 60.0
LATEST = "2025-11-25"

Headers = Mapping[str, str | Sequence[str] | None]
"""Header names to values; None leaves a default header out, a list sends one header line for each item."""

DEFAULTS: Headers = {
    "Host": "testserver",
    "Accept": "application/json, text/event-stream",
    "Content-Type": "application/json",
}


def header_of(headers: list[tuple[str, str]], name: str) -> str | None:
    """The value of a header, which must not come twice."""
    values = [value for key, value in headers if key.lower() == name.lower()]
    assert len(values) <= 1, f"{name} came {len(values)} times: {values}"
    return values[0] if values else None


@dataclass(frozen=True)
class Response:
    """An HTTP response, whole."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """The value of a header, which must not come twice."""
        return header_of(self.headers, name)

    @property
    def json(self) -> Any:
        assert self.header("content-type") == "application/json", (self.status, self.headers, self.body)
        return json.loads(self.body)

    @property
    def result(self) -> Any:
        """The result that a JSON-RPC response carries; it must be one."""
        message = self.json
        assert self.status == 200, (self.status, message)
        assert "result" in message, message
        return message["result"]

    @property
    def error(self) -> Any:
        """The error that a JSON-RPC response carries; it must be one, and a clear one."""
        error = self.json["error"]
        assert isinstance(error["code"], int), error
        assert error["message"], error
        assert "Traceback" not in self.body.decode(), self.body
        return error


@dataclass(frozen=True)
class Frame:
    """One event of an event stream as it came, or a comment."""

    data: str | None = None
    id: str | None = None
    event: str | None = None
    retry: int | None = None
    comment: str | None = None

    @property
    def has_message(self) -> bool:
        """Whether it is an event with a message, so neither a comment nor a priming event nor a retry alone."""
        return bool(self.data)

    @property
    def message(self) -> Any:
        """The JSON-RPC message that it carries; it must carry one."""
        assert self.data, self
        return json.loads(self.data)


def frame_of(block: str) -> Frame:
    """A block of an event stream, without the empty line at its end (HTML standard, 9.2.6)."""
    fields: dict[str, str] = {}
    comments = []
    data = []
    for line in block.split("\n"):
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not name:
            comments.append(value)
        elif name == "data":
            data.append(value)
        else:
            assert name in ("id", "event", "retry"), block
            assert name not in fields, block
            fields[name] = value
    return Frame(
        "\n".join(data) if data else None,
        fields.get("id"),
        fields.get("event"),
        int(fields["retry"]) if "retry" in fields else None,
        "\n".join(comments) if comments else None,
    )


class EventStream:
    """An event stream that a request is answered with, read frame by frame."""

    def __init__(self, exchange: Exchange, headers: list[tuple[str, str]]) -> None:
        self.exchange = exchange
        self.headers = headers
        self.frames: list[Frame] = []
        """All that were read."""
        self.ended = False
        self._parsed: deque[Frame] = deque()
        self._unread = b""

    def header(self, name: str) -> str | None:
        """The value of a header, which must not come twice."""
        return header_of(self.headers, name)

    @property
    def last_id(self) -> str | None:
        """The id of the last event that had one: what a client would resume with."""
        return next((frame.id for frame in reversed(self.frames) if frame.id is not None), None)

    async def frame(self) -> Frame | None:
        """The next frame; None at the end of the stream."""
        async with asyncio.timeout(SECONDS):
            while not self._parsed and not self.ended:
                await self._read()
        if not self._parsed:
            return None
        self.frames.append(self._parsed.popleft())
        return self.frames[-1]

    async def _read(self) -> None:
        message = await self.exchange.message()
        if message is None:
            # An exception that left the application is raised here.
            await self.exchange.task
            raise AssertionError("The application ended within its response.")
        self._take(message)
        if self.ended:
            assert await self.exchange.message() is None, "This came after the stream's end."
            await self.exchange.task

    def _take(self, message: Any) -> None:
        self._unread += message.get("body", b"")
        *blocks, self._unread = self._unread.split(b"\n\n")
        self._parsed.extend(frame_of(block.decode()) for block in blocks)
        if not message.get("more_body", False):
            assert not self._unread, f"The stream ends in the middle of {self._unread!r}."
            self.ended = True

    async def event(self) -> Frame:
        """The next frame with a message, whatever comes before it; there must be one."""
        while (frame := await self.frame()) is not None:
            if frame.has_message:
                return frame
        raise AssertionError("The stream has ended.")

    async def message(self) -> Any:
        """The next message; there must be one."""
        return (await self.event()).message

    async def messages(self, count: int) -> list[Any]:
        """The next so many messages."""
        return [await self.message() for _ in range(count)]

    async def question(self) -> Any:
        """The next request of the server, whatever comes before it."""
        while True:
            message = await self.message()
            if "method" in message and "id" in message:
                return message

    async def rest(self) -> list[Any]:
        """All messages until the stream's end."""
        found = []
        while (frame := await self.frame()) is not None:
            if frame.has_message:
                found.append(frame.message)
        return found

    def arrived(self) -> list[Frame]:
        """The frames that have come by now and were not read."""
        for message in self.exchange.messages_now():
            self._take(message)
        found = list(self._parsed)
        self.frames += found
        self._parsed.clear()
        return found

    async def disconnect(self) -> None:
        """The client goes away; returns when the application has noticed and is through."""
        self.exchange.disconnect()
        async with asyncio.timeout(SECONDS):
            await asyncio.wait([self.exchange.task])
        if not self.exchange.task.cancelled():
            await self.exchange.task


class Exchange:
    """One request and its response. The application runs in a task and a context of its own, as under a server.

    Args:
        slow: the client takes nothing of the response before the test asks for it: one message may be under way.
    """

    def __init__(
        self, application: Application, scope: dict[str, Any], chunks: Sequence[bytes], *, slow: bool = False
    ) -> None:
        self.chunks_read = 0
        self._chunks = chunks
        self._gone = asyncio.Event()
        self._sent: asyncio.Queue[Any] = asyncio.Queue()
        self._room = asyncio.Semaphore(1) if slow else None
        self.task = asyncio.get_running_loop().create_task(self._run(application, scope), context=contextvars.Context())

    async def _run(self, application: Application, scope: dict[str, Any]) -> None:
        try:
            await application(scope, self._receive, self._send)
        finally:
            self._sent.put_nowait(None)

    async def _receive(self) -> dict[str, Any]:
        if self.chunks_read >= max(len(self._chunks), 1):
            await self._gone.wait()
            return {"type": "http.disconnect"}
        chunk = self._chunks[self.chunks_read] if self._chunks else b""
        self.chunks_read += 1
        return {"type": "http.request", "body": chunk, "more_body": self.chunks_read < len(self._chunks)}

    async def _send(self, message: Any) -> None:
        if self._room is not None:
            await self._room.acquire()
        if not self._gone.is_set():
            self._sent.put_nowait(message)

    async def message(self) -> Any:
        """The next ASGI message that the application sends; None after its last."""
        message = await self._sent.get()
        if self._room is not None:
            self._room.release()
        return message

    def messages_now(self) -> Iterator[Any]:
        """The messages that are there and were not read, without the end."""
        while not self._sent.empty():
            if (message := self._sent.get_nowait()) is not None:
                yield message

    async def stream(self) -> EventStream:
        """The response, which must be an event stream, once its head has come."""
        async with asyncio.timeout(SECONDS):
            start = await self.message()
            if start is None:
                await self.task
            assert start["type"] == "http.response.start", start
            headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"]]
            if (start["status"], header_of(headers, "content-type")) != (200, "text/event-stream"):
                raise AssertionError(f"No event stream: {start} {await self.message()}")
        return EventStream(self, headers)

    async def response(self, within: float = SECONDS) -> Response:
        """The whole response. An exception that left the application is raised here."""
        async with asyncio.timeout(within):
            return await self._response()

    async def _response(self) -> Response:
        start = await self.message()
        if start is None:
            await self.task
            raise AssertionError("The application ended without a response.")
        assert start["type"] == "http.response.start", start
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"]]
        parts: list[bytes] = []
        more = True
        # To the application's own end, not just the body's: nothing of it is left when a test is over.
        while (message := await self.message()) is not None:
            assert more, f"This came after the response's end: {message}"
            parts.append(message.get("body", b""))
            more = message.get("more_body", False)
        await self.task
        assert not more, "The response has no end."
        body = b"".join(parts)
        assert len(body) == int(dict(headers).get("content-length", len(body))), "Content-Length is wrong."
        return Response(start["status"], headers, body)

    def disconnect(self) -> None:
        """The client goes away; the server tells the application when that asks for the next message."""
        self._gone.set()

    async def abort(self) -> None:
        """The client goes away and the server cancels the application's task, as daphne does."""
        self.disconnect()
        self.task.cancel()
        await asyncio.wait([self.task], timeout=SECONDS)


class Client:
    """Speaks HTTP to one path of an application.

    Args:
        token: sent as a bearer token with every request.
        root_path: where the server has mounted the application.
    """

    def __init__(
        self, application: Application, path: str = "/protocol/mcp", *, token: str | None = None, root_path: str = ""
    ) -> None:
        self.application = application
        self.path = path
        self.token = token
        self.root_path = root_path
        self.ids = itertools.count(1)

    def exchange(
        self,
        method: str,
        body: bytes | Sequence[bytes] = b"",
        *,
        headers: Headers | None = None,
        query: bytes = b"",
        slow: bool = False,
    ) -> Exchange:
        """Begin a request; a list of bodies arrives in as many pieces."""
        scope = self.scope(method, raw(headers or {}), query)
        return Exchange(self.application, scope, [body] if isinstance(body, bytes) else body, slow=slow)

    def scope(self, method: str, headers: list[tuple[bytes, bytes]], query: bytes = b"") -> dict[str, Any]:
        """What an ASGI server says of a request."""
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": self.root_path + self.path,
            "raw_path": (self.root_path + self.path).encode(),
            "root_path": self.root_path,
            "query_string": query,
            "headers": headers,
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 80),
        }

    async def request(
        self,
        method: str,
        body: bytes | Sequence[bytes] = b"",
        *,
        session: str | None = None,
        headers: Headers | None = None,
        query: bytes = b"",
    ) -> Response:
        """Send a request and read its response."""
        return await self.exchange(method, body, headers=self.headers(session, headers), query=query).response()

    def headers(self, session: str | None = None, headers: Headers | None = None) -> Headers:
        """What goes with every request, and what this one has on top."""
        made: dict[str, str | Sequence[str] | None] = dict(DEFAULTS)
        if session is not None:
            made |= {"Mcp-Session-Id": session}
        if self.token is not None:
            made |= {"Authorization": f"Bearer {self.token}"}
        return made | dict(headers or {})

    def begin(
        self, message: Any, *, session: str | None = None, headers: Headers | None = None, slow: bool = False
    ) -> Exchange:
        """POST anything that JSON can say, and do not wait for the response."""
        return self.exchange("POST", json.dumps(message).encode(), headers=self.headers(session, headers), slow=slow)

    async def post(self, message: Any, *, session: str | None = None, headers: Headers | None = None) -> Response:
        """POST anything that JSON can say."""
        return await self.begin(message, session=session, headers=headers).response()

    async def delete(self, *, session: str | None = None, headers: Headers | None = None) -> Response:
        return await self.request("DELETE", session=session, headers=headers)

    async def handshake(
        self,
        version: Any = LATEST,
        *,
        name: str = "a client",
        session: str | None = None,
        headers: Headers | None = None,
        **params: Any,
    ) -> Response:
        """Send ``initialize`` alone and return the response, whatever it is."""
        given = initialize_params(version, name) | params
        return await self.post(self.message("initialize", given), session=session, headers=headers)

    async def open(
        self, version: str = LATEST, *, name: str = "a client", initialized: bool = True, **params: Any
    ) -> Session:
        """A session, its handshake done."""
        response = await self.handshake(version, name=name, **params)
        assert response.status == 200, (response.status, response.body)
        session_id = response.header("mcp-session-id")
        assert session_id is not None, response.body
        session = Session(self, session_id, response.result["protocolVersion"])
        if initialized:
            assert (await session.notify("notifications/initialized")).status == 202
        return session

    def message(self, method: str, params: Any = None) -> dict[str, Any]:
        """A request with an id of its own."""
        message = {"jsonrpc": "2.0", "id": next(self.ids), "method": method}
        return message if params is None else message | {"params": params}


class Session:
    """A session of a client, whichever process answers it."""

    def __init__(self, client: Client, id: str, version: str) -> None:
        self.client = client
        self.id = id
        self.version = version

    def of(self, client: Client) -> Session:
        """The same id, in another client's hands."""
        return Session(client, self.id, self.version)

    def headers(self, headers: Headers | None = None) -> Headers:
        return {"MCP-Protocol-Version": self.version} | dict(headers or {})

    def begin(self, message: Any, headers: Headers | None = None, *, slow: bool = False) -> Exchange:
        """Post anything that JSON can say to the session, and do not wait for the response."""
        return self.client.begin(message, session=self.id, headers=self.headers(headers), slow=slow)

    async def post(self, message: Any, headers: Headers | None = None) -> Response:
        """Post anything that JSON can say to the session."""
        return await self.begin(message, headers).response()

    async def post_bytes(self, body: bytes | Sequence[bytes], headers: Headers | None = None) -> Response:
        return await self.client.request("POST", body, session=self.id, headers=self.headers(headers))

    async def request(self, method: str, params: Any = None) -> Response:
        return await self.post(self.client.message(method, params))

    async def notify(self, method: str, params: Any = None) -> Response:
        message = {"jsonrpc": "2.0", "method": method}
        return await self.post(message if params is None else message | {"params": params})

    async def cancel(self, request_id: Any) -> Response:
        return await self.notify("notifications/cancelled", {"requestId": request_id})

    def tool(self, name: str, **arguments: Any) -> dict[str, Any]:
        """The message that calls a tool."""
        return self.client.message("tools/call", {"name": name, "arguments": arguments})

    async def call_tool(self, name: str, **arguments: Any) -> Any:
        """A tool's whole result, be it an error."""
        return (await self.post(self.tool(name, **arguments))).result

    async def call(self, name: str, **arguments: Any) -> Any:
        """A tool's structured output."""
        result = await self.call_tool(name, **arguments)
        assert not result.get("isError"), result
        return result["structuredContent"]

    async def delete(self, headers: Headers | None = None) -> Response:
        return await self.client.delete(session=self.id, headers=self.headers(headers))

    # Event streams

    async def stream(self, name: str, **arguments: Any) -> EventStream:
        """Call a tool that makes an event stream of its answer; progress is asked for."""
        return await self.begin(with_progress(self.tool(name, **arguments))).stream()

    def get(self, last_event_id: str | None = None, headers: Headers | None = None) -> Exchange:
        """A GET, perhaps from an event on."""
        listening = {"Accept": "text/event-stream", "Content-Type": None, "Last-Event-ID": last_event_id}
        given = listening | dict(self.headers(headers))
        return self.client.exchange("GET", headers=self.client.headers(self.id, given))

    async def listen(self, last_event_id: str | None = None) -> EventStream:
        """The event stream that a GET is answered with."""
        return await self.get(last_event_id).stream()

    @asynccontextmanager
    async def listening(self, last_event_id: str | None = None) -> AsyncIterator[EventStream]:
        """The same for the time of a block."""
        stream = await self.listen(last_event_id)
        try:
            yield stream
        finally:
            await stream.disconnect()

    async def answer(self, question: Any, result: Any) -> Response:
        """Answer a request of the server, or anything with its id."""
        id = question["id"] if isinstance(question, dict) else question
        return await self.post({"jsonrpc": "2.0", "id": id, "result": result})

    async def refuse(self, question: Any, code: int, text: str) -> Response:
        """Answer a request of the server with an error."""
        return await self.post({"jsonrpc": "2.0", "id": question["id"], "error": {"code": code, "message": text}})


def initialize_params(version: Any = LATEST, name: str = "a client") -> dict[str, Any]:
    return {"protocolVersion": version, "capabilities": {}, "clientInfo": {"name": name, "version": "1.0"}}


def raw(headers: Headers) -> list[tuple[bytes, bytes]]:
    """Headers as an ASGI server hands them on: lower-case names, a line each."""
    lines: list[tuple[bytes, bytes]] = []
    for name, value in headers.items():
        values = [] if value is None else [value] if isinstance(value, str) else value
        lines += [(name.lower().encode("latin-1"), item.encode("latin-1")) for item in values]
    return lines


def with_progress(message: dict[str, Any], token: Any = "progress") -> dict[str, Any]:
    """A request whose sender wants to hear of its progress."""
    return {**message, "params": {**message.get("params", {}), "_meta": {"progressToken": token}}}


def progress_of(messages: Sequence[Any]) -> list[Any]:
    """The steps that progress notifications tell of."""
    return [m["params"]["progress"] for m in messages if m.get("method") == "notifications/progress"]


def text_of(result: Any) -> str:
    """The text that a tool's result begins with."""
    text: str = result["content"][0]["text"]
    return text


@contextmanager
def case(row: object) -> Iterator[None]:
    """Names the row of a table that a failure belongs to: for tables too long to make a test of each row."""
    try:
        yield
    except Exception as error:
        error.add_note(f"In the case {row!r:.200}.")
        raise


async def together(*exchanges: Exchange) -> list[Response]:
    """The responses of several exchanges that are under way."""
    return list(await asyncio.gather(*(exchange.response() for exchange in exchanges)))
