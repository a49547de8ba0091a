"""Tools that meet inside the database layer, tools that show a session's state, and a restore that waits."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any, TypedDict

from django.contrib.contenttypes.models import ContentType
from django.db.models import QuerySet

from mcp_django import Context, Handle, Handler, RestoreMarker, tool
from mcp_django.models import Process, ProcessQuerySet
from mcp_django.store import ORMStore, session_store
from tests.live.app.server import live

MEETING_SECONDS = 30

parties: dict[str, threading.Barrier] = {}
parties_lock = threading.Lock()
restores: dict[str, asyncio.Event] = {}
semaphores: dict[str, asyncio.Semaphore] = {}
walking: set[str] = set()


class Met(TypedDict):
    rows: int


class Remembered(TypedDict):
    value: Any


class Meeting(QuerySet[ContentType]):
    """Counts rows, waits until all others of the party have done so too, and counts again.

    Whoever waits has an open connection and blocks the thread that its ORM call runs in. So the meeting comes
    about only if all of them run at the same time, and no clock is needed to see it.
    """

    party: threading.Barrier

    def count(self) -> int:
        super().count()
        self.party.wait(timeout=MEETING_SECONDS)
        return super().count()


def meeting(name: str, size: int) -> Meeting:
    with parties_lock:
        party = parties.setdefault(name, threading.Barrier(size))
    queryset = Meeting(ContentType)
    queryset.party = party
    return queryset


@live.tool()
def meet_sync(party: str, size: int) -> Met:
    """A sync tool that does ORM queries together with `size` others."""
    return {"rows": meeting(party, size).count()}


@live.tool()
async def meet_async(party: str, size: int) -> Met:
    """An async tool that does ORM queries together with `size` others."""
    return {"rows": await meeting(party, size).acount()}


@live.tool()
def remember(ctx: Context, key: str, value: int) -> Remembered:
    """Write into the session's state."""
    ctx.state.set(key, value)
    return {"value": value}


@live.tool()
async def recall(ctx: Context, key: str) -> Remembered:
    """Read from the session's state."""
    return {"value": await ctx.state.aget(key)}


@live.tool()
async def log_level(ctx: Context) -> Remembered:
    """The log level as the live session of this process has it."""
    return {"value": ctx.call.session.log_level}


class Tally(Handle):
    """A tally; start_tally makes one."""


@live.tool()
def start_tally() -> Tally:
    """Start a tally."""
    return Tally.create({"books": []})


@live.tool()
def tally(tally: Tally) -> Remembered:
    """Count on a tally."""
    return {"value": tally.state.increment("n")}


@live.tool()
async def note(tally: Tally, book: str) -> Remembered:
    """Note a book on a tally."""

    def add(state: dict[str, list[str]]) -> list[str]:
        state["books"].append(book)
        return state["books"]

    return {"value": await tally.state.amodify(add)}


@live.register
class Slow(Handler):
    """Restores of clients whose name begins with `slow` wait until another session's call lets them go on."""

    async def on_restore(self, marker: RestoreMarker) -> None:
        name = self.session.client_params.client_info.name
        if name.startswith("slow"):
            event = restores.setdefault(name, asyncio.Event())
            await asyncio.wait_for(event.wait(), MEETING_SECONDS)

    @tool()
    async def let_go(self, name: str) -> Remembered:
        """Let the restores of a client go on."""
        restores.setdefault(name, asyncio.Event()).set()
        return {"value": name}

    @tool()
    async def waiting(self) -> Remembered:
        """Which clients' restores wait."""
        return {"value": [name for name, event in restores.items() if not event.is_set()]}


@live.tool()
async def stepwise(party: str, steps: int, ctx: Context) -> Met:
    """Report progress each time that `let_step` is called, in this process, and then come back."""
    walking.add(party)
    try:
        for step in range(1, steps + 1):
            await asyncio.wait_for(steps_of(party).acquire(), MEETING_SECONDS)
            await ctx.report_progress(step, steps)
    finally:
        walking.discard(party)
    return {"rows": steps}


@live.tool()
async def is_walking(party: str) -> Remembered:
    """Whether `stepwise` or `stick` runs, in this process."""
    return {"value": party in walking}


@live.tool()
async def let_step(party: str) -> Remembered:
    """Let `stepwise` take one more step."""
    steps_of(party).release()
    return {"value": party}


def steps_of(party: str) -> asyncio.Semaphore:
    return semaphores.setdefault(party, asyncio.Semaphore(0))


@live.tool()
async def may_judge() -> Remembered:
    """Whether this process may take others for dead whose lease ran out."""
    store = session_store()
    return {"value": isinstance(store, ORMStore) and store.heartbeat.may_judge}


@live.tool()
async def is_alive(pid: int) -> Remembered:
    """Whether a process has renewed its lease in time."""
    return {"value": await Process.objects.filter(pk__in=ProcessQuerySet(Process).alive(), pid=pid).aexists()}


@live.tool()
def stick(party: str, seconds: float) -> Met:
    """Keep a thread busy, whatever anybody wants."""
    walking.add(party)
    time.sleep(seconds)
    return {"rows": 0}


@live.tool()
async def tell(text: str, ctx: Context) -> Remembered:
    """Send this session a notification on its standalone stream."""
    await live.anotify_session(ctx.session_key, "notifications/message", {"level": "info", "data": text})
    return {"value": text}


@live.tool()
async def session_key(ctx: Context) -> str:
    """The key of the session's row."""
    return ctx.session_key


@live.tool()
def fail() -> Met:
    """A tool with a bug, for what then stands in the log."""
    raise RuntimeError("This tool always fails.")
