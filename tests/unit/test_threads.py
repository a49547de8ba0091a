"""Where handlers run: a context of their own, threads enough, and no connection left behind."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.contrib.auth import get_user_model
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, transaction
from django.test import override_settings
from django.urls import reverse, set_script_prefix
from django.utils import translation
from opentelemetry import context as otel

from mcp_django import threads
from mcp_django.testing import inline
from tests.unit.waiting import SECONDS, aeventually, eventually, happens

pytestmark = pytest.mark.anyio

with_rows = pytest.mark.django_db(
    transaction=True, available_apps=["django.contrib.contenttypes", "django.contrib.auth", "mcp_django"]
)
colour: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A pool of one thread, so that the second call surely meets what the first has left there."""
    with ThreadPoolExecutor(1) as pool:
        monkeypatch.setattr(threads, "pool", lambda: pool)
        yield


async def call(fn: Callable[..., Any], *args: Any) -> Any:
    """Call a sync handler as a request does."""
    return await threads.start(lambda: threads.run_sync(fn, *args))


class TestContext:
    async def test_what_a_sync_handler_sets_does_not_reach_the_next_one(self, one_thread: None) -> None:
        await call(colour.set, "red")
        assert await call(colour.get) == "none"

    async def test_the_language_of_one_user_does_not_reach_the_next(self, one_thread: None) -> None:
        before = await call(translation.get_language)
        await call(translation.activate, "de" if before != "de" else "fr")
        assert await call(translation.get_language) == before

    async def test_a_sync_handler_sees_the_context_of_its_call(self, one_thread: None) -> None:
        async def make() -> str:
            colour.set("blue")
            return await threads.run_sync(colour.get)

        assert await threads.start(make) == "blue"

    async def test_a_sync_handler_builds_urls_for_where_the_project_is_mounted(self, one_thread: None) -> None:
        set_script_prefix("/mounted/")
        try:
            assert await call(reverse, "home") == "/mounted/"
        finally:
            set_script_prefix("/")
        assert await call(reverse, "home") == "/"

    async def test_a_call_sees_nothing_of_the_request_that_started_it(self) -> None:
        colour.set("blue")
        assert await threads.start(acolour) == "none"

    async def test_a_request_sees_nothing_of_the_calls_it_started(self) -> None:
        async def paint() -> None:
            colour.set("red")

        await threads.start(paint)
        assert colour.get() == "none"
        assert await threads.start(acolour) == "none"

    async def test_a_call_belongs_to_the_trace_of_its_request(self) -> None:
        token = otel.attach(otel.set_value("span", "of the request"))
        try:
            assert await threads.start(span) == "of the request"
        finally:
            otel.detach(token)
        assert await threads.start(span) is None


async def acolour() -> str:
    return colour.get()


async def span() -> Any:
    return otel.get_value("span")


class TestStart:
    async def test_a_call_goes_on_when_its_request_is_cancelled(self) -> None:
        entered, release, done = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def call() -> None:
            entered.set()
            await release.wait()
            done.set()

        async def request() -> None:
            await asyncio.shield(threads.start(call))

        task = asyncio.ensure_future(request())
        await entered.wait()
        task.cancel()
        await asyncio.wait([task])
        release.set()
        async with asyncio.timeout(SECONDS):
            await done.wait()

    async def test_a_call_that_nobody_holds_is_not_collected(self) -> None:
        release, done = asyncio.Event(), asyncio.Event()

        async def call() -> None:
            await release.wait()
            done.set()

        before = len(threads._running)
        threads.start(call)
        assert len(threads._running) == before + 1
        release.set()
        async with asyncio.timeout(SECONDS):
            await done.wait()
        await aeventually(lambda: len(threads._running) == before, "the call is forgotten")

    async def test_an_error_of_a_call_is_its_tasks(self) -> None:
        async def fail() -> None:
            raise LookupError("no such book")

        with pytest.raises(LookupError, match="no such book"):
            await threads.start(fail)

    async def test_async_orm_calls_of_two_calls_run_side_by_side(self) -> None:
        """Both must be in their threads at once to pass the barrier."""
        barrier = threading.Barrier(2)

        async def call() -> int:
            return await sync_to_async(barrier.wait)(SECONDS)

        assert sorted(await asyncio.gather(threads.start(call), threads.start(call))) == [0, 1]

    async def test_async_orm_calls_of_one_call_run_in_one_thread(self) -> None:
        """A transaction or a temporary table of a call would not be seen otherwise."""

        async def call() -> set[int]:
            idents = await asyncio.gather(*(sync_to_async(threading.get_ident)() for _ in range(5)))
            return set(idents)

        assert len(await threads.start(call)) == 1


@with_rows
class TestConnections:
    async def test_an_async_handlers_connection_is_closed_with_its_call(self) -> None:
        used: list[Any] = []

        def note() -> None:
            User.objects.count()
            used.append(connections["default"])

        async def call() -> bool:
            await User.objects.acount()
            await sync_to_async(note)()
            return used[0].connection is not None

        assert await threads.start(call)
        assert used[0].connection is None

    async def test_an_async_handlers_connection_is_closed_when_the_call_fails(self) -> None:
        used: list[Any] = []

        def note() -> None:
            User.objects.count()
            used.append(connections["default"])

        async def call() -> None:
            await sync_to_async(note)()
            raise LookupError

        with pytest.raises(LookupError):
            await threads.start(call)
        assert used[0].connection is None

    async def test_an_async_handlers_connection_is_closed_when_the_call_is_cancelled(self) -> None:
        used: list[Any] = []
        waiting = asyncio.Event()

        def note() -> None:
            User.objects.count()
            used.append(connections["default"])

        async def call() -> None:
            await sync_to_async(note)()
            waiting.set()
            await asyncio.Event().wait()

        task = threads.start(call)
        await waiting.wait()
        task.cancel()
        await asyncio.wait([task])
        assert used[0].connection is None

    async def test_a_sync_handlers_connection_is_closed_as_conn_max_age_says(self, one_thread: None) -> None:
        def note() -> Any:
            get_user_model().objects.count()
            return connections["default"]

        assert (await threads.run_sync(note)).connection is None

    async def test_a_sync_handlers_connection_is_kept_as_conn_max_age_says(
        self, one_thread: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", 60)

        def note() -> tuple[Any, Any]:
            get_user_model().objects.count()
            return connections["default"], connections["default"].connection

        wrapper, first = await threads.run_sync(note)
        again, second = await threads.run_sync(note)
        assert wrapper is again
        assert first is second is wrapper.connection
        await threads.run_sync(threads.close_connections)
        assert wrapper.connection is None

    async def test_a_connection_inside_a_transaction_is_left_alone(self, one_thread: None) -> None:
        def inside() -> bool:
            with transaction.atomic():
                threads.release_connections()
                threads.close_connections()
                return connections["default"].connection is not None

        assert await threads.run_sync(inside)


class TestRunSync:
    async def test_sync_handlers_run_side_by_side(self) -> None:
        barrier = threading.Barrier(8)
        places = await asyncio.gather(*(threads.run_sync(barrier.wait, SECONDS) for _ in range(8)))
        assert sorted(places) == list(range(8))

    async def test_an_error_of_a_sync_handler_reaches_its_caller(self) -> None:
        def fail(text: str) -> None:
            raise LookupError(text)

        with pytest.raises(LookupError, match="no such book"):
            await threads.run_sync(fail, "no such book")

    async def test_a_forgotten_default_of_next_fails_the_call_and_does_not_hang_it(self) -> None:
        """A StopIteration cannot be set on a future; on some Pythons its waiter would wait for ever."""

        def first() -> Any:
            return next(iter([]))

        async with asyncio.timeout(SECONDS):
            with pytest.raises(RuntimeError, match="StopIteration"):
                await threads.run_sync(first)

    def test_the_pool_is_bounded_and_made_once(self) -> None:
        with override_settings(MCP_DJANGO_CALL_THREADS=3):
            threads.pool.cache_clear()
            release, entered = threading.Event(), threading.Semaphore(0)

            def hold() -> bool:
                entered.release()
                return release.wait(SECONDS)

            try:
                assert threads.pool() is threads.pool()
                held = [threads.pool().submit(hold) for _ in range(5)]
                for _thread in range(3):
                    assert entered.acquire(timeout=SECONDS), "three calls run at once"
                assert sum(future.running() for future in held) == 3
                release.set()
                for future in held:
                    assert future.result(SECONDS)
            finally:
                release.set()
                threads.pool().shutdown()
                threads.pool.cache_clear()


class TestPool:
    @pytest.fixture
    def pool(self) -> Iterator[threads.Pool]:
        pool = threads.Pool(2, "mcp-django-test")
        yield pool
        pool.shutdown()

    def test_one_thread_serves_calls_that_come_one_after_another(self, pool: threads.Pool) -> None:
        def served() -> bool:
            """Whether the thread that ran the last call is ready for the next one."""
            return pool._waiting == len(pool._threads)

        names = set()
        for _call in range(5):
            names.add(pool.submit(threading.current_thread).result(SECONDS).name)
            eventually(served, "the thread waits for the next call")
        assert names == {"mcp-django-test-1"}

    def test_its_threads_do_not_keep_the_process_from_ending(self, pool: threads.Pool) -> None:
        assert pool.submit(threading.current_thread).result(SECONDS).daemon

    def test_an_exception_reaches_whoever_waits_and_the_thread_goes_on(self, pool: threads.Pool) -> None:
        def fail() -> None:
            raise SystemExit("not the thread's end")

        with pytest.raises(SystemExit):
            pool.submit(fail).result(SECONDS)
        assert pool.submit(str, 7).result(SECONDS) == "7"

    def test_a_call_that_was_cancelled_while_it_waited_is_not_run(self, pool: threads.Pool) -> None:
        release = threading.Event()
        held = [pool.submit(release.wait, SECONDS) for _ in range(2)]
        ran: list[int] = []
        futures = [pool.submit(ran.append, number) for number in range(3)]
        assert futures[1].cancel()
        release.set()
        for future in [*held, futures[0], futures[2]]:
            future.result(SECONDS)
        assert sorted(ran) == [0, 2]

    def test_whoever_does_not_wait_for_its_end_gets_all_that_was_submitted(self, pool: threads.Pool) -> None:
        release = threading.Event()
        held = [pool.submit(release.wait, SECONDS) for _ in range(3)]
        pool.shutdown(wait=False)
        assert not any(future.done() for future in held)
        release.set()
        for future in held:
            assert future.result(SECONDS)

    def test_threads_that_end_close_their_connections(
        self, pool: threads.Pool, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        closed: list[str] = []
        monkeypatch.setattr(threads, "close_connections", lambda: closed.append(threading.current_thread().name))
        pool.submit(str).result(SECONDS)
        pool.shutdown(wait=True)
        assert closed == ["mcp-django-test-1"]

    def test_what_a_call_held_is_let_go_with_it(self, pool: threads.Pool) -> None:
        class Large:
            pass

        large = Large()
        gone = weakref.ref(large)
        pool.submit(id, large).result(SECONDS)
        del large
        eventually(lambda: gone() is None, "the thread has let go of what it was called with")


def by_name(isbn: str, *, count: int = 1) -> str:
    """Find a book."""
    return f"{isbn} {count} {threading.current_thread().name}"


class TestAsynchronous:
    async def test_an_async_function_stays_as_it_is(self) -> None:
        assert threads.asynchronous(acolour) is acolour

    async def test_an_object_with_an_async_call_stays_as_it_is(self) -> None:
        class Handler:
            async def __call__(self) -> str:
                return "called"

        handler = Handler()
        assert threads.asynchronous(handler) is handler
        assert await handler() == "called"

    async def test_a_sync_function_runs_in_the_pool(self) -> None:
        wrapped = threads.asynchronous(by_name)
        found = await wrapped("978", count=2)
        assert found.startswith("978 2 mcp-django-call")

    def test_the_wrapper_shows_what_the_function_does(self) -> None:
        wrapped = threads.asynchronous(by_name)
        assert inspect.iscoroutinefunction(wrapped)
        assert inspect.signature(wrapped) == inspect.signature(by_name)
        assert (wrapped.__name__, wrapped.__doc__) == ("by_name", "Find a book.")

    def test_there_is_one_wrapper_for_each_function(self) -> None:
        """The SDK tells resolvers apart by identity."""
        assert threads.asynchronous(by_name) is threads.asynchronous(by_name)


class TestWaitFor:
    async def test_a_thread_of_a_call_waits_for_its_calls_event_loop(self) -> None:
        async def where() -> asyncio.AbstractEventLoop:
            return asyncio.get_running_loop()

        found = await threads.start(lambda: threads.run_sync(lambda: threads.wait_for(where())))
        assert found is asyncio.get_running_loop()

    async def test_the_event_loop_goes_on_meanwhile(self) -> None:
        entered, release = threading.Event(), asyncio.Event()

        async def wait() -> str:
            entered.set()
            await release.wait()
            return "released"

        task = threads.start(lambda: threads.run_sync(lambda: threads.wait_for(wait())))
        await happens(entered, "the handler waits")
        release.set()
        assert await task == "released"

    async def test_a_thread_of_no_call_is_told_so(self) -> None:
        with pytest.raises(RuntimeError, match="from handlers and hooks only"):
            await asyncio.to_thread(lambda: threads.wait_for(acolour()))

    def test_inline_it_needs_no_call(self) -> None:
        with inline():
            assert threads.wait_for(acolour()) == "none"


class TestInline:
    @pytest.mark.django_db
    def test_a_sync_handler_sees_the_tests_own_transaction(self) -> None:
        get_user_model().objects.create_user("ann")

        async def call() -> int:
            return await threads.start(lambda: threads.run_sync(get_user_model().objects.count))

        with inline():
            assert async_to_sync(call)() == 1

    @pytest.mark.django_db
    def test_without_it_a_test_inside_a_transaction_is_told_what_to_do(self) -> None:
        with pytest.raises(ImproperlyConfigured, match=r"mcp_django\.testing"):
            async_to_sync(threads.refuse_test_transaction)()
        with inline():
            async_to_sync(threads.refuse_test_transaction)()
