"""What a test and the tools, hooks and signals it drives tell each other."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from time import monotonic
from typing import Any, NamedTuple

# For what a busy machine may take; nothing that works waits for it.
SECONDS = 60.0


class Event(NamedTuple):
    name: str
    detail: Any = None


class Gate:
    """A place where code stops until the test lets it go on. Made in the test's event loop; passed anywhere."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._reached = asyncio.Event()
        self._opened = asyncio.Event()
        self._opened_for_threads = threading.Event()
        self.arrivals = 0

    async def reached(self) -> None:
        """Wait until somebody stands at the gate."""
        async with asyncio.timeout(SECONDS):
            await self._reached.wait()

    def open(self) -> None:
        self._opened.set()
        self._opened_for_threads.set()

    async def enter(self) -> None:
        self.arrivals += 1
        self._reached.set()
        async with asyncio.timeout(SECONDS):
            await self._opened.wait()

    def enter_from_thread(self) -> None:
        self.arrivals += 1
        self._loop.call_soon_threadsafe(self._reached.set)
        assert self._opened_for_threads.wait(SECONDS), "Nobody opened the gate."


class Stage:
    """Holds and failures that a test sets for places by name, and the record of what came by."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.events: list[Event] = []
        self.tasks: list[asyncio.Task[Any]] = []
        self._gates: dict[str, Gate] = {}
        self._failures: dict[str, list[BaseException]] = {}
        self._barriers: dict[str, threading.Barrier] = {}
        self._lock = threading.Lock()

    def hold(self, place: str) -> Gate:
        """Whoever comes to ``place`` waits there."""
        gate = self._gates[place] = Gate()
        return gate

    def let_pass(self, place: str) -> None:
        """Whoever comes to ``place`` from now on is not held; those who wait there go on waiting."""
        del self._gates[place]

    def fail(self, place: str, error: BaseException, *, times: int = 1) -> None:
        """The next ``times`` visits to ``place`` raise."""
        self._failures[place] = [error] * times

    def record(self, place: str, detail: Any = None) -> None:
        self.events.append(Event(place, detail))

    async def visit(self, place: str, detail: Any = None) -> None:
        """Async code comes by: recorded, then held, then failed."""
        self.record(place, detail)
        if gate := self._gates.get(place):
            await gate.enter()
        self._fail(place)

    def visit_from_thread(self, place: str, detail: Any = None) -> None:
        """The same for sync code."""
        self.record(place, detail)
        if gate := self._gates.get(place):
            gate.enter_from_thread()
        self._fail(place)

    def meet(self, size: int) -> None:
        """Block this thread until ``size`` of them are here at once."""
        with self._lock:
            barrier = self._barriers.setdefault(f"{size}", threading.Barrier(size))
        barrier.wait(SECONDS)

    def names(self) -> list[str]:
        return [event.name for event in self.events]

    def count(self, place: str) -> int:
        return self.names().count(place)

    def details(self, place: str) -> list[Any]:
        return [event.detail for event in self.events if event.name == place]

    def _fail(self, place: str) -> None:
        if failures := self._failures.get(place):
            raise failures.pop()


stage = Stage()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that no event tells of."""
    deadline = monotonic() + SECONDS
    while not condition():
        assert monotonic() < deadline, "It did not come about in time."
        await asyncio.sleep(0.005)


async def until_async(condition: Callable[[], Awaitable[bool]], *, outcome: bool = True) -> None:
    """The same for what the database has to be asked."""
    deadline = monotonic() + SECONDS
    while await condition() is not outcome:
        assert monotonic() < deadline, "It did not come about in time."
        await asyncio.sleep(0.01)
