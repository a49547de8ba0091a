"""Sessions and connections for the workers: the project's own, only the HTTP server is left out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from django.conf import settings
from django.http import HttpRequest

from benchmarks import wire
from demo_project.everything.server import everything
from mcp_django import jsonrpc, legacy, native
from mcp_django.auth import ANONYMOUS
from mcp_django.http import Disconnect, Request
from mcp_django.live import LiveSession
from mcp_django.sessions import Visit, sessions

CONNECT_TIMEOUT = 10.0

PROGRESS = (
    jsonrpc.line(
        jsonrpc.notification("notifications/progress", {"progressToken": 1, "progress": "NUMBER", "message": "MESSAGE"})
    )
    .replace('"NUMBER"', "%d")
    .replace("MESSAGE", "%s")
)


class Connection:
    """The server's side of one event stream; it takes the place of the HTTP server below the native entry.

    Args:
        sent: called with each body that is handed over to be sent.
    """

    def __init__(self, sent: Callable[[bytes], None]) -> None:
        self._sent = sent
        self.begun = asyncio.Event()
        """Set once the first bytes were sent."""

    async def carry(self, frames: AsyncGenerator[bytes, None]) -> None:
        """Send a whole stream."""
        await native.send_frames(frames, Disconnect(self._gone), self._send)

    async def _send(self, event: Mapping[str, Any]) -> None:
        self._sent(event["body"])
        self.begun.set()

    async def _gone(self) -> None:
        # Nobody disconnects.
        await asyncio.get_running_loop().create_future()


async def open_session() -> tuple[str, LiveSession]:
    """Open a session as a client does: its id, and what this process holds of it."""
    opening = jsonrpc.message(jsonrpc.decode(wire.INITIALIZE.encode()))
    assert isinstance(opening, jsonrpc.Request)
    session_id, _result = await sessions().open(everything.kernel, ANONYMOUS, request({}), opening)
    return session_id, await sessions().find(Visit(everything.kernel, session_id, ANONYMOUS, request({})))


async def resumed(session_id: str, event_id: str) -> AsyncGenerator[bytes, None]:
    """The frames after an event, as a GET with ``Last-Event-ID`` gets them."""
    http = request({"Mcp-Session-Id": session_id, "Last-Event-ID": event_id})
    response = await legacy.get(everything.kernel, ANONYMOUS, http)
    assert response.frames is not None
    return response.frames


async def hints_get_through() -> None:
    """Wait until this process's hints come back from Redis, if it has one; the first ones take longer.

    Raises:
        TimeoutError: they do not.
    """
    wakeups = sessions().streams.wakeups
    wakeups.listen()
    if "hosts" not in settings.CHANNEL_LAYERS["default"].get("CONFIG", {}):
        return
    async with asyncio.timeout(CONNECT_TIMEOUT):
        while not wakeups.connected:  # noqa: ASYNC110 - wake-ups tell nobody
            await asyncio.sleep(0.01)


def messages(body: bytes) -> list[dict[str, Any]]:
    """The messages in some frames."""
    lines = [line.removeprefix(b"data: ") for line in body.splitlines() if line.startswith(b"data: {")]
    return [json.loads(line) for line in lines]


def request(headers: Mapping[str, str]) -> Request:
    """An HTTP request of nobody in particular."""
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Request("POST", raw, b"", lambda body: HttpRequest())


def progress(number: int, message: str = "") -> str:
    """The payload of a progress event. ``message`` is not to need escapes."""
    return PROGRESS % (number, message)
