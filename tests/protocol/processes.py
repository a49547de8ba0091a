"""Several server processes, played one at a time in this one.

Each has an id, a memory of live sessions and a lease of its own. They share the database, and nothing else that
counts: the store above it remembers nothing.
"""

from __future__ import annotations

import os
import uuid
from datetime import timedelta

from django.db.models.functions import Now

from mcp_django import processes, sessions
from mcp_django.models import Process
from mcp_django.sessions import Sessions
from mcp_django.store import ORMStore, session_store
from tests.protocol.stage import until_async


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

    def become(self, process: uuid.UUID) -> None:
        """The next requests reach this process; the one before it goes on to live."""
        if self._memories:
            self._memories[self.current] = dict(sessions._sessions)
        stop_heartbeat()
        processes._ids.clear()
        processes._ids[os.getpid()] = process
        sessions._sessions.clear()
        sessions._sessions.update(self._memories.setdefault(process, {}))

    async def another(self) -> uuid.UUID:
        """The next requests reach a new process. Returns the one before, which lives and is known to do so."""
        before = self.current
        await until_async(Process.objects.using("default").filter(pk=before).aexists)
        self.become(uuid.uuid4())
        return before

    async def restart(self) -> uuid.UUID:
        """The process dies, its lease runs out, and a new one takes its place. Returns the dead one."""
        before = await self.another()
        await (
            Process.objects.using("default")
            .filter(pk=before)
            .aupdate(seen_at=Now() - 10 * Process.LEASE - timedelta(seconds=1))
        )
        return before


def stop_heartbeat() -> None:
    """No process of the test's renews its lease any more; the next that keeps a session does."""
    store = session_store()
    if isinstance(store, ORMStore):
        store._heartbeat.stop()


def forget() -> None:
    """This process begins anew: no live session, no id."""
    stop_heartbeat()
    sessions._sessions.clear()
    processes._ids.clear()
