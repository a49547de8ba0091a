"""Cursors: connections on streams. Replay and live tail are the same read, so nothing falls in between.

A cursor is an iterator over frames. It holds no database connection and no thread while it waits.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING, Final, Literal

from mcp_django import jsonrpc, sse
from mcp_django.conf import mcp_settings
from mcp_django.exceptions import StoreUnavailable
from mcp_django.feeds import Feed
from mcp_django.sse import EventIds, Last, Place
from mcp_django.stream_batches import Notice

if TYPE_CHECKING:
    from mcp_django.live import LiveSession
    from mcp_django.streams import Streams

# Before this revision a connection began with its first event (Streamable HTTP 2025-11-25, resumability).
PRIMING_VERSION: Final = "2025-11-25"
RETRY_SECONDS: Final = 0.25
SLICE_EVENTS: Final = 128
LARGE_SLICE: Final = 1024 * 1024

Ending = Literal["taken over", "session ended", "polling", "shutdown"]

NOTICES: Final = {
    "tools": "notifications/tools/list_changed",
    "prompts": "notifications/prompts/list_changed",
    "resources": "notifications/resources/list_changed",
    "resource": "notifications/resources/updated",
}


class Cursor:
    """One connection on an exchange's stream.

    Args:
        session: whose stream it is. feed: the stream.
        place: where to begin; what comes after it is read.
        token: the connection as the stream's reader; None for the one that the exchange began with.
    """

    __slots__ = (
        "_limit",
        "_loop",
        "_timer",
        "_waiter",
        "_woken",
        "_written_at",
        "ending",
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
        self.streams = streams
        self.session = session
        self.feed = feed
        self.position = place.sequence
        self.told = place.told
        self.token = token
        self.ids = EventIds(feed.digest, feed.id, feed.request_ids)
        self.primes = session.protocol_version >= PRIMING_VERSION
        self.ending: Ending | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._woken = False
        self._written_at = 0.0
        self._limit = SLICE_EVENTS

    async def frames(self) -> AsyncGenerator[bytes, None]:
        """The bytes to send, until the stream or the connection is to end. Nothing is acquired before the first is
        asked for, since an iterator that never began never ends either."""
        self._loop = asyncio.get_running_loop()
        self.streams.attach(self)
        self._timer = self._loop.call_later(mcp_settings.KEEP_ALIVE, self._keep_alive)
        try:
            await self._begin()
            greeting = self._greeting()
            while (chunk := await self._next(greeting)) is not None:
                self._written_at = monotonic()
                if self.done:
                    yield Last(chunk)
                    return
                yield chunk
                greeting = b""
            if self.ending == "shutdown" and self.primes:
                yield sse.farewell(retry_milliseconds())
        finally:
            self._timer.cancel()
            self.streams.detach(self)

    def wake(self) -> None:
        """Look again. From any thread."""
        self._woken = True
        loop = self._loop
        if loop is None or self._waiter is None:
            return
        if loop is running_loop():
            self._set()
        elif not loop.is_closed():
            loop.call_soon_threadsafe(self._set)

    def close(self, ending: Ending) -> None:
        """End the connection once what is under way is sent. From any thread."""
        if self.ending is None:
            self.ending = ending
            self.wake()

    @property
    def done(self) -> bool:
        """Whether all was read that will ever come."""
        return self.feed.finished and self.position >= self.feed.last

    async def _begin(self) -> None:
        """What is to be done before the first frame."""

    def _greeting(self) -> bytes:
        if self.primes:
            return sse.priming(self.ids.at(self.position, self.told), retry_milliseconds())
        # Some servers send the head together with the first bytes of the body.
        return b"" if self.position < self.feed.last else sse.KEEP_ALIVE

    async def _next(self, greeting: bytes) -> bytes | None:
        """The next bytes, with ``greeting`` before them; None at the end."""
        while self.ending in (None, "polling", "shutdown"):
            self._woken = False
            if chunk := greeting + await self._read_if_possible():
                return chunk
            if self.ending is not None or self.done:
                return None
            if monotonic() - self._written_at >= mcp_settings.KEEP_ALIVE:
                return sse.KEEP_ALIVE
            await self._wait()
        return greeting or None

    async def _read_if_possible(self) -> bytes:
        """The next frames; none while the store is away, but a look again soon."""
        try:
            return await self._read()
        except StoreUnavailable:
            assert self._loop is not None
            self._loop.call_later(RETRY_SECONDS, self.wake)
            return b""

    async def _read(self) -> bytes:
        """The frames of the events that there are after the position.

        Raises:
            StoreUnavailable: that is not known at the moment.
        """
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

    async def _wait(self) -> None:
        assert self._loop is not None
        self._waiter = self._loop.create_future()
        try:
            # Set before the waiter was there: the wake-up that came meanwhile.
            if not self._woken:
                await self._waiter
        finally:
            self._waiter = None

    def _set(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _keep_alive(self) -> None:
        assert self._loop is not None
        due = self._written_at + mcp_settings.KEEP_ALIVE - monotonic()
        if due <= 0:
            self.wake()
            due = mcp_settings.KEEP_ALIVE
        self._timer = self._loop.call_later(due, self._keep_alive)


class StandaloneCursor(Cursor):
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
        self._notices: list[Notice] = []

    def tell(self, notices: Sequence[Notice], clock: int) -> None:
        """Hand over notices up to the number ``clock``. From any thread."""
        assert self._loop is not None
        if self._loop is running_loop():
            self._tell(notices, clock)
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._tell, notices, clock)

    def _tell(self, notices: Sequence[Notice], clock: int) -> None:
        mine = [notice for notice in notices if self.heard < notice.version <= clock and self._concerns(notice)]
        self.heard = max(self.heard, clock)
        if mine:
            self._notices += mine
            self.wake()
        elif not self._notices:
            self.told = self.heard

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
        notices, self._notices = self._notices, []
        frames = []
        for notice in notices:
            self.told = max(self.told, notice.version)
            params = {"uri": notice.uri} if notice.kind == "resource" else None
            payload = jsonrpc.line(jsonrpc.notification(NOTICES[notice.kind], params))
            frames.append(sse.event(payload, self.ids.at(self.position, self.told)))
        if not self._notices:
            self.told = max(self.told, self.heard)
        return b"".join(frames)

    def _concerns(self, notice: Notice) -> bool:
        return notice.kind != "resource" or notice.uri in self.session.subscriptions


def retry_milliseconds() -> int:
    """How long a client is to wait before it reconnects."""
    return int(mcp_settings.STREAM_RETRY * 1000)


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The event loop of this thread, if one runs."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
