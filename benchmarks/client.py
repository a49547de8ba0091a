"""A plain MCP client on one kept connection: opens sessions, times calls, believes no answer unchecked."""

from __future__ import annotations

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any

from benchmarks import wire
from benchmarks.errors import BenchmarkError

TIMEOUT = 30.0


@dataclass(frozen=True)
class Endpoint:
    """Where a running server answers, whether it keeps sessions (legacy era) or none (modern era), and the bearer
    tokens that its clients have, if they do not come anonymously."""

    port: int
    path: str
    has_sessions: bool
    tokens: tuple[str, ...] = ()

    def token(self, number: int) -> str | None:
        """The token that the client with this number has: they are dealt out in turn."""
        return self.tokens[number % len(self.tokens)] if self.tokens else None


class Client:
    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.token = endpoint.token(0)
        """Sent with every request."""
        self._connection = HTTPConnection("127.0.0.1", endpoint.port, timeout=TIMEOUT)

    def close(self) -> None:
        self._connection.close()

    def open_session(self) -> str:
        status, session_id, body = self._post(wire.opening_headers(), wire.INITIALIZE)
        if status != 200 or session_id is None:
            raise BenchmarkError(f"initialize: expected 200 and an Mcp-Session-Id, got {status}: {body[:200]!r}")
        status, _, body = self._post(wire.legacy_headers(session_id), wire.INITIALIZED)
        if status != 202:
            raise BenchmarkError(f"notifications/initialized: expected 202, got {status}: {body[:200]!r}")
        return session_id

    def add(self, session_id: str | None, number: int) -> None:
        """Call ``add(number, 1)`` and check the answer."""
        if session_id is None:
            status, _, body = self._post(wire.modern_headers(), wire.ADD.modern % (number, number))
        else:
            status, _, body = self._post(wire.legacy_headers(session_id), wire.ADD.legacy % (number, number))
        message = _message(body) if status == 200 else {}
        result = message.get("result", {}).get("structuredContent", {}).get("result")
        if message.get("id") != number or result != number + 1:
            raise BenchmarkError(f"add({number}, 1): expected {number + 1}, got {status}: {body[:300]!r}")

    def _post(self, headers: dict[str, str], body: str) -> tuple[int, str | None, bytes]:
        try:
            self._connection.request(
                "POST", self._endpoint.path, body.encode(), headers | wire.authorization(self.token)
            )
            response = self._connection.getresponse()
            return response.status, response.getheader("Mcp-Session-Id"), response.read()
        except (OSError, HTTPException) as error:
            raise BenchmarkError(f"No answer on port {self._endpoint.port}: {error!r}") from error


def open_sessions(endpoint: Endpoint, count: int, workers: int = 4) -> list[str]:
    """Open ``count`` sessions, each initialised and with one checked call behind it; each is its own token's, if there
    are tokens."""

    def open_share(numbers: range) -> list[str]:
        session_ids = []
        with closing(Client(endpoint)) as client:
            for number in numbers:
                client.token = endpoint.token(number)
                session_ids.append(client.open_session())
                client.add(session_ids[-1], 1)
        return session_ids

    edges = [count * worker // workers for worker in range(workers + 1)]
    with ThreadPoolExecutor(workers) as pool:
        shares = pool.map(open_share, map(range, edges, edges[1:]))
        return [session_id for opened in shares for session_id in opened]


def call_each(client: Client, session_ids: Iterable[str], first_number: int = 1) -> None:
    for number, session_id in enumerate(session_ids, start=first_number):
        client.add(session_id, number)


def _message(body: bytes) -> dict[str, Any]:
    """The JSON-RPC message of a JSON body, or the last one of an event stream."""
    if not body.startswith(b"{"):
        body = [line[5:] for line in body.splitlines() if line.startswith(b"data:") and line[5:].strip()][-1]
    message: dict[str, Any] = json.loads(body)
    return message
