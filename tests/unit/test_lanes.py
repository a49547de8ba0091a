"""Lanes: work gathers into batches, every wait has an end, and one bad item fails alone.

Nothing here guesses how long something takes: threads are held by events, and let go by the test.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings
from django.db import DatabaseError, DataError, IntegrityError, InterfaceError, OperationalError, connections
from django.db.backends.base.base import BaseDatabaseWrapper
from django.test import override_settings
from hypothesis import given, strategies

from mcp_django import lanes
from mcp_django.exceptions import HandlerError, StoreUnavailable, StreamLost
from mcp_django.lanes import Lane, bounded
from mcp_django.testing import inline
from tests.unit.waiting import SECONDS, STEP, aeventually, end_lane, eventually, happens, threads_of

pytestmark = pytest.mark.anyio

short_deadline = override_settings(MCP_DJANGO_STORE_TIMEOUT=0.1)


@dataclass(frozen=True)
class Sized:
    """An item that names its size in bytes and what it means if its row is there already."""

    name: str
    size: int = 0
    conflict: type[Exception] | None = None

    def __str__(self) -> str:
        return self.name


class Work:
    """What a lane does here: note the batch, wait while the test holds it, answer or fail as the test says."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.threads: list[threading.Thread] = []
        self.entered = threading.Event()
        self._held: dict[Any, threading.Event] = {}
        self._failures: dict[Any, list[Exception]] = {}

    def hold(self, *items: Any) -> None:
        """Batches with one of these items wait until they are let go."""
        for item in items:
            self._held[item] = threading.Event()

    def let_go(self, *items: Any) -> None:
        for item in items or self._held:
            self._held[item].set()

    def fail(self, item: Any, *errors: Exception) -> None:
        """Batches with this item raise these errors, one at a time."""
        self._failures[item] = list(errors)

    def __call__(self, items: list[Any]) -> list[Any]:
        self.batches.append(list(items))
        self.threads.append(threading.current_thread())
        self.entered.set()
        for item in items:
            if item in self._held:
                assert self._held[item].wait(SECONDS), f"nobody let {item!r} go"
        for item in items:
            if self._failures.get(item):
                raise self._failures[item].pop(0)
        return [HandlerError(f"outcome of {item}") if str(item).startswith("bad") else f"did {item}" for item in items]

    def saw(self, item: Any) -> bool:
        return any(item in batch for batch in self.batches)


@pytest.fixture
def work() -> Iterator[Work]:
    work = Work()
    yield work
    work.let_go()


@pytest.fixture
def lane(work: Work) -> Iterator[Lane[Any]]:
    lane: Lane[Any] = Lane("test", lambda: "default", work)
    yield lane
    work.let_go()
    end_lane(lane)


async def asked(lane: Lane[Any], *items: Any) -> list[asyncio.Task[Any]]:
    """Tasks that have asked, each in a turn of the loop of its own, and that wait now."""
    tasks = []
    for item in items:
        tasks.append(asyncio.ensure_future(lane.ask(item)))
        for _turn in range(3):
            await asyncio.sleep(0)
    return tasks


async def busy(lane: Lane[Any], work: Work, item: Any) -> asyncio.Task[Any]:
    """A task whose item the lane's thread is held in."""
    work.hold(item)
    while True:
        (task,) = await asked(lane, item)
        while not (work.saw(item) or task.done()):
            await asyncio.wait([task], timeout=STEP)
        if work.saw(item):
            return task
        # Its deadline has passed before the thread came to it, as it may on a busy machine: then nobody takes it.
        with suppress(StoreUnavailable):
            await task


class TestGathering:
    async def test_a_lone_item_waits_for_nobody(self, lane: Lane[Any], work: Work) -> None:
        assert await lane.ask("a") == "did a"
        assert work.batches == [["a"]]

    async def test_items_of_one_turn_of_the_loop_are_one_batch(self, lane: Lane[Any], work: Work) -> None:
        answers = await asyncio.gather(*(lane.ask(item) for item in "abcde"))
        assert answers == [f"did {item}" for item in "abcde"]
        assert work.batches == [list("abcde")]

    async def test_items_that_come_while_the_thread_is_busy_are_the_next_batch(
        self, lane: Lane[Any], work: Work
    ) -> None:
        first = await busy(lane, work, "first")
        others = await asked(lane, *"abcde")
        work.let_go()
        assert await first == "did first"
        assert await asyncio.gather(*others) == [f"did {item}" for item in "abcde"]
        assert work.batches == [["first"], list("abcde")]

    async def test_a_batch_is_bounded(self, lane: Lane[Any], work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lanes, "MAX_ROWS", 4)
        first = await busy(lane, work, "first")
        others = await asked(lane, *range(10))
        crowd = [asyncio.ensure_future(lane.ask(item)) for item in range(10, 20)]
        await asyncio.sleep(0)
        work.let_go()
        await first
        assert await asyncio.gather(*others, *crowd) == [f"did {item}" for item in range(20)]
        assert [item for batch in work.batches[1:] for item in batch] == list(range(20))
        assert max(map(len, work.batches)) == 4

    async def test_a_batch_is_bounded_by_bytes_too(
        self, lane: Lane[Any], work: Work, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lanes, "MAX_BYTES", 100)
        sizes = [40, 60, 1, 99, 500, 0, 100, 50, 50, 1]
        items = [Sized(f"{index}", size) for index, size in enumerate(sizes)]
        answers = await asyncio.gather(*(lane.ask(item) for item in items))
        assert answers == [f"did {item}" for item in items]
        assert [[item.size for item in batch] for batch in work.batches] == [
            [40, 60],
            [1, 99],
            [500],
            [0, 100],
            [50, 50],
            [1],
        ]

    async def test_items_of_several_event_loops_are_one_batch_and_each_hears_its_own_answer(
        self, lane: Lane[Any], work: Work
    ) -> None:
        first = await busy(lane, work, "first")
        threads = [asyncio.to_thread(asyncio.run, ask(lane, item)) for item in "abc"]
        answers = asyncio.gather(*threads)
        await aeventually(lambda: lane._items.qsize() == 3, "three loops have asked")
        work.let_go()
        await first
        assert await answers == ["did a", "did b", "did c"]
        assert [sorted(batch) for batch in work.batches] == [["first"], ["a", "b", "c"]]

    async def test_one_thread_does_all_visits(self, lane: Lane[Any], work: Work) -> None:
        for item in "abc":
            await lane.ask(item)
        assert len(set(work.threads)) == 1
        assert work.threads[0].daemon

    async def test_posted_items_gather_with_those_that_are_awaited(self, lane: Lane[Any], work: Work) -> None:
        first = await busy(lane, work, "first")
        lane.post("posted")
        (other,) = await asked(lane, "asked")
        work.let_go()
        await asyncio.gather(first, other)
        assert work.batches == [["first"], ["posted", "asked"]]


async def ask(lane: Lane[Any], item: Any) -> Any:
    return await lane.ask(item)


@given(sizes=strategies.lists(strategies.integers(0, 2 * lanes.MAX_BYTES), max_size=600))
def test_a_batch_is_cut_into_parts_that_are_small_enough_and_loses_nothing(sizes: list[int]) -> None:
    tickets = [SimpleNamespace(item=Sized(f"{index}", size)) for index, size in enumerate(sizes)]
    parts = list(bounded(tickets))
    assert [ticket for part in parts for ticket in part] == tickets
    for part in parts:
        assert 1 <= len(part) <= lanes.MAX_ROWS
        assert len(part) == 1 or sum(ticket.item.size for ticket in part) <= lanes.MAX_BYTES


def test_items_that_name_no_size_are_bounded_by_their_number() -> None:
    parts = list(bounded([SimpleNamespace(item="a")] * (lanes.MAX_ROWS + 1)))
    assert [len(part) for part in parts] == [lanes.MAX_ROWS, 1]


class TestFailures:
    async def test_an_outcome_that_is_an_exception_is_raised_for_its_own_item(self, lane: Lane[Any]) -> None:
        answers = await asyncio.gather(*(lane.ask(item) for item in ["a", "bad", "b"]), return_exceptions=True)
        assert answers[0] == "did a"
        assert answers[2] == "did b"
        assert isinstance(answers[1], HandlerError)

    async def test_one_bad_row_fails_alone(self, lane: Lane[Any], work: Work) -> None:
        work.fail("row", *[ValueError("this one")] * 9)
        answers = await asyncio.gather(*(lane.ask(item) for item in ["a", "row", "b"]), return_exceptions=True)
        assert answers[0] == "did a"
        assert answers[2] == "did b"
        assert isinstance(answers[1], ValueError)
        assert [item for batch in work.batches if "row" not in batch for item in batch] == ["a", "b"]

    async def test_the_bad_row_of_a_crowd_is_found_by_halving(self, lane: Lane[Any], work: Work) -> None:
        work.fail("row", *[ValueError("this one")] * 99)
        crowd: list[Any] = [*range(77), "row", *range(77, 127)]
        answers = await asyncio.gather(*(lane.ask(item) for item in crowd), return_exceptions=True)
        assert [type(answer) for answer in answers] == [str] * 77 + [ValueError] + [str] * 50
        done = [item for batch in work.batches if "row" not in batch for item in batch]
        assert sorted(done) == [*range(127)], "each of the others is done once"
        assert len(work.batches) == 1 + 2 * 7, "128 items are halved seven times"

    async def test_several_bad_rows_each_fail_with_their_own_error(self, lane: Lane[Any], work: Work) -> None:
        bad = {3: "three", 4: "four", 90: "ninety"}
        for item, text in bad.items():
            work.fail(item, *[ValueError(text)] * 99)
        answers = await asyncio.gather(*(lane.ask(item) for item in range(100)), return_exceptions=True)
        assert {item: str(answer) for item, answer in enumerate(answers) if isinstance(answer, ValueError)} == bad
        assert all(answers[item] == f"did {item}" for item in range(100) if item not in bad)

    async def test_a_row_that_is_there_already_is_the_conflict_that_the_item_names(
        self, lane: Lane[Any], work: Work, caplog: pytest.LogCaptureFixture
    ) -> None:
        row = Sized("row", conflict=StreamLost)
        work.fail(row, *[IntegrityError("there is one")] * 9)
        answers = await asyncio.gather(lane.ask("a"), lane.ask(row), return_exceptions=True)
        assert answers[0] == "did a"
        assert isinstance(answers[1], StreamLost)
        assert caplog.records == []

    async def test_any_other_refusal_of_a_row_is_no_conflict(self, lane: Lane[Any], work: Work) -> None:
        row = Sized("row", conflict=StreamLost)
        work.fail(row, *[DataError("too long")] * 9)
        with pytest.raises(StoreUnavailable):
            await lane.ask(row)

    async def test_a_database_that_goes_away_while_a_bad_row_is_looked_for_fails_only_what_was_not_done(
        self, lane: Lane[Any], work: Work
    ) -> None:
        """Whoever has been served is not told otherwise, and would not try again what was done."""
        gone = [OperationalError("gone")] * lanes.TRANSIENT_RETRIES
        work.fail("row", ValueError("this one"), *gone)
        answers = await asyncio.gather(*(lane.ask(item) for item in ["a", "b", "row", "c"]), return_exceptions=True)
        assert answers[:2] == ["did a", "did b"]
        assert [type(answer) for answer in answers[2:]] == [StoreUnavailable, StoreUnavailable]

    @pytest.mark.parametrize("error", [IntegrityError("there is one"), DataError("too long")])
    async def test_a_row_that_the_database_refuses_is_unavailable_and_the_error_is_logged(
        self, lane: Lane[Any], work: Work, error: Exception, caplog: pytest.LogCaptureFixture
    ) -> None:
        work.fail("row", *[error] * 9)
        answers = await asyncio.gather(*(lane.ask(item) for item in ["a", "row"]), return_exceptions=True)
        assert answers[0] == "did a"
        assert isinstance(answers[1], StoreUnavailable)
        assert [record.exc_info and record.exc_info[1] for record in caplog.records] == [error]

    @pytest.mark.parametrize("error", [OperationalError, InterfaceError])
    async def test_what_passes_by_itself_is_tried_again(
        self, lane: Lane[Any], work: Work, error: type[Exception]
    ) -> None:
        """A connection that died while kept, a deadlock, a lock that could not be had."""
        work.fail("a", *[error("gone away")] * (lanes.TRANSIENT_RETRIES - 1))
        assert [*await asyncio.gather(lane.ask("a"), lane.ask("b"))] == ["did a", "did b"]
        assert work.batches == [["a", "b"]] * lanes.TRANSIENT_RETRIES

    async def test_what_does_not_pass_is_unavailable_for_the_whole_batch(self, lane: Lane[Any], work: Work) -> None:
        work.fail("a", *[OperationalError("could not connect to 10.0.0.1")] * 99)
        answers = await asyncio.gather(lane.ask("a"), lane.ask("b"), return_exceptions=True)
        for answer in answers:
            assert isinstance(answer, StoreUnavailable)
            assert "OperationalError" in str(answer)
            assert "10.0.0.1" not in str(answer)
        assert len(work.batches) == lanes.TRANSIENT_RETRIES

    async def test_the_lane_goes_on_after_a_failure(self, lane: Lane[Any], work: Work) -> None:
        work.fail("a", *[OperationalError("gone")] * lanes.TRANSIENT_RETRIES)
        with pytest.raises(StoreUnavailable):
            await lane.ask("a")
        assert await lane.ask("a") == "did a"
        assert len(set(work.threads)) == 1

    async def test_a_database_that_cannot_even_be_named_is_an_error_for_the_waiter_and_not_the_end_of_the_lane(
        self, work: Work
    ) -> None:
        aliases = iter(["no_such_database"] * 2)
        lane: Lane[Any] = Lane("test", lambda: next(aliases, "default"), work)
        with pytest.raises(Exception, match="no_such_database"):
            await lane.ask("a")
        assert await lane.ask("b") == "did b"
        end_lane(lane)

    async def test_a_failure_of_what_was_posted_is_logged_and_harms_nobody(
        self, lane: Lane[Any], work: Work, caplog: pytest.LogCaptureFixture
    ) -> None:
        work.fail("posted", *[ValueError("with a secret")] * 9)
        first = await busy(lane, work, "first")
        lane.post("posted")
        (other,) = await asked(lane, "asked")
        work.let_go()
        await asyncio.gather(first, other)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "ValueError" in caplog.text
        assert "with a secret" not in caplog.text

    async def test_whoever_posts_may_be_told_when_it_is_done(self, lane: Lane[Any], work: Work) -> None:
        first = await busy(lane, work, "first")
        done: list[threading.Thread] = []
        lane.post("posted", lambda: done.append(threading.current_thread()))
        assert not done
        work.let_go()
        await first
        await lane.ask("next")
        assert done == work.threads[:1]

    async def test_whoever_posts_what_fails_is_not_told_that_it_is_done(self, lane: Lane[Any], work: Work) -> None:
        done: list[str] = []
        work.fail("posted", *[ValueError("no")] * 9)
        lane.post("posted", lambda: done.append("posted"))
        lane.post("bad", lambda: done.append("bad"))
        lane.post("good", lambda: done.append("good"))
        await lane.ask("next")
        assert done == ["good"]

    async def test_whoever_fails_when_told_harms_nobody(
        self, lane: Lane[Any], work: Work, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail() -> None:
            raise LookupError("not here")

        first = await busy(lane, work, "first")
        done: list[str] = []
        lane.post("posted", fail)
        lane.post("behind it", lambda: done.append("behind it"))
        (other,) = await asked(lane, "asked")
        work.let_go()
        assert [*await asyncio.gather(first, other)] == ["did first", "did asked"]
        assert await lane.ask("next") == "did next"
        assert done == ["behind it"]
        assert len(set(work.threads)) == 1
        assert [record.levelname for record in caplog.records] == ["ERROR"]

    async def test_posting_needs_no_event_loop(self, lane: Lane[Any], work: Work) -> None:
        await asyncio.to_thread(lane.post, "posted")
        await aeventually(lambda: work.saw("posted"), "the posted item is done")


class TestDeadline:
    @short_deadline
    async def test_nobody_waits_longer_for_a_thread_that_is_stuck(
        self, lane: Lane[Any], work: Work, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lanes, "patience", lambda abandoned: SECONDS)
        stuck = await busy(lane, work, "stuck")
        with pytest.raises(StoreUnavailable, match=r"within 0\.1 s"):
            await lane.ask("behind it")
        with pytest.raises(StoreUnavailable):
            await stuck
        assert not work.saw("behind it")

    @short_deadline
    async def test_another_thread_takes_over_and_the_stuck_one_ends_when_it_comes_back(
        self, lane: Lane[Any], work: Work, caplog: pytest.LogCaptureFixture
    ) -> None:
        stuck = await busy(lane, work, "stuck")
        with pytest.raises(StoreUnavailable):
            await stuck
        assert await until_answered(lane, "next") == "did next"
        old, new = work.threads[0], work.threads[-1]
        assert old is not new
        assert "lane=test is stuck" in caplog.text

        work.let_go()
        await aeventually(lambda: not old.is_alive(), "the stuck thread ends")
        assert await until_answered(lane, "last") == "did last"
        assert work.threads[-1] is new
        assert lane._abandoned == 0

    @short_deadline
    async def test_what_waits_behind_a_stuck_thread_is_done_by_the_next_one(self, lane: Lane[Any], work: Work) -> None:
        stuck = await busy(lane, work, "stuck")
        lane.post("posted")
        with pytest.raises(StoreUnavailable):
            await stuck
        await until_answered(lane, "next")
        assert work.saw("posted")

    @short_deadline
    async def test_threads_that_are_left_behind_are_bounded_and_each_that_comes_back_makes_room(
        self, lane: Lane[Any], work: Work, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lanes, "MAX_ABANDONED", 2)
        # So slowly that none comes in this test.
        monkeypatch.setattr(lanes, "SLOWER", 1000)
        work.hold("a", "b", "c")
        for item in "abc":
            while not work.saw(item):
                with pytest.raises(StoreUnavailable):
                    await lane.ask(item)
        for _attempt in range(3):
            with pytest.raises(StoreUnavailable):
                await lane.ask("d")
        assert len(set(work.threads)) == 3

        work.let_go("a")
        assert await until_answered(lane, "d") == "did d"

    async def test_a_thread_that_was_replaced_just_when_it_came_back_leaves_nothing_behind(
        self, lane: Lane[Any], work: Work
    ) -> None:
        """Whoever saw it stuck starts another, while it waits for work again."""
        await lane.ask("a")
        lane._busy_since = 0.0
        lane._start(stuck=True)
        assert len(threads_of(lane)) == 2
        for number in range(200):
            # Either thread may take it, until the replaced one has had its turn and ends.
            assert await lane.ask(f"b{number}") == f"did b{number}"
            await aeventually(lambda: lane._busy_since is None, "the lane is no longer taken for stuck")
            if len(threads_of(lane)) == 1:
                break
        await aeventually(lambda: len(threads_of(lane)) == 1, "the replaced thread ends")
        assert lane._abandoned == 0

    @short_deadline
    async def test_a_slow_answer_that_comes_after_the_deadline_harms_nobody(
        self, lane: Lane[Any], work: Work, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG, "asyncio")
        slow = await busy(lane, work, "slow")
        with pytest.raises(StoreUnavailable):
            await slow
        work.let_go()
        assert await until_answered(lane, "next") == "did next"
        assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


async def until_answered(lane: Lane[Any], item: Any) -> Any:
    """Ask as clients do that are told to try again."""
    async with asyncio.timeout(SECONDS):
        while True:
            try:
                return await lane.ask(item)
            except StoreUnavailable:
                pass


class TestWaiters:
    async def test_an_item_whose_waiter_was_cancelled_is_not_done(self, lane: Lane[Any], work: Work) -> None:
        first = await busy(lane, work, "first")
        tasks = await asked(lane, *"abc")
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
        work.let_go()
        assert [*await asyncio.gather(first, tasks[0], tasks[2])] == ["did first", "did a", "did c"]
        assert work.batches == [["first"], ["a", "c"]]

    async def test_a_waiter_that_is_cancelled_while_its_item_is_done_harms_nobody(
        self, lane: Lane[Any], work: Work
    ) -> None:
        first = await busy(lane, work, "first")
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        work.let_go()
        assert await lane.ask("next") == "did next"

    async def test_a_batch_whose_waiters_all_left_is_no_visit(self, lane: Lane[Any], work: Work) -> None:
        first = await busy(lane, work, "first")
        tasks = await asked(lane, *"abc")
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        work.let_go()
        await first
        assert await lane.ask("next") == "did next"
        assert work.batches == [["first"], ["next"]]


def test_an_event_loop_that_was_closed_meanwhile_is_passed_over(lane: Lane[Any], work: Work) -> None:
    work.hold("a")
    work.hold("b")
    for item in "ab":
        work.entered.clear()
        loop = asyncio.new_event_loop()
        waiting = loop.create_task(lane.ask(item))
        loop.run_until_complete(happens(work.entered, "the lane takes the item"))
        waiting.cancel()
        loop.run_until_complete(asyncio.wait([waiting]))
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()
        work.let_go(item)
    assert asyncio.run(ask(lane, "c")) == "did c"
    assert len(set(work.threads)) == 1


def test_every_event_loop_is_served_by_the_same_thread(lane: Lane[Any], work: Work) -> None:
    """Under WSGI, in tests and in commands, loops come and go."""
    for item in "abc":
        assert asyncio.run(ask(lane, item)) == f"did {item}"
    assert len(set(work.threads)) == 1


FORK = """
import asyncio, os, sys
import django
django.setup()
from mcp_django.lanes import Lane, bounded
from mcp_django.processes import this_process

lane = Lane("fork", lambda: "default", lambda items: [os.getpid()] * len(items))
parent, process = os.getpid(), this_process()
assert asyncio.run(lane.ask("a")) == parent
child = os.fork()
if child == 0:
    served = asyncio.run(lane.ask("a")) == os.getpid()
    os._exit(0 if served and this_process() != process else 1)
assert asyncio.run(lane.ask("a")) == parent
_pid, status = os.waitpid(child, 0)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_after_a_fork_the_child_has_a_thread_and_an_id_of_its_own() -> None:
    """A server that loads the project and then forks its workers."""
    done = subprocess.run(
        [sys.executable, "-c", FORK], cwd=settings.BASE_DIR, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


class TestInline:
    """What `mcp_django.testing` turns on."""

    def test_work_is_done_in_the_tests_own_thread(self, lane: Lane[Any], work: Work) -> None:
        with inline():
            assert async_to_sync(lane.ask)("a") == "did a"
        assert work.threads == [threading.current_thread()]
        assert lane._thread is None

    def test_an_exception_reaches_the_test(self, lane: Lane[Any], work: Work) -> None:
        work.fail("a", ValueError("as it is"))
        with inline():
            with pytest.raises(ValueError, match="as it is"):
                async_to_sync(lane.ask)("a")
            with pytest.raises(HandlerError):
                async_to_sync(lane.ask)("bad")

    def test_what_nobody_waits_for_is_left_out(self, lane: Lane[Any], work: Work) -> None:
        with inline():
            lane.post("a")
        assert work.batches == []
        assert lane._thread is None


class Connected:
    """Work that uses the database, and shows the connection it had."""

    def __init__(self, meanwhile: Callable[[BaseDatabaseWrapper], None] = lambda connection: None) -> None:
        self.meanwhile = meanwhile
        self.wrapper: BaseDatabaseWrapper | None = None
        self.used: list[Any] = []

    def __call__(self, items: list[Any]) -> list[Any]:
        self.wrapper = connections["default"]
        with self.wrapper.cursor() as cursor:
            cursor.execute("SELECT 1")
        self.used.append(self.wrapper.connection)
        self.meanwhile(self.wrapper)
        return items

    @property
    def open(self) -> bool:
        return self.wrapper is not None and self.wrapper.connection is not None


@pytest.mark.django_db(transaction=True, available_apps=["mcp_django"])
class TestConnections:
    @pytest.fixture
    def connected(self, transactional_db: None) -> Iterator[tuple[Lane[Any], Connected]]:
        work = Connected()
        lane: Lane[Any] = Lane("test", lambda: "default", work)
        yield lane, work
        end_lane(lane)
        assert not work.open

    async def test_is_kept_between_visits_whatever_conn_max_age_says(
        self, connected: tuple[Lane[Any], Connected]
    ) -> None:
        lane, work = connected
        assert connections["default"].settings_dict["CONN_MAX_AGE"] == 0
        for item in range(5):
            await lane.ask(item)
        assert len(set(map(id, work.used))) == 1

    async def test_is_given_back_after_some_idle_seconds_and_taken_again(
        self, connected: tuple[Lane[Any], Connected], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lane, work = connected
        monkeypatch.setattr(lanes, "IDLE_SECONDS", 0.01)
        for item in range(2):
            assert await lane.ask(item) == item
            await aeventually(lambda: not work.open, "the connection is given back")
        assert work.used[0] is not work.used[1]

    @pytest.mark.skipif("connections['default'].vendor != 'sqlite'", reason="an option set late is a trick for SQLite")
    async def test_goes_back_to_a_pool_after_each_visit(
        self, connected: tuple[Lane[Any], Connected], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lane, work = connected
        # SQLite has no pool; the option is set once the connection is made.
        work.meanwhile = lambda wrapper: monkeypatch.setitem(wrapper.settings_dict, "OPTIONS", {"pool": True})
        await lane.ask("a")
        await aeventually(lambda: not work.open, "the connection is given back")

    async def test_that_was_found_dead_is_replaced_before_the_next_try(
        self, connected: tuple[Lane[Any], Connected], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lane, work = connected
        dead: list[BaseDatabaseWrapper] = []

        def die_once(wrapper: BaseDatabaseWrapper) -> None:
            if not dead:
                dead.append(wrapper)
                wrapper.errors_occurred = True
                monkeypatch.setattr(wrapper, "is_usable", lambda: False)
                raise OperationalError("the server closed the connection unexpectedly")

        work.meanwhile = die_once
        assert await lane.ask("a") == "a"
        assert len(work.used) == 2
        assert work.used[0] is not work.used[1]

    async def test_that_fails_to_close_is_not_the_end_of_the_lane(
        self, connected: tuple[Lane[Any], Connected], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lane, work = connected
        refused = threading.Event()

        def refuse() -> None:
            refused.set()
            raise DatabaseError("the server has gone away")

        await lane.ask("a")
        assert work.wrapper is not None
        with monkeypatch.context() as patch:
            patch.setattr(lanes, "IDLE_SECONDS", 0.01)
            patch.setattr(work.wrapper, "close", refuse)
            await lane.ask("b")
            await happens(refused, "the lane tries to give its connection back")
        assert await lane.ask("c") == "c"

    async def test_does_not_pile_up_the_queries_that_debug_keeps(self, connected: tuple[Lane[Any], Connected]) -> None:
        lane, work = connected
        kept: list[int] = []

        def count(wrapper: BaseDatabaseWrapper) -> None:
            kept.append(len(wrapper.queries_log))

        work.meanwhile = count
        with override_settings(DEBUG=True):
            for item in range(5):
                await lane.ask(item)
        assert max(kept[1:]) == kept[-1] > 0

    async def test_is_closed_by_a_thread_that_was_stuck(self, transactional_db: None) -> None:
        release, entered = threading.Event(), threading.Event()

        def hold(wrapper: BaseDatabaseWrapper) -> None:
            if not entered.is_set():
                entered.set()
                release.wait(SECONDS)

        work = Connected(hold)
        lane: Lane[Any] = Lane("test", lambda: "default", work)
        with short_deadline:
            while not entered.is_set():
                with pytest.raises(StoreUnavailable):
                    await lane.ask("stuck")
            first = work.wrapper
            assert await until_answered(lane, "next") == "next"
        assert first is not None
        assert first is not work.wrapper
        release.set()
        await aeventually(lambda: first.connection is None, "the stuck thread's connection is closed")
        end_lane(lane)
        eventually(lambda: not work.open, "the other one is closed")
