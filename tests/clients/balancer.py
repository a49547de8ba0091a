"""A load balancer between clients and servers, which breaks event streams where a test wants it.

Every request has a connection of its own, to the next server in turn, and whoever comes back for the rest of a stream
meets another server than before.
"""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal

from tests.live.servers import Server, wait_until

HOP_BY_HOP = {"connection", "content-length", "date", "host", "keep-alive", "server", "transfer-encoding"}
TICK = 0.05
LAST_CHUNK = b"0\r\n\r\n"

Stream = Literal["call", "standalone"]
How = Literal["ended", "cut"]


@dataclass(frozen=True)
class Break:
    """The end of a connection before its time.

    Args:
        after: how many messages get through before it; priming events and keep-alives are none.
        how: `ended` ends the body as HTTP wants it, so that the client sees a response that is over; `cut` closes the
            connection within the body, which it sees as a network error, while the server hears nothing of it.
    """

    after: int
    how: How


@dataclass
class Visit:
    """One request, and what became of it."""

    method: str
    port: int
    last_event_id: str | None
    message: str | None
    """The method of the JSON-RPC message that came with it."""
    status: int | None = None
    stream: Stream | None = None
    messages: int = 0
    broken: How | None = None
    over: threading.Event = field(default_factory=threading.Event)
    """Set once its connections are closed."""


class Balancer:
    """Listens on a loopback port and passes each request on to the next of `servers`."""

    def __init__(self, servers: Sequence[Server]) -> None:
        self.visits: list[Visit] = []
        self.session_id = ""
        self._ports = deque(server.port for server in servers)
        self._breaks: dict[Stream, deque[Break]] = defaultdict(deque)
        self._streams: dict[str, Stream] = {}
        self._sockets: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = Listener(self)
        self._thread = threading.Thread(target=self._listener.serve_forever, args=(TICK,))

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._listener.server_port}{path}"

    def will_break(self, stream: Stream, how: How, *after: int) -> None:
        """Break the next connections on streams of this kind, each after so many messages."""
        self._breaks[stream].extend(Break(number, how) for number in after)

    def of(self, stream: Stream) -> list[Visit]:
        """The connections on streams of this kind, in order."""
        return [visit for visit in list(self.visits) if visit.stream == stream]

    def wait_for(self, stream: Stream, number: int, messages: int = 0) -> Visit:
        """The connection of that number, from 1, on streams of this kind, once it has brought so many messages."""
        wait_until(
            lambda: any(visit.messages >= messages for visit in self.of(stream)[number - 1 : number]),
            f"Connection {number} on a {stream} stream brings {messages} messages",
        )
        return self.of(stream)[number - 1]

    def wait_for_silence(self, seconds: float, at_most: int) -> list[Visit]:
        """Wait until no request has come for so long; returns all. More than `at_most` would be a loop."""
        seen, since = -1, 0.0
        while seen < 0 or time.monotonic() - since < seconds:
            if len(self.visits) != seen:
                seen, since = len(self.visits), time.monotonic()
            assert seen <= at_most, self.visits
            time.sleep(TICK)
        return self.visits

    def begin(self, method: str, last_event_id: str | None, message: str | None) -> tuple[Visit, socket.socket]:
        """Take in a request; returns also a connection to its server. One that is down is passed over.

        Raises:
            OSError: all servers are down.
        """
        with self._lock:
            stream = self._streams.get(last_event_id or "")
            if stream and self.of(stream)[-1].port == self._ports[0]:
                self._ports.rotate(-1)
            for port in tuple(self._ports):
                self._ports.rotate(-1)
                with suppress(ConnectionRefusedError):
                    upstream = socket.create_connection(("127.0.0.1", port))
                    visit = Visit(method, port, last_event_id, message)
                    self.visits.append(visit)
                    return visit, upstream
        raise ConnectionRefusedError("No server listens.")

    def attach(self, end: socket.socket) -> None:
        with self._lock:
            self._sockets.add(end)

    def detach(self, end: socket.socket) -> None:
        with self._lock:
            self._sockets.discard(end)

    def passed(self, visit: Visit, frames: Iterator[bytes]) -> Iterator[bytes]:
        """The frames that get through to the client."""
        # A stream is known by the event ids that it has shown.
        begun: Stream = "call" if visit.method == "POST" else "standalone"
        stream = self._streams[visit.last_event_id] if visit.last_event_id else begun
        with self._lock:
            planned = self._breaks[stream].popleft() if self._breaks[stream] else None
            visit.stream = stream
        resumable = False
        for frame in frames:
            fields = dict(line.split(b": ", 1) for line in frame.splitlines() if b": " in line)
            if b"id" in fields:
                self._streams[fields[b"id"].decode()] = stream
                resumable = True
            yield frame
            visit.messages += bool(fields.get(b"data", b"").strip())
            if planned and resumable and visit.messages >= planned.after:
                visit.broken = planned.how
                return

    def __enter__(self) -> Balancer:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown()
        self._thread.join()
        with self._lock:
            for end in self._sockets:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        self._listener.server_close()
        for end in self._sockets:
            end.close()


class Listener(ThreadingHTTPServer):
    # Joined when it closes, so that no thread outlives the test.
    daemon_threads = False

    def __init__(self, balancer: Balancer) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.balancer = balancer

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        self.balancer.attach(connection)
        return connection, address

    def shutdown_request(self, request: Any) -> None:
        self.balancer.detach(request)
        super().shutdown_request(request)


class Handler(BaseHTTPRequestHandler):
    """One request of a client."""

    protocol_version = "HTTP/1.1"
    server: Listener

    def pass_on(self) -> None:
        self.close_connection = True
        balancer = self.server.balancer
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        # Either side may go away at any moment.
        with suppress(OSError, http.client.HTTPException):
            visit, upstream = balancer.begin(self.command, self.headers.get("Last-Event-ID"), method_in(body))
            balancer.attach(upstream)
            try:
                with self.watching(visit, upstream):
                    self.answer(visit, upstream, body)
            finally:
                if visit.broken != "cut":
                    balancer.detach(upstream)
                    upstream.close()

    do_GET = do_POST = do_DELETE = pass_on

    @contextmanager
    def watching(self, visit: Visit, upstream: socket.socket) -> Iterator[None]:
        """Hang up on the server when the client does so before it has its answer."""

        def watch() -> None:
            with suppress(OSError):
                if not self.connection.recv(1, socket.MSG_PEEK) and not visit.over.is_set():
                    upstream.shutdown(socket.SHUT_RDWR)

        thread = threading.Thread(target=watch)
        thread.start()
        try:
            yield
        finally:
            visit.over.set()
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            thread.join()

    def answer(self, visit: Visit, upstream: socket.socket, body: bytes) -> None:
        # A copy of the socket: that one is closed with the response, or when none comes.
        with closing(http.client.HTTPConnection("127.0.0.1", visit.port)) as connection:
            connection.sock = upstream.dup()
            headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP_BY_HOP}
            connection.request(self.command, self.path, body or None, headers | {"Connection": "close"})
            with connection.getresponse() as response:
                self.hand_on(visit, response)

    def hand_on(self, visit: Visit, response: http.client.HTTPResponse) -> None:
        visit.status = response.status
        self.send_response_only(response.status, response.reason)
        for name, value in response.getheaders():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        self.send_header("Connection", "close")
        self.server.balancer.session_id = response.getheader("Mcp-Session-Id", self.server.balancer.session_id)
        if response.getheader("Content-Type", "").startswith("text/event-stream"):
            self.stream(visit, response)
        else:
            whole = response.read()
            self.send_header("Content-Length", str(len(whole)))
            self.end_headers()
            self.wfile.write(whole)

    def stream(self, visit: Visit, response: http.client.HTTPResponse) -> None:
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for frame in self.server.balancer.passed(visit, frames_of(response)):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(frame), frame))
        if visit.broken != "cut":
            self.wfile.write(LAST_CHUNK)

    def log_message(self, format: str, *arguments: object) -> None:
        """What there is to know is in the visits."""


def method_in(body: bytes) -> str | None:
    value = json.loads(body) if body else None
    return value.get("method") if isinstance(value, dict) else None


def frames_of(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The frames of an event stream, each with the empty line that ends it, as they come."""
    rest = b""
    while chunk := response.read1():
        *frames, rest = (rest + chunk).split(b"\n\n")
        for frame in frames:
            yield frame + b"\n\n"
