"""Several server processes, played in this one.

Each has an id, a memory of live sessions, streams, a watcher and a lease of its own. They share the database, and
nothing else that counts: the store above it remembers nothing. Requests reach one of them at a time; the others go on
to live, with what they have begun.
"""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from datetime import timedelta
from math import inf
from time import monotonic

from django.db.models.functions import Now

from mcp_django import notices, patrol, processes, sessions, streams
from mcp_django.batches import Change
from mcp_django.models import Process
from mcp_django.sessions import Sessions
from mcp_django.store import ORMStore, session_store
from mcp_django.streams import Streams
from mcp_django.watcher import EVERYTHING
from tests.protocol.stage import SECONDS, until, until_async


class Processes:
    """The processes of one test. The first is there from the start."""

    def __init__(self) -> None:
        self._memories: dict[uuid.UUID, dict[int, Sessions]] = {}
        self.become(uuid.uuid4())

    @property
    def current(self) -> uuid.UUID:
        return processes.this_process()

    @property
    def sessions(self) -> Sessions:
        """The sessions of the current process."""
        return sessions.sessions()

    @property
    def streams(self) -> Streams:
        """The streams of the current process."""
        return self.sessions.streams

    def become(self, process: uuid.UUID) -> None:
        """The next requests reach this process; the one before it goes on to live."""
        if self._memories:
            self._memories[self.current] = dict(sessions._sessions)
        stop_heartbeat()
        processes._ids.clear()
        processes._ids[os.getpid()] = process
        sessions._sessions.clear()
        sessions._sessions.update(self._memories.setdefault(process, {}))
        # A notice is told at once to the streams of its own process only.
        leave_streams()
        for kept in sessions._sessions.values():
            streams.here.add(kept.streams)

    async def another(self) -> uuid.UUID:
        """The next requests reach a new process. Returns the one before, which lives and is known to do so."""
        before = self.current
        await until_async(Process.objects.using("default").filter(pk=before).aexists)
        self.become(uuid.uuid4())
        return before

    async def restart(self) -> uuid.UUID:
        """The process dies, its lease runs out, and a new one takes its place. Returns the dead one."""
        dead = self.streams
        before = await self.another()
        dead.watcher.stop()
        await asyncio.to_thread(dead.wakeups.stop)
        for call in tuple(dead.calls):
            assert call._task is not None
            # Not the way in which a client or a session's end does it: nobody writes an answer.
            call._task.cancel()
        await until(lambda: not dead.calls)
        await self.lose_lease(before)
        return before

    def end_others(self) -> None:
        """All processes but the current one end; they have nothing under way."""
        for process in [process for process in self._memories if process != self.current]:
            for kept in self._memories.pop(process).values():
                assert not kept.streams.calls
                kept.streams.watcher.stop()
                kept.streams.wakeups.stop()

    async def lose_lease(self, process: uuid.UUID) -> None:
        """A process has not renewed its lease for long: it died, or it is frozen."""
        longer = 10 * Process.LEASE + timedelta(seconds=1)
        await Process.objects.using("default").filter(pk=process).aupdate(seen_at=Now() - longer)

    async def let_judge(self) -> None:
        """The current process has reached the database for a full lease, so it may take others for dead."""
        store = session_store()
        assert isinstance(store, ORMStore)
        heartbeat = store.heartbeat
        heartbeat.start()
        await until(lambda: heartbeat._renewed_at > -inf)
        heartbeat._unbroken_since = monotonic() - 2 * Process.LEASE.total_seconds()
        assert heartbeat.may_judge

    async def tick(self) -> None:
        """The current process looks at everything once, as it does all the time."""
        await self.streams.watcher.look({EVERYTHING})


_left: set[Streams] = set()


def leave_streams() -> None:
    """The streams of this process are those of another one from now on."""
    _left.update(streams.here)
    streams.here.clear()


def stop_heartbeat() -> None:
    """No process of the test's renews its lease any more; the next that keeps a session does."""
    store = session_store()
    if isinstance(store, ORMStore):
        store.heartbeat.stop()


def write_all() -> None:
    """Wait until the store has written what nobody waits for."""
    store = session_store()
    if isinstance(store, ORMStore) and store.writes._thread is not None:
        written = threading.Event()
        store.writes.post(Change(lambda: True), written.set)
        assert written.wait(SECONDS), "The store's lane for writes is stuck."


def forget() -> None:
    """This process begins anew: no live session, no id, no thread that looks after streams."""
    stop_heartbeat()
    patrol.stop()
    leave_streams()
    while _left:
        left = _left.pop()
        left.watcher.stop()
        left.wakeups.stop()
    sessions._sessions.clear()
    processes._ids.clear()
    if notices._own_sender.cache_info().currsize:
        notices._own_sender().stop()
        notices._own_sender.cache_clear()
