"""Waiting without guessing how long: every wait has a deadline and says what it waited for."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic, sleep
from types import SimpleNamespace
from typing import Any, TypeVar

from django.db import connections

from mcp_django.lanes import Lane

ResultT = TypeVar("ResultT")

# For what a busy machine may take; nothing that works waits for it.
SECONDS = 60.0
STEP = 0.005


def eventually(condition: Callable[[], Any], what: str) -> None:
    """Poll where there is no event to wait for."""
    end = monotonic() + SECONDS
    while not condition():
        assert monotonic() < end, f"{what}: not within {SECONDS} s"
        sleep(STEP)


async def aeventually(condition: Callable[[], Any], what: str) -> None:
    """As `eventually`, while the event loop goes on."""
    end = monotonic() + SECONDS
    while not condition():
        assert monotonic() < end, f"{what}: not within {SECONDS} s"
        await asyncio.sleep(STEP)


async def happens(event: threading.Event, what: str) -> None:
    """Wait for an event that another thread sets."""
    assert await asyncio.to_thread(event.wait, SECONDS), f"{what}: not within {SECONDS} s"


async def in_thread(fn: Callable[..., ResultT], *args: Any, **kwargs: Any) -> ResultT:
    """Run ORM code beside the event loop, and leave no connection behind."""

    def run() -> ResultT:
        try:
            return fn(*args, **kwargs)
        finally:
            connections.close_all()

    return await asyncio.to_thread(run)


@contextmanager
def bounded(what: str) -> Iterator[None]:
    """Turn Python code that does not end into a failure; in the main thread only."""

    def fail(*args: Any) -> None:
        raise AssertionError(f"{what} did not end within {SECONDS} s")

    before = signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def end_lane(lane: Lane[Any]) -> None:
    """End a lane's threads, and with them their connections; the next item would start another."""
    lane._thread = None
    threads = threads_of(lane)
    for _thread in threads:
        lane._items.put([SimpleNamespace(abandoned=True)])  # type: ignore[list-item]
    for thread in threads:
        thread.join(SECONDS)
        assert not thread.is_alive(), f"lane {lane.name} did not end"


def threads_of(lane: Lane[Any]) -> list[threading.Thread]:
    """The threads that run for a lane; one, unless it was stuck."""
    targets = [(thread, getattr(thread, "_target", None)) for thread in threading.enumerate()]
    return [thread for thread, target in targets if getattr(target, "__self__", None) is lane]
