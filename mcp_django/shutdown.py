"""The end of a server process, as its clients see it.

Servers wait at shutdown for open responses to end, and event streams never do; the lifespan's shutdown comes after
that wait, too late to end them. So the signals are listened to: connections on streams close with the word to come
back, and calls that do not end in time are ended with an error now, not when the lease of this process runs out.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
from collections.abc import Callable, Collection, Coroutine
from contextlib import suppress
from types import FrameType
from typing import Any, Final

from mcp_django import replies
from mcp_django.calls import Call
from mcp_django.conf import mcp_settings
from mcp_django.exceptions import StoreUnavailable
from mcp_django.streams import Streams, here

# SIGQUIT is how gunicorn passes a Ctrl-C on to its workers. Windows has none.
SIGNALS: Final = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGQUIT") if hasattr(signal, name))
SETTLE_SECONDS: Final = 0.5
REASON: Final = "The server is shutting down and has ended the request. It may be sent again."

_installed: dict[int, asyncio.AbstractEventLoop] = {}
_ending: set[asyncio.Task[None]] = set()


def install() -> None:
    """Listen to the signals that end this process, once, before whoever listens to them now.

    Only in the main thread's event loop, which is where ASGI servers serve; elsewhere (WSGI, tests, runserver) nothing
    is installed. Servers set their handlers when they start, so this is for the first request to do.
    """
    pid = os.getpid()
    if pid in _installed or threading.current_thread() is not threading.main_thread():
        return
    _installed[pid] = asyncio.get_running_loop()
    for number in SIGNALS:
        before = signal.getsignal(number)
        if callable(before):
            signal.signal(number, chained(before))


def chained(before: Callable[[int, FrameType | None], Any]) -> Callable[[int, FrameType | None], Any]:
    """A signal handler that begins the end here, then does what the server does."""

    def handle(number: int, frame: FrameType | None) -> Any:
        loop = _installed.get(os.getpid())
        if loop is not None and not loop.is_closed():
            # The loop may be asleep, and only this wakes it.
            loop.call_soon_threadsafe(begin)
        return before(number, frame)

    return handle


def begin() -> None:
    """Start to end all streams and calls of this process. In its event loop."""
    # The interpreter looks for garbage once more when it ends, in everything that was ever imported: up to a second.
    gc.freeze()
    open_streams = [streams for streams in list(here) if not streams.closing]
    for streams in open_streams:
        streams.closing = True
        begin_in_task(end(streams))
    begin_in_task(end_calls(tuple(replies.running)))


def begin_in_task(ending: Coroutine[Any, Any, None]) -> None:
    """Run this in a task that nobody waits for."""
    task = asyncio.get_running_loop().create_task(ending)
    _ending.add(task)
    task.add_done_callback(_ending.discard)


async def end(streams: Streams) -> None:
    """Close connections that wait for nothing of this process, end running calls, then close the other connections."""
    for listener in tuple(streams.listeners):
        listener.close("shutdown")
    running = {call.exchange.feed for call in streams.calls if call.exchange is not None}
    for cursor in tuple(streams.cursors):
        if cursor.feed not in running:
            cursor.close("shutdown")
    await end_calls(tuple(streams.calls))
    for cursor in tuple(streams.cursors):
        cursor.close("shutdown")


async def end_calls(calls: Collection[Call]) -> None:
    """Give running calls their time, and end those that remain with an error."""
    try:
        calls = await unfinished(calls, mcp_settings.SHUTDOWN_GRACE)
    except asyncio.CancelledError:
        # gunicorn on Ctrl-C cancels whatever runs, the calls too, and waits a moment for what comes of it.
        for call in calls:
            call._give_up(REASON)
    else:
        for call in calls:
            call.give_up(REASON)
    await unfinished(calls, SETTLE_SECONDS)


async def unfinished(calls: Collection[Call], seconds: float) -> tuple[Call, ...]:
    """Those of ``calls`` whose answers are still not written after ``seconds``."""
    if calls:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(call.settled.wait() for call in calls))
    return tuple(call for call in calls if not call.settled.is_set())


async def farewell() -> None:
    """Leave nothing behind that others would wait for: the lease of this process, and what it reads."""
    for streams in list(here):
        with suppress(StoreUnavailable):
            await streams.leave()
