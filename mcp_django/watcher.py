"""The watcher: looks in the store for what other processes did to the streams, sessions and questions of this one.

One for each process, in a thread of its own. Every ``MCP_DJANGO_POLL_INTERVAL`` it asks for everything at once, in a
few queries whatever the number of streams; a hint makes it look at one thing at once. Without any hint everything
still happens, later.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from django.utils import timezone

from mcp_django.background import BackgroundLoop
from mcp_django.conf import mcp_settings
from mcp_django.cursors import Cursor, StandaloneCursor
from mcp_django.exceptions import StoreUnavailable
from mcp_django.hearers import Hearer
from mcp_django.lanes import inline
from mcp_django.models import Cancellation
from mcp_django.store import SessionHead
from mcp_django.stream_reads import StreamHead

if TYPE_CHECKING:
    from mcp_django.feeds import Feed
    from mcp_django.live import LiveSession
    from mcp_django.streams import Streams

logger = logging.getLogger("mcp_django.streams")

EVERYTHING = "*"


class Watcher:
    """Keeps the feeds, calls and questions of one process in step with the store."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._background = BackgroundLoop("mcp-django-watcher")
        self._started = False
        self._hints: set[str] = set()
        self._hinted: asyncio.Event | None = None

    def start(self) -> None:
        """Begin to look; in tests that run inside a transaction there are no other processes."""
        if self._started or inline.enabled:
            return
        self._started = True
        self._background.spawn(self._run)
        self._streams.wakeups.listen()

    def stop(self) -> None:
        """End the thread."""
        self._started = False
        self._background.stop()

    def look_soon(self, address: str) -> None:
        """Something happened at an address. From any thread."""
        self.hinted((address,))

    def hinted(self, addresses: Iterable[str]) -> None:
        """The same for several addresses."""
        if self._started:
            self._background.call(self._note, frozenset(addresses))

    def _note(self, addresses: frozenset[str]) -> None:
        self._hints |= addresses
        if self._hinted is not None:
            self._hinted.set()

    async def _run(self) -> None:
        self._hinted = asyncio.Event()
        if self._hints:
            # They came while this was starting.
            self._hinted.set()
        while True:
            try:
                async with asyncio.timeout(mcp_settings.POLL_INTERVAL):
                    await self._hinted.wait()
            except TimeoutError:
                self._hints = {EVERYTHING}
            self._hinted.clear()
            addresses, self._hints = self._hints, set()
            try:
                await self.look(addresses)
            except StoreUnavailable as error:
                logger.debug("the watcher could not look: %s", error)
            except Exception:
                logger.exception("the watcher failed; it goes on")

    async def look(self, addresses: set[str]) -> None:
        """Look at these addresses, or at everything that concerns this process.

        Raises:
            StoreUnavailable: nothing was found out.
        """
        streams = self._streams
        everything = EVERYTHING in addresses
        feeds = {f.id: f for f in list(streams.feeds.values()) if f.cursors}
        sessions = self._sessions()
        servers = self._servers()
        questions = list(streams.questions)
        if not everything:
            feeds = {id: feed for id, feed in feeds.items() if f"stream:{id:x}" in addresses}
            servers = {server: hearers for server, hearers in servers.items() if f"topics:{server}" in addresses}
            hearing = {h.feed.digest for hs in servers.values() for h in hs if isinstance(h, StandaloneCursor)}
            sessions = {d: live for d, live in sessions.items() if f"session:{d}" in addresses or d in hearing}
            questions = [question for question in questions if f"question:{question}" in addresses]
        if not (feeds or sessions or servers or questions):
            return
        # Together, so that they share visits to the database.
        orphans, *_nothing = await asyncio.gather(
            self._look_at_streams(feeds),
            self._look_at_sessions_and_notices(sessions, servers),
            self._look_at_answers(questions),
        )
        if orphans and streams.store.may_judge:
            await self._end_orphans(orphans)

    # Streams

    async def _look_at_streams(self, feeds: dict[int, Feed]) -> dict[int, StreamHead]:
        """Bring feeds up to date; returns where those stand whose producer seems dead."""
        orphans: dict[int, StreamHead] = {}
        if not feeds:
            return orphans
        # A connection that becomes the reader while the store is asked is newer than the answer.
        readers = {id: readers_of(feed) for id, feed in feeds.items()}
        heads = await self._streams.store.heads(feeds)
        for id, feed in feeds.items():
            head = heads.get(id)
            if head is None:
                if not feed.standalone:
                    feed.saw(feed.last, finished=True)
                continue
            self._look_at_readers(feed, head, readers[id])
            if not feed.produced:
                feed.saw(head.last, finished=head.finished)
                if not (head.finished or head.standalone or head.alive) and head.process != self._streams.process:
                    orphans[id] = head
        return orphans

    def _look_at_readers(self, feed: Feed, head: StreamHead, readers: list[Cursor]) -> None:
        for cursor in readers:
            if head.reader is not None and head.reader != cursor.token:
                cursor.close("taken over")
        if head.reader is None:
            for cursor in tuple(feed.cursors):
                if isinstance(cursor, StandaloneCursor):
                    cursor.may_read()

    async def _end_orphans(self, orphans: dict[int, StreamHead]) -> None:
        for id, head in orphans.items():
            logger.warning("stream=%x: its process is gone; ending it", id)
            await self._streams.end_orphan(id, head)
        feeds = {id: feed for id in orphans if (feed := self._streams.feeds.get(id)) is not None}
        await self._look_at_streams(feeds)

    # Sessions

    def _sessions(self) -> dict[str, set[LiveSession]]:
        """Sessions with a running call or an open connection."""
        found: dict[str, set[LiveSession]] = defaultdict(set)
        for cursor in tuple(self._streams.cursors):
            found[cursor.feed.digest].add(cursor.session)
        for call in tuple(self._streams.calls):
            found[call.session.digest].add(call.session)
        return found

    async def _look_at_sessions(self, sessions: dict[str, set[LiveSession]]) -> None:
        if not sessions:
            return
        store = self._streams.sessions
        heads = await store.heads(sessions)
        now = timezone.now()
        changed: dict[str, SessionHead] = {}
        for digest, live in sessions.items():
            head = heads.get(digest)
            if head is None or not head.is_live(now):
                self._streams.session_ended(digest)
                continue
            # Who is connected uses the session.
            expires_at = now + mcp_settings.SESSION_TTL
            if expires_at - head.expires_at >= mcp_settings.TOUCH_RESOLUTION:
                store.touch(digest, now, expires_at)
            if any(session.watched_epoch < head.epoch for session in live):
                changed[digest] = head
        if changed:
            await self._look_at_changes({digest: sessions[digest] for digest in changed}, changed)

    async def _look_at_changes(self, sessions: dict[str, set[LiveSession]], heads: dict[str, SessionHead]) -> None:
        cancelled = await self._streams.store.cancellations(sessions)
        for digest, live in sessions.items():
            record = await self._streams.sessions.load(digest)
            for session in live:
                if record is not None and session.epoch < record.epoch:
                    session.refresh(record)
                session.watched_epoch = heads[digest].epoch
        for call in tuple(self._streams.calls):
            if call.id is not None and Cancellation.key_of(call.id) in cancelled.get(call.session.digest, ()):
                call.cancel()

    # Notices and answers

    def _servers(self) -> dict[str, list[Hearer]]:
        """Servers whose notices somebody here hears."""
        found: dict[str, list[Hearer]] = defaultdict(list)
        for cursor in tuple(self._streams.cursors):
            if isinstance(cursor, StandaloneCursor) and cursor.reads:
                found[cursor.server].append(cursor)
        for listener in tuple(self._streams.listeners):
            found[listener.server].append(listener)
        return found

    async def _look_at_sessions_and_notices(
        self, sessions: dict[str, set[LiveSession]], servers: dict[str, list[Hearer]]
    ) -> None:
        # In this order: whoever subscribed before a notice was raised is known as a subscriber when it is told.
        clocks = await self._streams.store.clocks(servers) if servers else {}
        await self._look_at_sessions(sessions)
        await self._look_at_notices(servers, clocks)

    async def _look_at_notices(self, servers: dict[str, list[Hearer]], clocks: dict[str, int]) -> None:
        store = self._streams.store
        for server, clock in clocks.items():
            behind = [hearer for hearer in servers[server] if hearer.heard < clock]
            if not behind:
                continue
            uris = {uri for hearer in behind for uri in hearer.uris}
            notices = await store.notices(server, min(hearer.heard for hearer in behind), uris)
            for hearer in behind:
                hearer.tell(notices, clock)

    async def _look_at_answers(self, questions: list[Any]) -> None:
        if not questions:
            return
        for question, text in (await self._streams.store.answers(questions)).items():
            self._streams.settle(question, text)


def readers_of(feed: Feed) -> list[Cursor]:
    """The connections on a stream that read it: all but those that are held until they may."""
    return [cursor for cursor in tuple(feed.cursors) if not isinstance(cursor, StandaloneCursor) or cursor.reads]
