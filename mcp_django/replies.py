"""Replies: what one stateless request is answered with, in one piece or as a stream that lives as long as its reader.

Nothing is kept of it. A request that ends without a word is answered with JSON and its HTTP status; the first message,
or a wait as long as between two keep-alives, turns the answer into a stream. Who closes the stream cancels the request
(Streamable HTTP 2026-07-28, cancellation).
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any, Final

from mcp_django import sse
from mcp_django.answers import payload_of, payload_of_answer
from mcp_django.conf import mcp_settings
from mcp_django.connections import Connection

if TYPE_CHECKING:
    from mcp_django.calls import Call

MAX_UNSENT: Final = 64 * 1024

running: set[Call] = set()
"""The calls of this process that are answered by replies."""


class Reply(Connection):
    """The answer to one request, and the stream to whoever waits for it.

    Args:
        streams_allowed: whether the connection can carry a stream; under WSGI it cannot.
    """

    __slots__ = (
        "_answer",
        "_patience",
        "_room",
        "_sent",
        "_unsent",
        "_unsent_size",
        "call",
        "decided",
        "streams",
        "streams_allowed",
    )

    def __init__(self, *, streams_allowed: bool) -> None:
        super().__init__()
        loop = asyncio.get_running_loop()
        self.streams_allowed = streams_allowed
        self.call: Call | None = None
        self.decided: asyncio.Future[None] = loop.create_future()
        """Done once it is known whether the answer is one piece or a stream."""
        self.streams = False
        self._answer: dict[str, Any] | None = None
        self._unsent: deque[bytes] = deque()
        self._unsent_size = 0
        self._room: asyncio.Event | None = None
        self._sent = False
        self._patience = loop.call_later(mcp_settings.KEEP_ALIVE, self._open) if streams_allowed else None

    @property
    def calls(self) -> set[Any]:
        return running

    @property
    def answer(self) -> dict[str, Any]:
        """The JSON-RPC response, once it is there."""
        assert self._answer is not None
        return self._answer

    async def send(self, message: dict[str, Any]) -> None:
        """Send a message ahead of the answer. Waits while the client is slow to read.

        Raises:
            EventTooLarge: it was not sent.
        """
        if not self.streams_allowed or self._answer is not None:
            return
        frame = sse.event(payload_of(message), None)
        while self._unsent_size and self._unsent_size + len(frame) > MAX_UNSENT:
            self._room = asyncio.Event()
            await self._room.wait()
        self._unsent.append(frame)
        self._unsent_size += len(frame)
        self._open()
        self.wake()

    async def settle(self, place: int, answer: dict[str, Any]) -> None:
        """Take the answer."""
        self._answer = answer
        # The call holds on to its reply: together they would be left to the garbage collector.
        self.call = None
        self._decide()
        self.wake()

    async def close_connections(self) -> None:
        """Nothing: whoever closes this connection gives up the request."""

    def abandoned(self) -> None:
        """The client is gone."""
        if self._answer is None and self.call is not None:
            self.call.cancel("The client has closed the connection.")

    def _open(self) -> None:
        if not self.decided.done():
            self.streams = True
            self._decide()
            # A client that is gone by now does not begin to read, and an iterator that never began never ends.
            loop = asyncio.get_running_loop()
            self._patience = loop.call_later(mcp_settings.KEEP_ALIVE, self.abandoned)

    def _decide(self) -> None:
        self._stop_waiting()
        if not self.decided.done():
            self.decided.set_result(None)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    # The stream

    @property
    def done(self) -> bool:
        return self._sent

    def _attach(self) -> None:
        self._stop_waiting()

    def _detach(self) -> None:
        self.abandoned()

    async def _read(self) -> bytes:
        frames = b"".join(self._unsent)
        self._unsent.clear()
        self._unsent_size = 0
        if self._room is not None:
            self._room.set()
            self._room = None
        if self._answer is not None:
            frames += sse.event(payload_of_answer(self._answer), None)
            self._sent = True
        return frames
