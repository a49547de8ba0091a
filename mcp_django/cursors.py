"""Cursors: connections on streams. Replay and live tail are the same read, so nothing falls in between."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from mcp_django import jsonrpc, sse
from mcp_django.conf import mcp_settings
from mcp_django.connections import Connection
from mcp_django.exceptions import StoreUnavailable
from mcp_django.feeds import Feed
from mcp_django.hearers import Hearer, params_of
from mcp_django.sse import EventIds, Place

if TYPE_CHECKING:
    from mcp_django.live import LiveSession
    from mcp_django.streams import Streams

# Before this revision a connection began with its first event (Streamable HTTP 2025-11-25, resumability).
PRIMING_VERSION: Final = "2025-11-25"
SLICE_EVENTS: Final = 128
LARGE_SLICE: Final = 1024 * 1024

NOTICES: Final = {
    "tools": "notifications/tools/list_changed",
    "prompts": "notifications/prompts/list_changed",
    "resources": "notifications/resources/list_changed",
    "resource": "notifications/resources/updated",
}


class Cursor(Connection):
    """One connection on an exchange's stream.

    Args:
        session: whose stream it is. feed: the stream.
        place: where to begin; what comes after it is read.
        token: the connection as the stream's reader; None for the one that the exchange began with.
    """

    __slots__ = (
        "_limit",
        "feed",
        "ids",
        "position",
        "primes",
        "session",
        "streams",
        "token",
        "told",
    )

    def __init__(
        self, streams: Streams, session: LiveSession, feed: Feed, place: Place, token: uuid.UUID | None = None
    ) -> None:
        super().__init__()
        self.streams = streams
        self.session = session
        self.feed = feed
        self.position = place.sequence
        self.told = place.told
        self.token = token
        self.ids = EventIds(feed.digest, feed.id, feed.request_ids)
        self.primes = session.protocol_version >= PRIMING_VERSION
        self._limit = SLICE_EVENTS

    @property
    def done(self) -> bool:
        return self.feed.finished and self.position >= self.feed.last

    def _attach(self) -> None:
        self.streams.attach(self)

    def _detach(self) -> None:
        self.streams.detach(self)

    def _greeting(self) -> bytes:
        if self.primes:
            return sse.priming(self.ids.at(self.position, self.told), retry_milliseconds())
        # Some servers send the head together with the first bytes of the body.
        return b"" if self.position < self.feed.last else sse.KEEP_ALIVE

    def _farewell(self) -> bytes:
        return sse.farewell(retry_milliseconds()) if self.primes else b""

    async def _read(self) -> bytes:
        if self.position >= self.feed.last:
            return b""
        events = self.feed.after(self.position)
        if events is None:
            events = await self._slice()
        return self._framed(events)

    async def _slice(self) -> list[tuple[int, str]]:
        events = await self.streams.store.events(self.feed.id, self.position, self._limit)
        # Large events are read in ones and twos, so that what a slow reader holds is bounded.
        size = sum(len(payload) for _sequence, payload in events)
        self._limit = 1 if size > LARGE_SLICE else min(SLICE_EVENTS, 2 * self._limit)
        return events

    def _framed(self, events: Sequence[tuple[int, str]]) -> bytes:
        if events:
            self.position = events[-1][0]
        return b"".join(sse.event(payload, self.ids.at(sequence, self.told)) for sequence, payload in events)


class StandaloneCursor(Hearer, Cursor):
    """One connection on a session's standalone stream: the one reader, or held until it becomes that.

    Args:
        server: the name of the server whose notices the reader hears.
        takes_over: whether it becomes the reader at once, whoever was.
        resumes: whether it goes on from an event id; if not, from what the last reader had.
    """

    __slots__ = ("_notices", "_resumes", "_takes_over", "claimed", "delivered", "heard", "reads", "server")

    token: uuid.UUID

    def __init__(
        self,
        streams: Streams,
        session: LiveSession,
        feed: Feed,
        place: Place,
        *,
        server: str,
        takes_over: bool,
        resumes: bool,
    ) -> None:
        super().__init__(streams, session, feed, place, uuid.uuid4())
        self.server = server
        self.claimed = False
        self.reads = False
        self.delivered = 0
        self.heard = place.told
        self._takes_over = takes_over
        self._resumes = resumes
        self._notices = {}

    def may_read(self) -> None:
        """The stream has lost its reader. From any thread."""
        if not self.reads:
            self.wake()

    async def _begin(self) -> None:
        with suppress(StoreUnavailable):
            await self._claim()

    async def _claim(self) -> bool:
        """Become the reader, if that is possible, and find out where to go on.

        Raises:
            StoreUnavailable: it may have become it or not.
        """
        found = await self.streams.claim(self, takes_over=self._takes_over)
        self._takes_over = False
        if found is None:
            return False
        head, clock = found
        self.delivered = head.delivered
        if not self._resumes:
            self.position, self.told, self.heard = head.delivered, head.told, head.told
        self.reads = True
        self.feed.saw(head.last, finished=False)
        if self.heard < clock:
            self.streams.watcher.look_soon(f"topics:{self.server}")
        return True

    def _greeting(self) -> bytes:
        # A held connection gets no event id: with one it could take the stream over.
        return super()._greeting() if self.reads else sse.KEEP_ALIVE

    async def _read(self) -> bytes:
        greeting = b""
        if not self.reads:
            if not await self._claim():
                return b""
            greeting = self._greeting() if self.primes else b""
        return greeting + await super()._read() + self._framed_notices()

    async def _slice(self) -> list[tuple[int, str]]:
        events = await super()._slice()
        # Claimed before it is sent: a message goes to one connection, whoever else believes to be the reader.
        if events and events[-1][0] > self.delivered:
            if not await self._deliver(events[-1][0]):
                self.close("taken over")
                return []
            self.delivered = events[-1][0]
        return events

    async def _deliver(self, sequence: int) -> bool:
        store = self.streams.store
        if await store.deliver(self.feed.id, self.token, sequence):
            return True
        # An attempt that seemed to fail may have been the one that got through.
        head = (await store.heads([self.feed.id])).get(self.feed.id)
        return head is not None and head.reader == self.token

    def _framed_notices(self) -> bytes:
        frames = []
        for notice in self._take_notices():
            self.told = max(self.told, notice.version)
            payload = jsonrpc.line(jsonrpc.notification(NOTICES[notice.kind], params_of(notice)))
            frames.append(sse.event(payload, self.ids.at(self.position, self.told)))
        self.told = max(self.told, self.heard)
        return b"".join(frames)

    @property
    def uris(self) -> frozenset[str]:
        return self.session.subscriptions

    def _has_nothing_to_tell(self) -> None:
        self.told = self.heard


def retry_milliseconds() -> int:
    """How long a client is to wait before it reconnects."""
    return int(mcp_settings.STREAM_RETRY * 1000)
