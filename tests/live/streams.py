"""Event streams over plain sockets: read them event by event, see what has arrived, break them at any byte."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple

# For what a busy machine may take; tests that promise more measure it.
SECONDS = 60.0
CHUNK = 65536

Message = dict[str, Any]


class Frame(NamedTuple):
    """What stands between two blank lines of an event stream; all empty for a comment."""

    id: str | None
    retry: int | None
    data: str


class Response:
    """One HTTP/1.1 response, parsed as its bytes arrive."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.complete = False
        self._raw = bytearray()

    def feed(self, data: bytes) -> None:
        self._raw += data
        if not self.status and not self._head():
            return
        if "chunked" in self.headers.get("transfer-encoding", ""):
            while not self.complete and self._chunk():
                pass
        else:
            self.body += self._raw
            self._raw.clear()
            self.complete = len(self.body) == int(self.headers.get("content-length", -1))

    def _head(self) -> bool:
        head, blank, rest = bytes(self._raw).partition(b"\r\n\r\n")
        if not blank:
            return False
        status, *lines = head.decode("latin-1").split("\r\n")
        self.status = int(status.split()[1])
        for line in lines:
            name, _, value = line.partition(":")
            self.headers[name.lower()] = value.strip()
        self._raw = bytearray(rest)
        return True

    def _chunk(self) -> bool:
        size, line_end, _ = bytes(self._raw).partition(b"\r\n")
        begin = len(size) + 2
        if not line_end or len(self._raw) < begin + int(size, 16) + 2:
            return False
        end = begin + int(size, 16)
        self.body += self._raw[begin:end]
        self.complete = begin == end
        del self._raw[: end + 2]
        return True


class Stream:
    """A request that is under way, with its response read as the test goes on. Close it to break the connection.

    Args:
        after: the event id from which this connection goes on, so the client's last one until another comes.
        request_id: the JSON-RPC id of what was asked, if it was a call.
    """

    def __init__(self, port: int, request: bytes, after: str | None = None, request_id: object = None) -> None:
        self.response = Response()
        self.request_id = request_id
        self.last_id = after
        self.ended = False
        self.frames: list[Frame] = []
        self._parsed = 0
        self._read = 0
        self._received = 0
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.sendall(request)

    # Waiting

    def frame(self, seconds: float = SECONDS) -> Frame | None:
        """The next frame, None at the end of the response."""
        deadline = time.monotonic() + seconds
        while self._read >= len(self.frames):
            if self.ended:
                return None
            assert self._receive(deadline - time.monotonic()), f"Nothing came within {seconds:g} s: {self!r}"
        self._read += 1
        return self._seen(self.frames[self._read - 1])

    def message(self, seconds: float = SECONDS) -> Message | None:
        """The next JSON-RPC message, None at the end of the response."""
        deadline = time.monotonic() + seconds
        while (frame := self.frame(deadline - time.monotonic())) is not None:
            if frame.data:
                return message_of(frame)
        return None

    def next(self, seconds: float = SECONDS) -> Message:
        """The next JSON-RPC message, which there must be."""
        message = self.message(seconds)
        assert message is not None, f"The response ended: {self!r}"
        return message

    def messages(self, number: int, seconds: float = SECONDS) -> list[Message]:
        """That many messages."""
        return [self.next(seconds) for _ in range(number)]

    def rest(self, seconds: float = SECONDS) -> list[Message]:
        """All messages that come until the response ends."""
        deadline = time.monotonic() + seconds
        found = []
        while (message := self.message(deadline - time.monotonic())) is not None:
            found.append(message)
        return found

    def status(self) -> int:
        """The status, once it is there."""
        deadline = time.monotonic() + SECONDS
        while not self.response.status:
            assert not self.ended, "The connection was closed without a response."
            assert self._receive(deadline - time.monotonic()), f"No response within {SECONDS:g} s."
        return self.response.status

    # Not waiting

    def arrived(self) -> list[Message]:
        """The messages that have come since the last look."""
        while not self.ended and self._receive(0):
            pass
        return self.parsed()

    def parsed(self) -> list[Message]:
        """The messages that have been read from the connection and not been looked at."""
        found = [message_of(self._seen(frame)) for frame in self.frames[self._read :] if frame.data]
        self._read = len(self.frames)
        return found

    def take(self, size: int, seconds: float = SECONDS) -> None:
        """Read that many more bytes, or to the end."""
        deadline = time.monotonic() + seconds
        wanted = self._received + size
        while self._received < wanted and not self.ended:
            more = self._receive(deadline - time.monotonic(), wanted - self._received)
            assert more, f"Nothing came within {seconds:g} s: {self!r}"

    def close(self) -> None:
        """Break the connection."""
        self._socket.close()

    def _seen(self, frame: Frame) -> Frame:
        """The client knows of a frame from here on; what else has arrived is lost if the connection breaks now."""
        self.last_id = frame.id if frame.id is not None else self.last_id
        return frame

    def _receive(self, seconds: float, size: int = CHUNK) -> bool:
        """Read what is there or comes within so many seconds. False if nothing did."""
        self._socket.settimeout(max(0.0, seconds))
        try:
            data = self._socket.recv(size)
        except (TimeoutError, BlockingIOError):
            return False
        except ConnectionError:
            data = b""
        self._received += len(data)
        self.response.feed(data)
        self.ended = not data or self.response.complete
        self._parse()
        return True

    def _parse(self) -> None:
        if "text/event-stream" not in self.response.headers.get("content-type", ""):
            if self.ended and self.response.body:
                self.frames.append(Frame(None, None, self.response.body.decode()))
            return
        while (end := self.response.body.find(b"\n\n", self._parsed)) >= 0:
            frame = frame_of(self.response.body[self._parsed : end].decode())
            self._parsed = end + 2
            self.frames.append(frame)

    def __repr__(self) -> str:
        whole = "complete" if self.response.complete else "ended" if self.ended else "open"
        return f"<stream, {self.response.status}, {whole}, {bytes(self.response.body[-500:])!r}>"

    def __enter__(self) -> Stream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def frame_of(text: str) -> Frame:
    fields = {}
    for line in text.split("\n"):
        name, _, value = line.partition(":")
        fields[name] = value.removeprefix(" ")
    return Frame(fields.get("id"), int(fields["retry"]) if "retry" in fields else None, fields.get("data", ""))


def message_of(frame: Frame) -> Message:
    message: Message = json.loads(frame.data)
    return message


def is_answer(message: Message) -> bool:
    return "method" not in message


def progress_of(messages: Iterable[Message]) -> list[int]:
    return [message["params"]["progress"] for message in messages if message.get("method") == "notifications/progress"]


def check_whole(messages: list[Message], steps: int, token: str | None = None) -> None:
    """Every step was reported once and in order, then came the one answer, and nothing after it."""
    assert progress_of(messages) == list(range(1, steps + 1))
    assert [is_answer(message) for message in messages] == [False] * steps + [True], messages
    assert messages[-1]["result"]["structuredContent"] == {"steps": steps}
    if token is not None:
        assert {message["params"]["progressToken"] for message in messages[:-1]} == {token}


def close_all(streams: Iterable[Stream]) -> None:
    for stream in streams:
        with suppress(OSError):
            stream.close()
