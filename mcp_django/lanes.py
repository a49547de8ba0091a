"""Lanes: threads of our own in which database work gathers into batches.

While a lane's thread is busy with one batch, the next one gathers; so a lone request waits for nobody and a crowd
shares one query or one commit. A lane is a queue and a daemon thread, started at first use and again after a fork.
It is not an executor of an event loop, since loops come and go (WSGI, tests, commands).

Every wait has a deadline, whatever the thread is stuck in: a database host that went silent can block a socket for
ever. A thread that is stuck past the deadline is left behind and another takes its place.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from queue import Empty, SimpleQueue
from time import monotonic
from typing import Any, Generic, TypeVar

from asgiref.sync import sync_to_async
from django.db import DatabaseError, IntegrityError, InterfaceError, OperationalError, connections, reset_queries

from mcp_django.conf import mcp_settings
from mcp_django.exceptions import StoreUnavailable

logger = logging.getLogger("mcp_django.store")

ItemT = TypeVar("ItemT")

IDLE_SECONDS = 10.0
MAX_ROWS = 256
MAX_BYTES = 4 * 1024 * 1024
MAX_ABANDONED = 8
SLOWER = 5
TRANSIENT_RETRIES = 3


def patience(abandoned: int) -> float:
    """How many seconds to wait for a stuck thread before another takes its place.

    After some were left behind, new ones come more slowly, but they never stop coming: a host that was silent for an
    hour is to be noticed when it is back, and nobody knows when the old threads return.
    """
    return mcp_settings.STORE_TIMEOUT * (1 if abandoned < MAX_ABANDONED else SLOWER)


class _Inline:
    """Tests inside a transaction: the lanes' work runs in the caller's thread (see ``mcp_django.testing``)."""

    enabled = False


inline = _Inline()


class Ticket(Generic[ItemT]):
    """One item on its way through a lane, awaited by exactly one coroutine."""

    __slots__ = ("_future", "_loop", "item")

    def __init__(self, item: ItemT, loop: asyncio.AbstractEventLoop) -> None:
        self.item = item
        self._loop = loop
        self._future: asyncio.Future[Any] = loop.create_future()

    def __await__(self) -> Generator[Any, None, Any]:
        timer = self._loop.call_later(mcp_settings.STORE_TIMEOUT, self._expire)
        try:
            return (yield from self._future.__await__())
        finally:
            timer.cancel()

    @property
    def abandoned(self) -> bool:
        """Nobody waits any more: the deadline passed, or the request was cancelled."""
        return self._future.done()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def settle(self, outcome: Any) -> None:
        """Hand over a result, or raise an exception there. In the waiter's loop only."""
        if self._future.done():
            return
        if isinstance(outcome, BaseException):
            self._future.set_exception(outcome)
        else:
            self._future.set_result(outcome)

    def _expire(self) -> None:
        self.settle(StoreUnavailable(f"The session store did not answer within {mcp_settings.STORE_TIMEOUT} s."))


class Lane(Generic[ItemT]):
    """A thread that hands gathered items to ``work`` and returns each one's outcome to whoever awaits it.

    ``work`` takes a list of items and returns a list of outcomes of the same length; an exception as an outcome is
    raised for its own item only. If ``work`` itself raises, the items are tried again in halves, so that a bad row
    fails alone. An item may name its ``size`` in bytes, by which batches are bounded too, and as ``conflict`` the
    exception that stands for a row which is already there. Items passed to :meth:`post` are awaited by nobody.
    """

    def __init__(self, name: str, alias: Callable[[], str], work: Callable[[list[ItemT]], Sequence[Any]]) -> None:
        self.name = name
        self._alias = alias
        self._work = work
        self._reset()

    def _reset(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._items: SimpleQueue[Sequence[Ticket[ItemT] | _Posted[ItemT]]] = SimpleQueue()
        self._gathered: dict[asyncio.AbstractEventLoop, list[Ticket[ItemT]]] = {}
        self._thread: threading.Thread | None = None
        self._busy_since: float | None = None
        self._abandoned = 0

    async def ask(self, item: ItemT) -> Any:
        """Run one item through the lane.

        Raises:
            StoreUnavailable: no answer within ``MCP_DJANGO_STORE_TIMEOUT``, or the database refused.
        """
        if inline.enabled:
            return await sync_to_async(self._inline)(item)
        loop = asyncio.get_running_loop()
        ticket = Ticket(item, loop)
        gathered = self._gathered.get(loop)
        if gathered is None:
            # All that is asked in this turn of the loop goes to the thread together: one wake-up for the crowd,
            # and fewer moments at which two threads fight over the interpreter.
            self._gathered[loop] = [ticket]
            loop.call_soon(self._flush, loop)
        else:
            gathered.append(ticket)
        return await ticket

    def post(self, item: ItemT, done: Callable[[], None] | None = None) -> None:
        """Run one item through the lane at some time soon; a failure is logged, nobody waits.

        Args:
            done: called in the lane's thread once the item's batch is through.
        """
        if inline.enabled:
            return
        self._put([_Posted(item, done)])

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        self._put(self._gathered.pop(loop, []))

    def _put(self, tickets: Sequence[Ticket[ItemT] | _Posted[ItemT]]) -> None:
        if self._pid != os.getpid():
            self._reset()
        self._items.put(tickets)
        stuck = self._is_stuck()
        if self._thread is None or stuck:
            self._start(stuck)

    def _is_stuck(self) -> bool:
        busy_since = self._busy_since
        return busy_since is not None and monotonic() - busy_since > patience(self._abandoned)

    def _start(self, stuck: bool) -> None:
        with self._lock:
            if self._thread is not None and not (stuck and self._busy_since is not None):
                return
            if stuck:
                self._abandoned += 1
                logger.warning("lane=%s is stuck in the database; going on in a new thread", self.name)
            self._busy_since = None
            self._thread = threading.Thread(target=self._run, name=f"mcp-django-{self.name}", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        items = self._items
        while self._thread is threading.current_thread():
            try:
                batch = list(items.get(timeout=IDLE_SECONDS))
            except Empty:
                self._close()
                batch = list(items.get())
            while len(batch) < MAX_ROWS:
                try:
                    batch += items.get_nowait()
                except Empty:
                    break
            if self._thread is not threading.current_thread():
                # Replaced while it waited here: the work is the other thread's.
                items.put(batch)
                break
            since = self._busy_since = monotonic()
            waiting = [ticket for ticket in batch if not ticket.abandoned]
            for part in bounded(waiting):
                self._visit(part)
            # Only what this thread has noted: it may have been replaced meanwhile, and the other be busy.
            if self._busy_since == since:
                self._busy_since = None
        self._close()
        with self._lock:
            self._abandoned -= 1

    def _visit(self, tickets: list[Ticket[ItemT] | _Posted[ItemT]]) -> None:
        outcomes: Sequence[Any]
        try:
            outcomes = self._attempt([ticket.item for ticket in tickets])
        except BaseException as error:
            outcomes = [error] * len(tickets)
        settle(list(zip(tickets, outcomes, strict=True)))

    def _attempt(self, items: list[ItemT]) -> list[Any]:
        """Run a batch; after an error find out which items are to blame."""
        for attempt in range(TRANSIENT_RETRIES):
            try:
                self._enter()
                return list(self._work(items))
            except (OperationalError, InterfaceError) as error:
                # A connection that died while kept, a deadlock, a lock that could not be had: worth another try,
                # on a connection that _leave has found usable or closed.
                failure: Exception = error
                logger.debug("lane=%s attempt=%d failed: %s", self.name, attempt + 1, type(error).__name__)
            except Exception as error:
                failure = error
                break
            finally:
                self._leave()
        if isinstance(failure, (OperationalError, InterfaceError)):
            # Returned, not raised: other parts of the batch may have been committed, and are not to be told otherwise.
            unavailable = StoreUnavailable(f"The database refused: {type(failure).__name__}.")
            unavailable.__cause__ = failure
            return [unavailable] * len(items)
        if len(items) == 1:
            return [self._explained(items[0], failure)]
        middle = len(items) // 2
        return [*self._attempt(items[:middle]), *self._attempt(items[middle:])]

    def _explained(self, item: ItemT, failure: Exception) -> Exception:
        if not isinstance(failure, DatabaseError):
            return failure
        conflict: type[Exception] | None = getattr(item, "conflict", None)
        if conflict is not None and isinstance(failure, IntegrityError):
            return conflict()
        # A table that is not there, a value that does not fit: whether the session lives is not known.
        logger.error("lane=%s: the database refused a row", self.name, exc_info=failure)
        return StoreUnavailable(f"The database refused: {type(failure).__name__}.")

    def _enter(self) -> None:
        connection = connections[self._alias()]
        if not connection.in_atomic_block:
            # The lane keeps its connection between visits whatever CONN_MAX_AGE says; a pool gets it back.
            connection.close_at = None
            connection.close_if_unusable_or_obsolete()
        reset_queries()

    def _leave(self) -> None:
        connection = connections[self._alias()]
        if connection.in_atomic_block:
            return
        connection.close_at = None
        connection.close_if_unusable_or_obsolete()
        if connection.settings_dict.get("OPTIONS", {}).get("pool"):
            connection.close()

    def _close(self) -> None:
        try:
            connections.close_all()
        except DatabaseError:
            logger.debug("lane=%s: closing the connection failed", self.name)

    def _inline(self, item: ItemT) -> Any:
        outcome = self._work([item])[0]
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


class _Posted(Generic[ItemT]):
    """An item that nobody awaits."""

    __slots__ = ("_done", "item")
    abandoned = False
    loop = None

    def __init__(self, item: ItemT, done: Callable[[], None] | None) -> None:
        self.item = item
        self._done = done

    def settle(self, outcome: Any) -> None:
        if isinstance(outcome, BaseException):
            logger.warning("a write that nobody waits for failed: %s", type(outcome).__name__)
        elif self._done is not None:
            try:
                self._done()
            except Exception:
                # It must not take the lane's thread with it.
                logger.exception("what was to follow a write failed")


def bounded(tickets: list[Any]) -> Iterator[list[Any]]:
    """A batch in parts that one visit can carry."""
    part: list[Any] = []
    size = 0
    for ticket in tickets:
        more = getattr(ticket.item, "size", 0)
        if part and (len(part) == MAX_ROWS or size + more > MAX_BYTES):
            yield part
            part, size = [], 0
        part.append(ticket)
        size += more
    if part:
        yield part


def settle(outcomes: list[tuple[Any, Any]]) -> None:
    """Hand outcomes to their waiters, with one wake-up per event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[Any, Any]]] = {}
    for ticket, outcome in outcomes:
        if ticket.loop is None:
            ticket.settle(outcome)
        else:
            by_loop.setdefault(ticket.loop, []).append((ticket, outcome))
    for loop, settled in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle_here, settled)
        except RuntimeError:
            # The loop was closed while its tickets were under way: a test or a command that ended.
            logger.debug("the waiters' event loop is gone")


def _settle_here(outcomes: list[tuple[Any, Any]]) -> None:
    for ticket, outcome in outcomes:
        ticket.settle(outcome)
