"""Where handlers run: their threads, their contexts, and the database connections they leave behind.

Django gives every request a thread for its ORM work and closes that thread's connections when the request ends.
A handler call is made to look the same: an own context, an own thread-sensitive scope, connections released at the
end. Without that, the async ORM calls of all handlers would queue on one thread of the process, and connections
would be left open by threads that nobody ends.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from queue import SimpleQueue
from time import monotonic
from typing import Any, ParamSpec, TypeVar, cast

from asgiref.sync import SyncToAsync, ThreadSensitiveContext, async_to_sync, sync_to_async
from django.core import mail
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router
from django.urls import get_script_prefix, set_script_prefix
from opentelemetry import context as otel

from mcp_django.conf import mcp_settings
from mcp_django.lanes import inline, patience
from mcp_django.models import Session

P = ParamSpec("P")
ResultT = TypeVar("ResultT")

AUTHENTICATOR_THREADS = 8


def release_connections() -> None:
    """Give back this thread's database connections: to the pool, or closed if CONN_MAX_AGE says so."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close_if_unusable_or_obsolete()


def close_connections() -> None:
    """Close this thread's database connections: the thread is about to end and nobody else would."""
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()


class Pool(Executor):
    """A bounded pool of daemon threads: a handler that never returns must not keep the process from ending."""

    def __init__(self, size: int, name: str) -> None:
        self._size = size
        self._name = name
        self._work: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._waiting = 0
        self._queued = 0

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        with self._lock:
            self._work.put((future, functools.partial(fn, *args, **kwargs)))
            self._queued += 1
            if self._queued > self._waiting and len(self._threads) < self._size:
                name = f"{self._name}-{len(self._threads) + 1}"
                thread = threading.Thread(target=self._run, name=name, daemon=True)
                thread.start()
                self._threads.append(thread)
                self._waiting += 1
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Let the threads end, and close their connections, when they are through with what was submitted."""
        for _thread in range(self._size):
            self._work.put(None)
        if wait:
            for thread in self._threads:
                thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            future, fn = work
            with self._lock:
                self._queued -= 1
                self._waiting -= 1
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(fn())
                except BaseException as error:
                    future.set_exception(error)
            # What it refers to must not live until the next call.
            del work, future, fn
            with self._lock:
                self._waiting += 1
        close_connections()


@functools.lru_cache(maxsize=1)
def pool() -> Pool:
    """The bounded pool in which sync handlers run."""
    return Pool(mcp_settings.CALL_THREADS, "mcp-django-call")


class AuthenticatorPool:
    """The pool in which authenticators run: slow handlers must not keep requests from being let in.

    Threads that are stuck in a database which went silent are left behind with their pool, and a new one is made; not
    too often, and after some times more slowly, as the store's lanes do it.
    """

    def __init__(self) -> None:
        self._pool: Pool | None = None
        self._made = 0.0
        self._left = 0

    def current(self) -> Pool:
        """The pool to use now."""
        if self._pool is None:
            self._pool = Pool(AUTHENTICATOR_THREADS, "mcp-django-auth")
            self._made = monotonic()
        return self._pool

    def timed_out(self) -> None:
        """An authentication did not end in time."""
        if self._pool is not None and monotonic() - self._made >= patience(self._left):
            self._pool.shutdown(wait=False)
            self._pool = None
            self._left += 1


authenticator_pool = AuthenticatorPool()


async def run_sync(fn: Callable[..., ResultT], *args: Any, **kwargs: Any) -> ResultT:
    """Run a sync handler in a thread of its pool. See :func:`run_in`."""
    return await run_in(pool(), fn, *args, **kwargs)


async def run_in(threads: Pool, fn: Callable[..., ResultT], *args: Any, **kwargs: Any) -> ResultT:
    """Run a sync function in a thread of a pool, in a copy of the caller's context.

    By way of asgiref, since Django's own locals (the language, the script prefix) follow no other way into a thread.
    The copy keeps what the function sets there from whatever runs next.
    """
    if inline.enabled:
        return await sync_to_async(called)(fn, *args, **kwargs)
    executor = cast(ThreadPoolExecutor, threads)
    run = sync_to_async(_released, thread_sensitive=False, executor=executor, context=contextvars.copy_context())
    return await run(fn, *args, **kwargs)


def called(fn: Callable[..., ResultT], *args: Any, **kwargs: Any) -> ResultT:
    """What ``fn`` returns. No future can carry a ``StopIteration``, and some versions of Python wait for ever then."""
    try:
        return fn(*args, **kwargs)
    except StopIteration as error:
        raise RuntimeError("a handler raised StopIteration") from error


def _released(fn: Callable[..., ResultT], *args: Any, **kwargs: Any) -> ResultT:
    release_connections()
    try:
        return called(fn, *args, **kwargs)
    finally:
        release_connections()


@functools.cache
def asynchronous(fn: Callable[..., Any]) -> Callable[..., Awaitable[Any]]:
    """``fn`` as an async function: itself if it is one, else a wrapper that runs it in the pool.

    The wrapper keeps name, signature and annotations, and there is one for each function, since the SDK tells
    resolvers apart by identity.
    """
    if inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(type(fn).__call__):
        return fn

    @functools.wraps(fn)
    async def run_in_pool(*args: Any, **kwargs: Any) -> Any:
        return await run_sync(fn, *args, **kwargs)

    return run_in_pool


_home: contextvars.ContextVar[asyncio.AbstractEventLoop] = contextvars.ContextVar("mcp_django_home_loop")


def start(make: Callable[[], Coroutine[Any, Any, ResultT]]) -> asyncio.Task[ResultT]:
    """Start what ``make`` returns in a task of its own: fresh context, own scope for ORM work.

    Nothing of the request leaks into it but the trace that it belongs to and where the project is mounted, and the
    request's end does not stop it.
    """
    context = contextvars.copy_context() if inline.enabled else contextvars.Context()
    if trace := otel.get_current():
        context.run(otel.attach, trace)
    if (prefix := get_script_prefix()) != "/":
        context.run(set_script_prefix, prefix)
    task = asyncio.get_running_loop().create_task(_isolated(make), context=context)
    # The loop keeps only weak references to tasks.
    _running.add(task)
    task.add_done_callback(_running.discard)
    return task


_running: set[asyncio.Task[Any]] = set()


async def _isolated(make: Callable[[], Coroutine[Any, Any, ResultT]]) -> ResultT:
    _home.set(asyncio.get_running_loop())
    if inline.enabled:
        return await make()
    scope = ThreadSensitiveContext()
    async with scope:
        try:
            return await make()
        finally:
            if scope in SyncToAsync.context_to_thread_executor:
                await asyncio.shield(sync_to_async(close_connections)())


async def release_scope() -> None:
    """Give back the connections of this call's ORM work before a wait that may be long."""
    scope = SyncToAsync.thread_sensitive_context.get(None)
    if scope is not None and scope in SyncToAsync.context_to_thread_executor and not inline.enabled:
        await sync_to_async(close_connections)()


def in_transaction() -> bool:
    """Whether this thread's connection to the sessions' database is inside a transaction."""
    return connections[router.db_for_write(Session)].in_atomic_block


async def refuse_test_transaction() -> None:
    """Fail clearly in a test that wraps itself in a transaction, which our threads cannot see into.

    Raises:
        ImproperlyConfigured: that is so, and ``mcp_django.testing`` is not used.
    """
    # setup_test_environment() makes the outbox; outside of tests this costs nothing.
    if not hasattr(mail, "outbox") or inline.enabled or not await sync_to_async(in_transaction)():
        return
    raise ImproperlyConfigured(
        "This test runs inside a transaction, which sessions on other threads cannot see. Use "
        "mcp_django.testing.connect() or inline(), or a TransactionTestCase."
    )


def wait_for(coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Run a coroutine in the event loop of the call that this thread works for, and wait for it here.

    Raises:
        RuntimeError: this thread works for no call.
    """
    if inline.enabled:
        return async_to_sync(_await)(coroutine)
    try:
        loop = _home.get()
    except LookupError:
        coroutine.close()
        raise RuntimeError("State and handles are reached from handlers and hooks only.") from None
    if loop.is_closed():
        coroutine.close()
        raise RuntimeError("The call that this thread works for has ended.")
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result()


async def _await(coroutine: Coroutine[Any, Any, ResultT]) -> ResultT:
    return await coroutine
