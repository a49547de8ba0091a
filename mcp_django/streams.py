"""The streams of this process: what it produces, what it follows, whom it asks.

The producer of a stream appends and never knows who reads; a connection is a cursor and never knows who writes. Both
meet here, and across processes in the store: the watcher looks there for what other processes did.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import uuid
from collections import Counter
from concurrent.futures import Future, InvalidStateError
from dataclasses import replace
from hashlib import sha256
from itertools import count
from time import monotonic
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakSet

from mcp_django import jsonrpc
from mcp_django.answers import payload_of
from mcp_django.background import PerProcess
from mcp_django.conf import mcp_settings
from mcp_django.connections import RETRY_SECONDS
from mcp_django.cursors import Cursor, StandaloneCursor
from mcp_django.exceptions import StoreUnavailable, StreamLost
from mcp_django.feeds import Feed
from mcp_django.hearers import Hearer
from mcp_django.memory_streams import MemoryStreams
from mcp_django.processes import this_process
from mcp_django.store import ORMStore, SessionStore
from mcp_django.stream_batches import NEVER_TOLD, Append, Question, StreamRecord
from mcp_django.stream_reads import StreamHead
from mcp_django.stream_store import ORMStreams, StreamStore
from mcp_django.wakeups import Wakeups
from mcp_django.watcher import Watcher

if TYPE_CHECKING:
    from mcp_django.session_calls import SessionCall

logger = logging.getLogger("mcp_django.streams")

FINISH_PATIENCE: Final = 10


here: WeakSet[Streams] = WeakSet()
"""All that were made in this process; more than one in tests only."""


class Streams:
    """The feeds, cursors, listeners, running calls and open questions of one process."""

    def __init__(self, sessions: SessionStore) -> None:
        self.process = this_process()
        self.sessions = sessions
        self.store: StreamStore = ORMStreams(sessions) if isinstance(sessions, ORMStore) else MemoryStreams()
        self.feeds: dict[int, Feed] = {}
        self.cursors: set[Cursor] = set()
        self.listeners: set[Hearer] = set()
        """Connections that hear a server's notices and belong to no session."""
        self.calls: set[SessionCall] = set()
        self.questions: dict[uuid.UUID, Future[str]] = {}
        self.closing = False
        self._by_session: Counter[str] = Counter()
        self.watcher = Watcher(self)
        self.wakeups = Wakeups(self.watcher.hinted)
        here.add(self)

    # Producing

    async def open(
        self,
        digest: str,
        request_ids: tuple[jsonrpc.RequestId, ...],
        method: str,
        name: str,
        payload: str = "",
        asks: Question | None = None,
    ) -> Feed:
        """Open an exchange's stream, with its first event if there is one. Both are committed on return.

        Raises:
            StoreUnavailable, StreamLost: there is no stream.
        """
        record = StreamRecord(next_id(), digest, self.process, request_ids, method, name)
        feed = Feed(record.id, digest, request_ids=request_ids, produced=True)
        await self._commit(Append(feed.id, 1 if payload else 0, payload, opens=record, asks=asks))
        self.feeds[feed.id] = feed
        if payload:
            feed.push(1, payload, finished=False)
        return feed

    async def append(self, feed: Feed, payload: str, *, asks: Question | None = None, finishes: bool = False) -> None:
        """Commit the next event of a stream of this process, and have it sent.

        Raises:
            StreamLost: another process took this one for dead and ended the stream.
            StoreUnavailable: the database stayed away for longer than ``MCP_DJANGO_STREAM_PATIENCE``.
        """
        if not feed.produced:
            # It was told so before. What others wrote is known here by now, so that a sequence would be free.
            raise StreamLost
        item = Append(feed.id, feed.last + 1, payload, asks=asks, finishes=finishes)
        try:
            item = await self._commit_next(feed, item)
        except StreamLost:
            logger.warning("stream=%x was ended by another process, which took this one for dead", feed.id)
            feed.lose()
            if not feed.cursors:
                self.feeds.pop(feed.id, None)
            self.watcher.look_soon(f"stream:{feed.id:x}")
            raise
        feed.push(item.sequence, payload, finished=finishes)
        if finishes and not feed.cursors:
            self.feeds.pop(feed.id, None)
        self.wakeups.send(f"stream:{feed.id:x}")

    async def _commit_next(self, feed: Feed, item: Append) -> Append:
        """Append after what may be there already: whoever wrote the event before may have been cancelled meanwhile."""
        unsure = feed.unsure
        feed.unsure = (*unsure, item)
        try:
            await self._commit(item)
        except StreamLost:
            deadline = monotonic() + mcp_settings.STREAM_PATIENCE
            for earlier in unsure:
                if await self._is_there(earlier, deadline):
                    break
            else:
                raise
            feed.push(earlier.sequence, earlier.payload, finished=False)
            item = replace(item, sequence=earlier.sequence + 1)
            feed.unsure = (item,)
            await self._commit(item)
        feed.unsure = ()
        return item

    async def _commit(self, item: Append) -> None:
        """Append, and if the database is away wait for it: a failover must not end a call."""
        patience = mcp_settings.STREAM_PATIENCE * (FINISH_PATIENCE if item.finishes else 1)
        deadline = monotonic() + patience
        while True:
            try:
                await self.store.append(item)
                return
            except StreamLost:
                # An attempt that seemed to fail, here or in the lane, may have been the one that got through.
                if await self._is_there(item, deadline):
                    return
                raise
            except StoreUnavailable:
                if monotonic() > deadline:
                    raise
                await asyncio.sleep(RETRY_SECONDS)

    async def _is_there(self, item: Append, deadline: float) -> bool:
        while True:
            try:
                if not item.sequence:
                    return item.stream in await self.store.heads([item.stream])
                found = await self.store.events(item.stream, item.sequence - 1, 1)
                return found == [(item.sequence, item.payload)]
            except StoreUnavailable:
                if monotonic() > deadline:
                    raise
                await asyncio.sleep(RETRY_SECONDS)

    async def post(self, digest: str, message: dict[str, Any]) -> None:
        """Append a message to a session's standalone stream.

        Raises:
            EventTooLarge, StoreUnavailable.
        """
        stream = standalone_id(digest)
        sequence = await self.store.post(stream, digest, payload_of(message))
        if feed := self.feeds.get(stream):
            feed.saw(sequence, finished=False)
        self.wakeups.send(f"stream:{stream:x}")

    # Following

    async def follow(self, stream: int, digest: str) -> tuple[Feed, StreamHead] | None:
        """The feed of a stream of this session, and where the store has it; None if it is not kept."""
        head = (await self.store.heads([stream])).get(stream)
        if head is None or head.digest != digest:
            return None
        feed = self.feeds.get(stream)
        if feed is None:
            feed = Feed(
                stream,
                digest,
                request_ids=tuple(json.loads(head.request_ids_json)),
                standalone=head.standalone,
                last=head.last,
                finished=head.finished,
            )
        elif not feed.produced:
            feed.saw(head.last, finished=head.finished)
        return feed, head

    async def take_over(self, cursor: Cursor) -> None:
        """Have no other connection than this one read an exchange's stream."""
        assert cursor.token is not None
        await self.store.take_over(cursor.feed.id, cursor.token, self.process, cursor.told)
        for other in tuple(cursor.feed.cursors):
            if other is not cursor:
                other.close("taken over")
        self.wakeups.send(f"stream:{cursor.feed.id:x}")

    async def close_connections(self, feed: Feed) -> None:
        """Close the connections on a stream, wherever they are; their clients come back for the rest."""
        if feed.cursors:
            for cursor in tuple(feed.cursors):
                cursor.close("polling")
            return
        # The call may be quicker than the connection that it came by.
        feed.first_closes = True
        await self.store.take_over(feed.id, uuid.uuid4(), self.process, 0)
        self.wakeups.send(f"stream:{feed.id:x}")

    async def claim(self, cursor: StandaloneCursor, *, takes_over: bool) -> tuple[StreamHead, int] | None:
        """Make a connection the reader of its standalone stream; None if another one is.

        Returns:
            where the stream stood before, and the number of the server's last notice.

        Raises:
            StoreUnavailable: it may be the reader now or not, and is to try again.
        """
        feed, store = cursor.feed, self.store
        clock = await self.clock(cursor.server)
        head = (await store.heads([feed.id])).get(feed.id)
        if head is None:
            await store.open_standalone(feed.id, feed.digest, clock)
            head = (await store.heads([feed.id]))[feed.id]
        cursor.claimed = True
        take = store.take_over if takes_over else store.take_if_free
        if not await take(feed.id, cursor.token, self.process, clock if head.told == NEVER_TOLD else None):
            cursor.claimed = False
            return None
        for other in tuple(feed.cursors):
            if other is not cursor and isinstance(other, StandaloneCursor) and other.reads:
                other.close("taken over")
        self.wakeups.send(f"stream:{feed.id:x}")
        # Read again: until a moment ago the last reader may have claimed events, or left word of what it was told.
        return (await store.heads([feed.id]))[feed.id], clock

    def attach(self, cursor: Cursor) -> None:
        """A connection begins to read."""
        feed = self.feeds.setdefault(cursor.feed.id, cursor.feed)
        if feed is not cursor.feed:
            feed.saw(cursor.feed.last, finished=cursor.feed.finished)
            cursor.feed = feed
        feed.cursors.add(cursor)
        self.cursors.add(cursor)
        self._by_session[feed.digest] += 1
        cursor.session.streams += 1
        if self.closing and (feed.finished or not feed.produced):
            # Those that wait for a call of this process hear how it ends.
            cursor.close("shutdown")
        elif cursor.token is None and feed.first_closes:
            cursor.close("polling")
        elif cursor.token is not None and self._too_many(feed.digest):
            # Several came at once, and there was room for each when it was let in.
            cursor.close("polling")
        self.watcher.start()

    def detach(self, cursor: Cursor) -> None:
        """A connection is gone."""
        feed = cursor.feed
        feed.cursors.discard(cursor)
        self.cursors.discard(cursor)
        self._by_session[feed.digest] -= 1
        if not self._by_session[feed.digest]:
            del self._by_session[feed.digest]
        cursor.session.streams -= 1
        if not feed.cursors and not (feed.produced and not feed.finished):
            self.feeds.pop(feed.id, None)
        if isinstance(cursor, StandaloneCursor) and cursor.claimed and cursor.ending != "taken over":
            told = cursor.told if cursor.reads else None
            self.store.release(feed.id, cursor.token, told, lambda: self._released(feed))

    async def clock(self, server: str) -> int:
        """The number of a server's last notice.

        Raises:
            StoreUnavailable: it is not known.
        """
        return (await self.store.clocks([server]))[server]

    def listen(self, listener: Hearer) -> None:
        """A connection begins to hear a server's notices."""
        self.listeners.add(listener)
        if self.closing:
            listener.close("shutdown")
        self.watcher.start()
        # What was raised since it asked where the server stood.
        self.watcher.look_soon(f"topics:{listener.server}")

    def _released(self, feed: Feed) -> None:
        self.wakeups.send(f"stream:{feed.id:x}")
        for cursor in tuple(feed.cursors):
            cursor.wake()

    def _too_many(self, digest: str) -> bool:
        return (
            self._by_session[digest] > mcp_settings.MAX_SESSION_STREAMS or self.connections > mcp_settings.MAX_STREAMS
        )

    @property
    def connections(self) -> int:
        """How many are open here."""
        return len(self.cursors) + len(self.listeners)

    def connections_of(self, digest: str) -> int:
        """How many connections of a session are open here."""
        return self._by_session[digest]

    def session_ended(self, digest: str) -> None:
        """Close a session's standalone stream, and end its calls with an error, which ends the others. From any
        thread."""
        for cursor in tuple(self.cursors):
            if cursor.feed.digest == digest and cursor.feed.standalone:
                cursor.close("session ended")
        for call in tuple(self.calls):
            if call.session.digest == digest:
                call.give_up("The session has ended, and the request with it.")

    async def leave(self) -> None:
        """This process ends: wait for what is still to be written, and give up its lease.

        Raises:
            StoreUnavailable: it runs out by itself then.
        """
        self.closing = True
        try:
            await self.store.leave(self.process)
        finally:
            # Both wait for threads, and a stalled broker may hold one for some seconds.
            await asyncio.to_thread(self.wakeups.stop)
            await asyncio.to_thread(self.watcher.stop)

    # Asking and cancelling

    async def answer(self, digest: str, question: uuid.UUID, answer: dict[str, Any]) -> bool:
        """Take a client's answer, for whichever process asked. False if it changes nothing."""
        text = jsonrpc.line(answer)
        if not await self.store.answer(digest, question, text):
            return False
        self.settle(question, text)
        self.wakeups.send(f"question:{question}")
        return True

    def settle(self, question: uuid.UUID, text: str) -> None:
        """Hand an answer to whoever waits for it here; the first one counts. From any thread."""
        waiting = self.questions.pop(question, None)
        if waiting is not None:
            # Whoever waited may have given up this very moment.
            with contextlib.suppress(InvalidStateError):
                waiting.set_result(text)

    async def cancel(self, digest: str, request_id: jsonrpc.RequestId) -> None:
        """Cancel a call of this session that may run in another process."""
        await self.store.cancel(digest, request_id)
        self.wakeups.send(f"session:{digest}")

    async def end_orphan(self, stream: int, head: StreamHead) -> None:
        """End the stream of a process that died, for those who follow it."""
        assert head.process is not None
        text = "The server process that ran this request is gone, and the request with it. It may be sent again."
        errors = [jsonrpc.error(id, jsonrpc.CALL_LOST, text) for id in json.loads(head.request_ids_json)]
        with contextlib.suppress(StreamLost):
            await self.store.end_orphan(stream, head.process, tuple(jsonrpc.line(error) for error in errors))
            self.wakeups.send(f"stream:{stream:x}")


def next_id() -> int:
    """The id of an exchange's stream. A process counts on from a random place, so that what is written at once stands
    side by side in tables and indexes; random ids would have every event written to a page of its own."""
    return next(_ids.get())


_ids = PerProcess(lambda: count(secrets.randbits(34) << 29))


def standalone_id(digest: str) -> int:
    """The id of a session's standalone stream: it follows from the session, so there cannot be two."""
    return int.from_bytes(sha256(f"standalone {digest}".encode()).digest()[:8]) >> 1
