"""Background loops: one thread per process, usable from any thread, that ends in time whatever its tasks do."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import os
import subprocess
import sys
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.conf import settings

from mcp_django import background
from mcp_django.background import BackgroundLoop, PerProcess, within
from tests.unit.waiting import SECONDS, bounded, eventually

NAME = "mcp-django-test"
colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


@pytest.fixture
def loop() -> Iterator[BackgroundLoop]:
    loop = BackgroundLoop(NAME)
    yield loop
    loop.stop()
    eventually(lambda: not threads(), "the loop's thread ends")


@pytest.fixture(autouse=True, scope="module")
def nothing_is_left_open() -> Iterator[None]:
    """What was left open is found here, and not in the middle of another module's tests."""
    yield
    gc.collect()


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == NAME]


def ask(loop: BackgroundLoop, fn: Callable[[], Any]) -> Any:
    """What a function returns in the loop."""
    answered, answers = threading.Event(), []

    def answer() -> None:
        answers.append(fn())
        answered.set()

    loop.call(answer)
    assert answered.wait(SECONDS), "the loop did not answer"
    return answers[0]


class Endless:
    """A coroutine that waits for ever, and a record of how often it was told to end."""

    def __init__(self, refusals: int = 0) -> None:
        self.refusals = refusals
        self.started, self.ended = threading.Event(), threading.Event()
        self.cancelled = 0

    async def __call__(self) -> None:
        self.started.set()
        try:
            while True:
                try:
                    await asyncio.get_running_loop().create_future()
                except asyncio.CancelledError:
                    self.cancelled += 1
                    if self.cancelled > self.refusals:
                        raise
        finally:
            self.ended.set()

    def run_in(self, loop: BackgroundLoop) -> None:
        loop.spawn(self)
        assert self.started.wait(SECONDS), "the task did not start"


class TestThread:
    def test_nothing_runs_before_the_first_use(self, loop: BackgroundLoop) -> None:
        assert threads() == []

    def test_the_thread_has_the_loops_name_and_keeps_no_process_alive(self, loop: BackgroundLoop) -> None:
        loop.start()
        (thread,) = threads()
        assert thread.daemon

    def test_starting_twice_starts_one_thread(self, loop: BackgroundLoop) -> None:
        loop.start()
        loop.start()
        assert len(threads()) == 1

    def test_many_threads_that_come_first_start_one_thread(self, loop: BackgroundLoop) -> None:
        crowd = 8
        barrier = threading.Barrier(crowd)

        def start(_number: int) -> Any:
            barrier.wait(SECONDS)
            return ask(loop, threading.current_thread)

        with ThreadPoolExecutor(crowd) as pool:
            assert set(pool.map(start, range(crowd))) == set(threads())

    def test_calls_run_in_the_loop_in_the_order_they_were_made(self, loop: BackgroundLoop) -> None:
        seen: list[int] = []
        for number in range(20):
            loop.call(seen.append, number)
        running = ask(loop, asyncio.get_running_loop)
        assert seen == list(range(20))
        assert ask(loop, asyncio.get_running_loop) is running

    def test_a_call_from_within_the_loop_comes_later(self, loop: BackgroundLoop) -> None:
        seen: list[str] = []
        later = threading.Event()

        def first() -> None:
            loop.call(seen.append, "second")
            loop.call(later.set)
            seen.append("first")

        loop.call(first)
        assert later.wait(SECONDS)
        assert seen == ["first", "second"]

    def test_where_no_thread_can_be_started_the_caller_hears_of_it_and_the_next_one_tries_again(
        self, loop: BackgroundLoop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(thread: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            with pytest.raises(RuntimeError, match="start new thread"):
                loop.call(lambda: None)
        assert ask(loop, lambda: "here") == "here"


class TestContext:
    def test_a_call_does_not_see_the_callers_context(self, loop: BackgroundLoop) -> None:
        token = colour.set("red")
        assert ask(loop, colour.get) == "none"
        colour.reset(token)

    def test_a_task_does_not_see_the_callers_context_nor_another_tasks(self, loop: BackgroundLoop) -> None:
        seen: list[str] = []
        done = threading.Event()

        async def look() -> None:
            seen.append(colour.get())
            colour.set("blue")

        async def look_last() -> None:
            await look()
            done.set()

        token = colour.set("red")
        loop.spawn(look)
        loop.spawn(look_last)
        assert done.wait(SECONDS)
        colour.reset(token)
        assert seen == ["none", "none"]


class TestTasks:
    def test_an_exception_that_ends_a_task_is_logged_and_the_loop_goes_on(
        self, loop: BackgroundLoop, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def fail() -> None:
            raise ValueError("this one")

        loop.spawn(fail)
        eventually(lambda: caplog.records, "the error is logged")
        (record,) = caplog.records
        assert record.name == "mcp_django.background"
        assert record.exc_info
        assert str(record.exc_info[1]) == "this one"
        assert ask(loop, lambda: "here") == "here"

    def test_a_task_that_cannot_even_be_made_is_logged(
        self, loop: BackgroundLoop, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail() -> Any:
            raise ValueError("this one")

        loop.spawn(fail)
        eventually(lambda: caplog.records, "the error is logged")
        assert [record.name for record in caplog.records] == ["mcp_django.background"]

    def test_a_call_that_fails_is_logged_and_the_loop_goes_on(
        self, loop: BackgroundLoop, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail() -> None:
            raise ValueError("this one")

        loop.call(fail)
        assert ask(loop, lambda: "here") == "here"
        assert [record.levelno for record in caplog.records] == [logging.ERROR]

    def test_a_task_that_nobody_else_holds_is_not_collected(self, loop: BackgroundLoop) -> None:
        waiting: list[weakref.ref[asyncio.Future[None]]] = []
        done = threading.Event()

        async def wait() -> None:
            future = asyncio.get_running_loop().create_future()
            waiting.append(weakref.ref(future))
            await future
            done.set()

        loop.spawn(wait)
        eventually(lambda: waiting, "the task waits")
        gc.collect()

        def go_on() -> None:
            future = waiting[0]()
            assert future is not None
            future.set_result(None)

        loop.call(go_on)
        assert done.wait(SECONDS)
        eventually(lambda: not loop._started.get().tasks, "a task that has ended is let go")


class TestStop:
    def test_it_cancels_the_tasks_and_ends_the_thread(self, loop: BackgroundLoop) -> None:
        tasks = [Endless(), Endless()]
        for task in tasks:
            task.run_in(loop)
        running = ask(loop, asyncio.get_running_loop)
        loop.stop()
        assert threads() == []
        assert [task.cancelled for task in tasks] == [1, 1]
        assert running.is_closed()

    def test_stopping_what_never_started_or_has_stopped_does_nothing(self, loop: BackgroundLoop) -> None:
        loop.stop()
        loop.start()
        loop.stop()
        loop.stop()
        assert threads() == []

    def test_the_next_use_starts_another_thread(self, loop: BackgroundLoop) -> None:
        first = ask(loop, asyncio.get_running_loop)
        loop.stop()
        assert ask(loop, asyncio.get_running_loop) is not first
        assert len(threads()) == 1

    def test_a_task_may_stop_its_own_loop_and_start_the_next(self, loop: BackgroundLoop) -> None:
        before, after = Endless(), Endless()
        before.run_in(loop)

        async def replace() -> None:
            loop.stop()
            loop.spawn(after)

        loop.spawn(replace)
        assert before.ended.wait(SECONDS)
        assert after.started.wait(SECONDS)
        eventually(lambda: len(threads()) == 1, "the first thread ends")
        assert not after.ended.is_set()

    def test_a_task_that_hangs_while_it_cleans_up_is_interrupted(
        self, loop: BackgroundLoop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(background, "ROUND_SECONDS", 0.05)
        task = Endless(refusals=1)
        task.run_in(loop)
        running = ask(loop, asyncio.get_running_loop)
        loop.stop()
        assert task.ended.is_set()
        assert running.is_closed()

    def test_a_task_that_refuses_to_end_holds_nobody_up(
        self, loop: BackgroundLoop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(background, "ROUND_SECONDS", 0.02)
        task = Endless(refusals=background.ROUNDS)
        task.run_in(loop)
        running = ask(loop, asyncio.get_running_loop)
        with bounded("stop()"):
            loop.stop()
        assert running.is_closed()
        assert threads() == []

    def test_a_library_that_hangs_in_closing_the_loop_holds_nobody_up(
        self, loop: BackgroundLoop, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As channels_redis does it: it puts itself before the loop's own ``close``."""
        monkeypatch.setattr(background, "ROUND_SECONDS", 0.05)
        running = ask(loop, asyncio.get_running_loop)
        close, farewell = running.close, Endless()

        def hang() -> None:
            running.close = close
            running.run_until_complete(farewell())

        running.close = hang
        loop.stop()
        assert farewell.started.is_set()
        assert farewell.ended.is_set()
        assert running.is_closed()

    def test_a_library_that_fails_in_closing_the_loop_leaves_none_open(self, loop: BackgroundLoop) -> None:
        running = ask(loop, asyncio.get_running_loop)
        close = running.close

        def fail() -> None:
            running.close = close
            raise ConnectionError("gone")

        running.close = fail
        loop.stop()
        assert running.is_closed()

    def test_async_generators_are_closed(self, loop: BackgroundLoop) -> None:
        closed = threading.Event()

        async def numbers() -> AsyncIterator[int]:
            try:
                yield 1
            finally:
                closed.set()

        begun = threading.Event()
        generators = []

        async def begin() -> None:
            generator = numbers()
            generators.append(generator)
            await anext(generator)
            begun.set()

        loop.spawn(begin)
        assert begun.wait(SECONDS)
        loop.stop()
        assert closed.is_set()

    def test_a_call_while_the_loop_closes_is_done_by_the_next_loop(self, loop: BackgroundLoop) -> None:
        """The caller has got hold of a loop that is closed before the call reaches it."""
        loop.start()
        running = loop._started.get().loop
        loop.stop()
        started = loop._started.get()
        started.loop = running
        release = threading.Timer(0.02, lambda: setattr(started, "loop", None))
        release.start()
        with bounded("call()"):
            assert ask(loop, lambda: "here") == "here"
        release.join()


class TestPerProcess:
    def test_all_threads_of_a_process_get_the_same(self) -> None:
        crowd = 8
        barrier = threading.Barrier(crowd)

        def make() -> object:
            barrier.wait(SECONDS)
            return object()

        kept = PerProcess(make)
        with ThreadPoolExecutor(crowd) as pool:
            assert len(set(pool.map(lambda _number: kept.get(), range(crowd)))) == 1

    def test_another_process_gets_another_and_the_first_stays_alive(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Made:
            pass

        kept = PerProcess(Made)
        first = weakref.ref(kept.get())
        monkeypatch.setattr(os, "getpid", lambda: -1)
        assert kept.get() is not first()
        gc.collect()
        assert first() is not None


class TestWithin:
    """An operation has its time, and nobody waits for it any longer."""

    pytestmark = pytest.mark.anyio

    async def test_an_operation_that_is_done_in_time_has_its_result(self) -> None:
        assert await within(SECONDS, asyncio.sleep(0, "done")) == "done"

    async def test_an_error_is_the_operations_own(self) -> None:
        async def fail() -> None:
            raise ValueError("this one")

        with pytest.raises(ValueError, match="this one"):
            await within(SECONDS, fail())

    async def test_an_operation_that_is_not_done_in_time_is_cancelled_and_what_it_says_then_is_not_logged(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        cancelled = asyncio.Event()

        async def linger() -> None:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                await asyncio.sleep(0)
                cancelled.set()
                raise ValueError("this one") from None

        with pytest.raises(TimeoutError):
            await within(0.01, linger())
        assert not cancelled.is_set()
        await asyncio.wait_for(cancelled.wait(), SECONDS)
        await asyncio.sleep(0)
        gc.collect()
        assert "never retrieved" not in caplog.text


FORK = """
import asyncio, os, sys, threading
from mcp_django.background import BackgroundLoop

loop = BackgroundLoop("fork")

def where():
    answered, answers = threading.Event(), []
    loop.call(lambda: (answers.append((os.getpid(), asyncio.get_running_loop())), answered.set()))
    assert answered.wait(20)
    return answers[0]

async def hold():
    # As a start does that another thread is in the middle of.
    with loop._started.get().lock:
        held.set()
        free.wait(20)

held, free = threading.Event(), threading.Event()
pid, running = where()
assert pid == os.getpid()
loop.spawn(hold)
assert held.wait(20)
child = os.fork()
if child == 0:
    pid, another = where()
    good = pid == os.getpid() and another is not running
    loop.stop()
    os._exit(0 if good and not running.is_closed() else 1)
free.set()
assert where() == (os.getpid(), running)
_pid, status = os.waitpid(child, 0)
assert where() == (os.getpid(), running)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_after_a_fork_the_child_has_a_loop_of_its_own_and_leaves_the_parents_alone() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FORK], cwd=settings.BASE_DIR, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
