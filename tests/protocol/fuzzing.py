"""Requests that are almost right: valid ones of both eras, with something of them changed by chance."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from tests.protocol.client import Client, Exchange, Session, initialize_params
from tests.protocol.stateless import MODERN, Stateless

Lines = list[tuple[bytes, bytes]]

WORDS: Sequence[Any] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1.5,
        2**63,
        10**400,
        -(10**400),
        1e308,
        "",
        " ",
        "0",
        "\x00",
        "\ud83d",
        "😀",
        "a" * 5000,
    ),
    *([], {}, [[]], [None], {"": None}, {"a": {"a": {"a": {}}}}, "__proto__", "{}", "%s%n", "../../etc", "<script>"),
    *("initialize", "ping", "tools/call", "tools/list", "notifications/initialized", "notifications/cancelled"),
    *("2024-11-05", "2025-03-26", "2025-11-25", MODERN, "9999-99-99", "mcp", "session", "add", "protocol://books/1"),
)
BYTES: Sequence[bytes] = (
    *(b"", b" ", b"0", b"\x00", b"\xff\xfe", b"\xc3\x28", b"a" * 9000, b",", b";", b'"', b"null", b"application/json"),
    *(b"text/event-stream", b"*/*", b"text/plain", b"Bearer token-of-alice", b"Bearer ", b"Basic eA==", b"-1", b"1e9"),
    *(b"2025-03-26", b"2025-11-25", MODERN.encode(), b"testserver", b"evil.example", b"null", b"http://testserver"),
)
NAMES: Sequence[bytes] = (
    *(b"accept", b"content-type", b"content-length", b"host", b"origin", b"cookie", b"authorization", b"last-event-id"),
    *(b"mcp-session-id", b"mcp-protocol-version", b"mcp-method", b"mcp-name", b"mcp-param-shelf", b"x-forwarded-for"),
    *(b"transfer-encoding", b"expect", b"x-odd", b"forwarded", b"sec-fetch-site", b"access-control-request-headers"),
)
METHODS = ("POST", "POST", "POST", "GET", "DELETE", "OPTIONS", "HEAD", "PUT", "PATCH", "TRACE", "post", "X")
BODIES: Sequence[bytes] = (
    *(b"", b"[", b"[" * 20_000, b"{" * 2000, b"nul", b'{"a":1,"a":2}', b"\xef\xbb\xbf{}", b"1" * 5000, b"[]" * 3),
    *(b'{"jsonrpc":"2.0"}', b"NaN", b'"\\ud800"', b"{}\n{}", b'{"id":1e999}', "{}".encode("utf-16")),
)


class Mutator:
    """Makes such requests; the same ones for the same seed."""

    def __init__(self, client: Client, seed: int) -> None:
        self.random = random.Random(seed)
        self._client = client
        self._stateless = Stateless(client)

    def begin(self, session: Session, event_id: str) -> tuple[Exchange, str]:
        """Send one. Returns it, and how it is made, for a message."""
        body, headers = self._message(session)
        method = "POST"
        if self.random.random() < 0.1:
            method, headers = "GET", {**headers, "Last-Event-ID": event_id, "Accept": "text/event-stream"}
        if self.random.random() < 0.1:
            method = self.random.choice(METHODS)
        lines: Lines = [
            (name.lower().encode(), str(value).encode("latin-1"))
            for name, value in headers.items()
            if value is not None
        ]
        raw = self._bytes(json.dumps(body).encode())
        for _ in range(self.random.choice((0, 0, 1, 1, 2))):
            self._change_headers(lines)
        scope = self._client.scope(method, lines)
        told = f"{method} {lines} {raw[:500]!r}"
        return Exchange(self._client.application, scope, self._chunks(raw)), told

    def _message(self, session: Session) -> tuple[Any, dict[str, Any]]:
        stateless = self._stateless
        makers: Sequence[Callable[[], Any]] = (
            lambda: self._client.message("initialize", initialize_params()),
            lambda: session.tool("add", a=1, b=2),
            lambda: session.tool("acount"),
            lambda: self._client.message("tools/list"),
            lambda: self._client.message("resources/read", {"uri": "protocol://books/1"}),
            lambda: self._client.message("resources/subscribe", {"uri": "protocol://books/1"}),
            lambda: self._client.message("logging/setLevel", {"level": "info"}),
            lambda: self._client.message(
                "completion/complete",
                {"ref": {"type": "ref/prompt", "name": "greet"}, "argument": {"name": "name", "value": "a"}},
            ),
            lambda: {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}},
            lambda: {"jsonrpc": "2.0", "id": "1", "result": {}},
            lambda: [session.tool("add", a=1, b=2), self._client.message("ping")],
            lambda: stateless.tool("add", {"a": 1, "b": 2}),
            lambda: stateless.message("tools/list"),
            lambda: stateless.message("server/discover"),
            lambda: stateless.message("subscriptions/listen", {"notifications": {"toolsListChanged": True}}),
        )
        message = self.random.choice(makers)()
        meta = message.get("params", {}).get("_meta") if isinstance(message, dict) else None
        headers = stateless.headers(message) if meta else session.headers({"Mcp-Session-Id": session.id})
        for _ in range(self.random.choice((0, 1, 1, 2))):
            message = self._changed(message)
        return message, {**self._client.headers(), **headers}

    def _changed(self, value: Any) -> Any:
        """A message with one of its parts replaced, taken out or put twice."""
        if self.random.random() < 0.05 or not isinstance(value, (dict, list)) or not value:
            return self.random.choice(WORDS)
        if isinstance(value, list):
            place = self.random.randrange(len(value))
            return [*value[:place], self._changed(value[place]), *value[place:][self.random.choice((0, 1)) :]]
        key = self.random.choice(list(value))
        match self.random.randrange(4):
            case 0:
                return {name: item for name, item in value.items() if name != key}
            case 1:
                return {**value, str(self.random.choice(WORDS)): value[key]}
            case _:
                return {**value, key: self._changed(value[key])}

    def _bytes(self, body: bytes) -> bytes:
        match self.random.randrange(20):
            case 0:
                return self.random.choice(BODIES)
            case 1:
                return body[: self.random.randrange(len(body) + 1)]
            case 2:
                place = self.random.randrange(len(body) + 1)
                return body[:place] + self.random.choice(BYTES) + body[place:]
            case 3:
                return body[::-1]
            case _:
                return body

    def _chunks(self, body: bytes) -> list[bytes]:
        if self.random.random() < 0.9:
            return [body]
        place = self.random.randrange(len(body) + 1)
        return [body[:place], b"", body[place:]]

    def _change_headers(self, lines: Lines) -> None:
        match self.random.randrange(4):
            case 0 if lines:
                del lines[self.random.randrange(len(lines))]
            case 1 if lines:
                lines.append(self.random.choice(lines))
            case 2 if lines:
                place = self.random.randrange(len(lines))
                lines[place] = (lines[place][0], self.random.choice(BYTES))
            case _:
                lines.append((self.random.choice(NAMES), self.random.choice(BYTES)))
