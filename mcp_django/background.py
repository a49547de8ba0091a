"""Background loops: an event loop in a daemon thread of its own, for work that belongs to no request.

The loops in which requests run come and go (WSGI, tests, commands) and are not ours to burden. A background loop is
started at first use and again after a fork, and anything may be handed to it from any thread.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any, Generic, NoReturn, TypeVar, TypeVarTuple

logger = logging.getLogger("mcp_django.background")

MadeT = TypeVar("MadeT")
ResultT = TypeVar("ResultT")
Args = TypeVarTuple("Args")

JOIN_SECONDS = 3.0
ROUND_SECONDS = 0.5
ROUNDS = 3


class PerProcess(Generic[MadeT]):
    """One object per process, made at first use and anew after a fork.

    What the parent had made stays here in the child, untouched. Its locks may be held by threads that the child does
    not have, and closing its sockets would take them out of the parent's epoll set, which both share.
    """

    def __init__(self, make: Callable[[], MadeT]) -> None:
        self._make = make
        self._made: dict[int, MadeT] = {}

    def get(self) -> MadeT:
        """This process's object; of several threads that come first, all get the same one."""
        pid = os.getpid()
        made = self._made.get(pid)
        return self._made.setdefault(pid, self._make()) if made is None else made


class _Started:
    """What one process has started: the loop and its thread, or nothing yet."""

    def __init__(self) -> None:
        # Re-entrant: a signal handler may come to use the loop while its thread is in here.
        self.lock = threading.RLock()
        self.loop: asyncio.AbstractEventLoop | None = None
        self.thread: threading.Thread | None = None
        # The loop keeps only weak references to tasks.
        self.tasks: set[asyncio.Task[None]] = set()


class BackgroundLoop:
    """An event loop in a daemon thread called ``name``. All methods may be called from any thread."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._started = PerProcess(_Started)

    def start(self) -> None:
        """Start the thread if this process has none.

        Raises:
            RuntimeError: no thread can be started, for instance because the interpreter is ending.
        """
        self._loop()

    def call(self, fn: Callable[[*Args], object], *args: *Args) -> None:
        """Call ``fn`` in the loop soon, in a fresh context. What it raises is logged by the loop.

        Raises:
            RuntimeError: as :meth:`start`.
        """
        while True:
            loop = self._loop()
            try:
                loop.call_soon_threadsafe(fn, *args, context=contextvars.Context())
                return
            except RuntimeError:
                # Ended since we asked for it; the next one is another.
                if not loop.is_closed():
                    raise

    def spawn(self, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run the coroutine that ``make`` returns as a task of the loop; an exception that ends it is logged.

        Raises:
            RuntimeError: as :meth:`start`.
        """
        self.call(self._launch, make)

    def stop(self) -> None:
        """Cancel all tasks, end the thread and wait for it, some seconds at most. The next use starts another.

        In the loop itself this returns at once, and the end comes when the running callback is through.
        """
        started = self._started.get()
        with started.lock:
            loop, thread = started.loop, started.thread
            started.loop = started.thread = None
        if loop is None or thread is None:
            return
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(loop.stop)
        if thread is not threading.current_thread():
            thread.join(JOIN_SECONDS)

    def _loop(self) -> asyncio.AbstractEventLoop:
        started = self._started.get()
        loop = started.loop
        if loop is None:
            with started.lock:
                loop = started.loop or self._start(started)
        return loop

    def _start(self, started: _Started) -> asyncio.AbstractEventLoop:
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._run, args=(started, loop), name=self.name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            loop.close()
            raise
        started.loop, started.thread = loop, thread
        return loop

    def _run(self, started: _Started, loop: asyncio.AbstractEventLoop) -> None:
        try:
            loop.run_forever()
        finally:
            with started.lock:
                if started.loop is loop:
                    started.loop = started.thread = None
            wind_up(loop)

    def _launch(self, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        tasks = self._started.get().tasks
        task = asyncio.get_running_loop().create_task(self._guarded(make))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    async def _guarded(self, make: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await make()
        except Exception:
            logger.exception("loop=%s: a task ended with an error", self.name)


def wind_up(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel a stopped loop's tasks and close it, in some rounds of ``ROUND_SECONDS``.

    A task may catch its cancellation and then wait for a connection that is dead, and so may libraries that hook
    themselves into ``loop.close()``: each round interrupts whatever the one before was stuck in. A task that refuses
    to end is left behind.
    """

    def end_tasks() -> None:
        loop.run_until_complete(_end_tasks(loop))

    for _round in range(ROUNDS):
        if _in_time(loop, end_tasks):
            break
    for _round in range(ROUNDS):
        if _in_time(loop, loop.close):
            break
        _in_time(loop, end_tasks)


def _in_time(loop: asyncio.AbstractEventLoop, step: Callable[[], None]) -> bool:
    guard = loop.call_later(ROUND_SECONDS, loop.stop)
    try:
        step()
    except Exception as error:
        logger.debug("an event loop did not end at once: %r", error)
        return False
    finally:
        guard.cancel()
    return True


async def _end_tasks(loop: asyncio.AbstractEventLoop) -> None:
    while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    await loop.shutdown_asyncgens()


async def within(seconds: float, operation: Awaitable[ResultT]) -> ResultT:
    """The operation's result. After ``seconds`` it is cancelled and left alone.

    ``asyncio.timeout`` would wait for it to clean up after itself, which may take a dead connection for ever.

    Raises:
        TimeoutError: it took longer.
    """
    task = _started(operation)
    done, _pending = await asyncio.wait([task], timeout=seconds)
    if not done:
        task.cancel()
        raise TimeoutError
    return task.result()


async def first_failure(*endless: Coroutine[Any, Any, None]) -> NoReturn:
    """Run coroutines that never return, until one fails, and raise its error. The others go on until their loop ends.

    A task group would wait for them to clean up, see :func:`within`.
    """
    tasks = [_started(coroutine) for coroutine in endless]
    done, _pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    errors = [None if task.cancelled() else task.exception() for task in done]
    raise errors[0] or asyncio.InvalidStateError("A task was cancelled from within.")


def _started(operation: Awaitable[ResultT]) -> asyncio.Future[ResultT]:
    """A task for the operation, whose exception nobody needs to ask for."""
    task = asyncio.ensure_future(operation)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task
