"""Pruning: what is over goes after its retention, in small steps, and nothing else does."""

from __future__ import annotations

import itertools
import secrets
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import astuple, replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import OperationalError, connections, router, transaction
from django.db.models import Exists, OuterRef
from django.db.models.functions import Now
from django.db.models.signals import post_delete
from django.test import override_settings
from django.utils import timezone

from mcp_django import pruning, stream_batches, visits
from mcp_django.models import Cancellation, ClientRequest, Event, Process, Session, StoredHandle, Stream, Topic
from mcp_django.pruning import ATTEMPTS, Pruned, prune
from tests.unit import records
from tests.unit.test_orm_store import FEW_APPS
from tests.unit.waiting import SECONDS

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
MODELS = [Session, Stream, Event, ClientRequest, Cancellation, StoredHandle, Process, Topic]

# The default retentions.
OVER_FOR_TOO_LONG = 7 * DAY + MINUTE
FINISHED_FOR_TOO_LONG = HOUR + MINUTE


def ago(period: timedelta) -> datetime:
    return timezone.now() - period


def ended(period: timedelta, **fields: Any) -> Session:
    """A session that was terminated this long ago."""
    return records.row(status="terminated", ended_at=ago(period), **fields)


def overdue(period: timedelta, **fields: Any) -> Session:
    """A session that nobody has marked as expired for this long."""
    return records.row(expires_at=ago(period), **{"initialized_at": ago(2 * period)} | fields)


def stream(session: Session, age: timedelta = 2 * FINISHED_FOR_TOO_LONG, **fields: Any) -> Stream:
    """An exchange opened this long ago, unfinished."""
    return Stream.objects.create(
        pk=secrets.randbits(62), session=session, **{"created_at": ago(age), "process": uuid.uuid4()} | fields
    )


def finished(session: Session, age: timedelta = FINISHED_FOR_TOO_LONG, events: int = 3) -> Stream:
    """An exchange that was over this long ago."""
    row = stream(session, finished_at=ago(age))
    write(row.pk, range(1, events + 1), age)
    return row


def standalone(session: Session, delivered: int) -> Stream:
    return stream(session, standalone=True, process=None, delivered=delivered)


def write(stream_id: int, sequences: Any, age: timedelta = FINISHED_FOR_TOO_LONG) -> None:
    """Events of this age."""
    rows = [Event(stream_id=stream_id, sequence=number, payload="{}", created_at=ago(age)) for number in sequences]
    Event.objects.bulk_create(rows, batch_size=300)


def ask(row: Stream) -> ClientRequest:
    return ClientRequest.objects.create(session_id=row.session_id, stream=row, method="elicitation/create")


def cancel(session: Session, age: timedelta = timedelta(0)) -> Cancellation:
    return Cancellation.objects.create(session=session, request_key=secrets.token_hex(4), created_at=ago(age))


def process(silence: timedelta = timedelta(0)) -> Process:
    """A process whose lease was renewed this long ago."""
    row = Process.objects.create(host="here", pid=7, version="1")
    Process.objects.filter(pk=row.pk).update(seen_at=Now() - silence)
    return row


def with_everything(session: Session) -> Session:
    """A session with rows of each kind that can belong to it, some of them fresh and unfinished."""
    for row in (finished(session, timedelta(0)), stream(session, timedelta(0)), standalone(session, 2)):
        write(row.pk, range(10, 13), timedelta(0))
        ask(row)
    cancel(session)
    return session


def all_kinds() -> None:
    """Something of every kind that is to be pruned, and of every kind that is to stay, several of each."""
    for _ in range(5):
        with_everything(ended(OVER_FOR_TOO_LONG))
        with_everything(overdue(OVER_FOR_TOO_LONG))
        overdue(MINUTE)
        session = with_everything(records.row())
        ask(finished(session))
        finished(session, events=8)
        write(stream(session).pk, [1])
        write(standalone(with_everything(records.row()), delivered=4).pk, range(1, 8))
        write(secrets.randbits(62), range(4, 7))
        cancel(session, FINISHED_FOR_TOO_LONG)
        records.handle_row(expires_at=ago(MINUTE))
        records.handle_row()
        process(2 * DAY)
        write(stream(session, process=process().pk).pk, [1])
    Topic.objects.create(pk="t", server="default", kind=Topic.Kind.CLOCK, raised_at=ago(365 * DAY))


def is_there(row: Any) -> bool:
    return bool(type(row)._default_manager.filter(pk=row.pk).exists())


def everything() -> dict[str, list[tuple[Any, ...]]]:
    """All rows of all tables."""
    tables = {model.__name__: list(model._default_manager.values_list()) for model in MODELS}
    return {name: sorted(rows, key=repr) for name, rows in tables.items()}


def events_without_stream() -> int:
    return Event.objects.filter(~Exists(Stream.objects.filter(pk=OuterRef("stream_id")))).count()


@contextmanager
def watched(note: Callable[[str, Any, Any], None]) -> Iterator[None]:
    """Have `note` called with each statement, its parameters and its cursor, after it ran."""

    def wrapper(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        outcome = execute(sql, params, many, context)
        note(sql, params, context["cursor"])
        return outcome

    with connections[router.db_for_write(Session)].execute_wrapper(wrapper):
        yield


@pytest.mark.django_db
class TestSessions:
    def test_an_overdue_session_is_marked_as_expired_and_says_why(self) -> None:
        session = overdue(MINUTE, epoch=3)
        assert prune() == Pruned(expired=1)
        session.refresh_from_db()
        assert (session.status, session.end_reason, session.epoch) == ("expired", pruning.END_REASON, 4)
        assert session.ended_at is not None
        assert prune() == Pruned()

    def test_a_session_in_use_is_left_alone_with_all_that_is_fresh(self) -> None:
        living = process()
        session = with_everything(records.row(last_process=living.pk))
        cancel(session, HOUR - MINUTE)
        finished(session, HOUR - MINUTE)
        stream(session, 30 * DAY, process=living.pk)
        before = everything()
        assert prune() == Pruned()
        assert everything() == before

    def test_a_session_that_was_left_half_open_goes_at_once(self) -> None:
        left = overdue(MINUTE, initialized_at=None)
        used = overdue(MINUTE, initialized_at=None, created_at=ago(DAY))
        prune()
        assert not is_there(left)
        assert is_there(used)

    @pytest.mark.parametrize("over", [ended, overdue])
    def test_a_session_goes_when_it_was_over_for_the_retention_and_not_before(
        self, over: Callable[[timedelta], Session]
    ) -> None:
        old, young = over(OVER_FOR_TOO_LONG), over(7 * DAY - MINUTE)
        assert prune().sessions == 1
        assert not is_there(old)
        assert is_there(young)

    def test_a_session_that_was_found_expired_late_counts_from_its_expiry(self) -> None:
        session = overdue(OVER_FOR_TOO_LONG)
        assert session.end("found by a request", "expired")
        assert prune() == Pruned(sessions=1)

    def test_a_session_goes_with_everything_that_belongs_to_it_and_nothing_else(self) -> None:
        kept = with_everything(records.row())
        before = everything()
        with_everything(ended(OVER_FOR_TOO_LONG))
        assert prune() == Pruned(sessions=1, streams=3, events=12, client_requests=3, cancellations=1)
        assert everything() == before
        assert is_there(kept)

    def test_a_question_whose_stream_is_gone_goes_with_its_session(self) -> None:
        session = ended(OVER_FOR_TOO_LONG)
        ClientRequest.objects.create(session=session, stream_id=7, method="ping")
        assert prune() == Pruned(sessions=1, client_requests=1)

    def test_a_project_hears_of_each_session_that_is_deleted(self) -> None:
        """As with every other model: it may keep something of its own for each session."""
        heard: list[str] = []

        def hear(instance: Session, **kwargs: Any) -> None:
            heard.append(instance.pk)

        gone = sorted(ended(OVER_FOR_TOO_LONG).pk for _ in range(3))
        ended(MINUTE)
        post_delete.connect(hear, sender=Session)
        try:
            prune(batch=2)
        finally:
            post_delete.disconnect(hear, sender=Session)
        assert sorted(heard) == gone

    def test_the_retention_is_a_setting(self) -> None:
        session = ended(3 * DAY)
        with override_settings(MCP_DJANGO_TOMBSTONE_RETENTION=3 * DAY + MINUTE):
            assert prune() == Pruned()
        with override_settings(MCP_DJANGO_TOMBSTONE_RETENTION=3 * DAY - MINUTE):
            assert prune() == Pruned(sessions=1)
        assert not is_there(session)


@pytest.mark.django_db
class TestExchanges:
    def test_one_goes_with_what_belongs_to_it_when_it_was_finished_for_the_retention(self) -> None:
        session = records.row()
        old, young = finished(session), finished(session, HOUR - MINUTE)
        ask(old)
        ask(young)
        assert prune() == Pruned(streams=1, events=3, client_requests=1)
        assert not is_there(old)
        assert is_there(young)
        assert Event.objects.filter(stream=young).count() == 3

    def test_an_unfinished_one_of_a_living_process_stays_however_old_it_is(self) -> None:
        row = stream(records.row(), 365 * DAY, process=process().pk)
        write(row.pk, [1, 2], 365 * DAY)
        assert prune() == Pruned()

    @pytest.mark.parametrize("silence", [Process.LEASE + timedelta(seconds=1), HOUR])
    def test_an_unfinished_one_stays_for_the_retention_after_the_lease_of_its_process(self, silence: timedelta) -> None:
        """After an outage of the database every lease has run out, and the processes live."""
        row = stream(records.row(), 365 * DAY, process=process(silence).pk)
        assert prune() == Pruned()
        assert is_there(row)

    def test_an_unfinished_one_of_a_dead_process_goes(self) -> None:
        row = stream(records.row(), process=process(FINISHED_FOR_TOO_LONG).pk)
        write(row.pk, [1, 2])
        ask(row)
        assert prune() == Pruned(streams=1, events=2, client_requests=1)

    @pytest.mark.parametrize("producer", [None, uuid.uuid4()])
    def test_an_unfinished_one_of_no_known_process_goes_when_it_is_old(self, producer: uuid.UUID | None) -> None:
        old = stream(records.row(), FINISHED_FOR_TOO_LONG, process=producer)
        young = stream(records.row(), HOUR - MINUTE, process=producer)
        assert prune() == Pruned(streams=1)
        assert not is_there(old)
        assert is_there(young)

    def test_the_retention_is_a_setting(self) -> None:
        finished(records.row(), 3 * HOUR)
        cancel(records.row(), 3 * HOUR)
        with override_settings(MCP_DJANGO_STREAM_RETENTION=3 * HOUR + MINUTE):
            assert prune() == Pruned()
        with override_settings(MCP_DJANGO_STREAM_RETENTION=3 * HOUR - MINUTE):
            assert prune() == Pruned(streams=1, events=3, cancellations=1)

    def test_a_wrong_retention_deletes_nothing(self) -> None:
        finished(records.row())
        with override_settings(MCP_DJANGO_STREAM_RETENTION=0), pytest.raises(ImproperlyConfigured):
            prune()
        assert prune(dry_run=True) == Pruned(streams=1, events=3)


@pytest.mark.django_db
class TestStandaloneStreams:
    def test_old_events_that_were_delivered_go_and_the_stream_stays(self) -> None:
        row = standalone(records.row(), delivered=5)
        write(row.pk, range(1, 3), FINISHED_FOR_TOO_LONG)
        write(row.pk, range(3, 5), HOUR - MINUTE)
        write(row.pk, range(5, 9), FINISHED_FOR_TOO_LONG)
        assert prune() == Pruned(events=2)
        assert list(Event.objects.order_by("sequence").values_list("sequence", flat=True)) == [3, 4, 5, 6, 7, 8]
        assert is_there(row)

    def test_one_that_nobody_has_read_keeps_everything(self) -> None:
        write(standalone(records.row(), delivered=0).pk, range(1, 9))
        assert prune() == Pruned()

    def test_its_sequences_go_on_after_all_was_delivered_and_pruned(self) -> None:
        """An event with a number that was delivered before would reach nobody."""
        row = standalone(records.row(), delivered=9)
        write(row.pk, range(1, 10))
        assert prune() == Pruned(events=8)
        (sequence,) = visits.write([stream_batches.Post(row.pk, row.session_id, "{}")])
        assert sequence == 10

    def test_the_events_of_an_exchange_do_not_count_as_delivered(self) -> None:
        row = stream(records.row(), process=process().pk, delivered=9)
        write(row.pk, range(1, 9))
        assert prune() == Pruned()


@pytest.mark.django_db
class TestTheRest:
    def test_events_whose_stream_is_gone_go_when_they_are_old(self) -> None:
        """A process that was frozen goes on writing to a stream that was deleted meanwhile."""
        write(7, [1, 2], FINISHED_FOR_TOO_LONG)
        write(7, [3], HOUR - MINUTE)
        assert prune() == Pruned(events=2)
        assert Event.objects.get().sequence == 3

    def test_old_cancellations_go(self) -> None:
        session = records.row()
        old, young = cancel(session, FINISHED_FOR_TOO_LONG), cancel(session, HOUR - MINUTE)
        assert prune() == Pruned(cancellations=1)
        assert not is_there(old)
        assert is_there(young)

    def test_a_handle_goes_when_it_has_expired(self) -> None:
        expired, kept = records.handle_row(expires_at=ago(MINUTE)), records.handle_row()
        assert prune() == Pruned(handles=1)
        assert not is_there(expired)
        assert is_there(kept)

    def test_a_handle_that_is_used_while_the_run_comes_to_it_stays(self) -> None:
        row, now = records.handle_row(), timezone.now()

        def use(sql: str, params: Any, cursor: Any) -> None:
            if sql.startswith("SELECT") and "storedhandle" in sql:
                StoredHandle.objects.filter(pk=row.pk).update(expires_at=now + 2 * DAY)

        StoredHandle.objects.filter(pk=row.pk).update(expires_at=now + MINUTE)
        with watched(use):
            assert prune(now=now + DAY) == Pruned()
        assert is_there(row)

    def test_the_row_of_a_process_goes_a_day_after_its_lease_ran_out(self) -> None:
        old, young, living = process(DAY + MINUTE), process(DAY - MINUTE), process()
        assert prune() == Pruned(processes=1)
        assert [is_there(row) for row in (old, young, living)] == [False, True, True]

    def test_the_row_of_a_process_outlasts_the_streams_that_are_kept_for_it(self) -> None:
        row = process(3 * DAY)
        opened = stream(records.row(), 30 * DAY, process=row.pk)
        with override_settings(MCP_DJANGO_STREAM_RETENTION=3 * DAY + MINUTE):
            assert prune() == Pruned()
        assert prune() == Pruned(streams=1, processes=1)
        assert not is_there(opened)

    def test_topics_stay(self) -> None:
        Topic.objects.create(pk="t", server="default", kind=Topic.Kind.CLOCK, raised_at=ago(365 * DAY))
        assert prune() == Pruned()
        assert Topic.objects.count() == 1

    def test_now_is_the_moment_to_reckon_from(self) -> None:
        session = records.row()
        finished(session, timedelta(0))
        assert prune(now=timezone.now() + HOUR - MINUTE) == Pruned()
        assert prune(now=timezone.now() + 2 * HOUR) == Pruned(streams=1, events=3)
        assert prune(now=session.expires_at - MINUTE) == Pruned()
        assert prune(now=session.expires_at, dry_run=True) == Pruned(expired=1)
        assert prune(now=session.expires_at + OVER_FOR_TOO_LONG) == Pruned(expired=1, sessions=1)


@pytest.mark.django_db
class TestDryRun:
    @pytest.mark.parametrize("batch", [1, 3, 1000])
    def test_reports_what_the_run_then_does(self, batch: int) -> None:
        all_kinds()
        would = prune(dry_run=True)
        # Tokens are an app of their own, whose tests are with it.
        assert 0 not in astuple(replace(would, tokens=1))
        assert prune(batch=batch) == would
        assert prune(dry_run=True) == prune() == Pruned()

    def test_only_reads(self) -> None:
        all_kinds()
        before = everything()
        statements: list[str] = []
        with watched(lambda sql, params, cursor: statements.append(sql)):
            prune(dry_run=True)
        assert statements
        assert [sql for sql in statements if not sql.startswith("SELECT") or "FOR UPDATE" in sql] == []
        assert everything() == before


@pytest.mark.django_db
class TestBatches:
    def test_a_long_stream_goes_in_small_steps(self) -> None:
        finished(records.row(), events=5000)
        sizes: list[int] = []

        def note(sql: str, params: Any, cursor: Any) -> None:
            if sql.startswith("DELETE"):
                sizes.append(cursor.rowcount)

        with watched(note):
            assert prune(batch=100) == Pruned(streams=1, events=5000)
        assert max(sizes) == 100
        assert sum(sizes) == 5001

    @pytest.mark.parametrize("batch", [1, 2, 7])
    def test_no_statement_changes_more_rows_than_a_batch_has(self, batch: int) -> None:
        all_kinds()
        sizes: list[int] = []

        def note(sql: str, params: Any, cursor: Any) -> None:
            if sql.startswith(("DELETE", "UPDATE")):
                sizes.append(cursor.rowcount)

        with watched(note):
            pruned = prune(batch=batch)
        assert max(sizes) == batch
        assert sum(sizes) == sum(astuple(pruned))

    def test_no_statement_has_more_parameters_than_the_database_takes(self, monkeypatch: pytest.MonkeyPatch) -> None:
        all_kinds()
        limit = pruning.OTHER_PARAMETERS + 10
        monkeypatch.setattr(type(connections["default"].features), "max_query_params", limit)
        numbers: list[int] = []
        with watched(lambda sql, params, cursor: numbers.append(len(params or ()))):
            prune()
        assert 10 <= max(numbers) <= limit
        assert prune(dry_run=True) == Pruned()

    @pytest.mark.parametrize("batch", [0, -1])
    def test_a_batch_of_nothing_is_an_error(self, batch: int) -> None:
        with pytest.raises(ValueError, match=f"1 or more, got {batch}"):
            prune(batch=batch)

    def test_everything_goes_through_the_database_that_sessions_are_written_to(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Lagging:
            def db_for_read(self, model: Any, **hints: Any) -> str:
                raise AssertionError(f"{model.__name__} was read from a replica")

        all_kinds()
        monkeypatch.setattr(router, "routers", [Lagging()])
        assert prune(dry_run=True) == prune()

    def test_the_summary_names_each_kind_with_its_count(self) -> None:
        assert str(Pruned(expired=2, client_requests=1)) == (
            "expired: 2, sessions: 0, streams: 0, events: 0, client requests: 1, cancellations: 0, handles: 0, "
            "tokens: 0, processes: 0"
        )


class Trouble:
    """Has some of the statements that delete or update fail, as they would in a deadlock."""

    def __init__(self, failing: Callable[[int], bool]) -> None:
        self.failing = failing
        self.count = 0

    def __call__(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if sql.startswith(("DELETE", "UPDATE")):
            self.count += 1
            if self.failing(self.count):
                raise OperationalError("deadlock")
        return execute(sql, params, many, context)


@pytest.mark.django_db(transaction=True, available_apps=FEW_APPS)
class TestTrouble:
    def test_what_met_a_deadlock_is_tried_again(self) -> None:
        all_kinds()
        would = prune(dry_run=True)
        trouble = Trouble(lambda count: count % 7 == 0)
        with connections["default"].execute_wrapper(trouble):
            assert prune(batch=4) == would
        assert trouble.count > 20
        assert prune(dry_run=True) == Pruned()

    def test_trouble_that_stays_is_raised(self) -> None:
        overdue(MINUTE)
        trouble = Trouble(lambda count: True)
        with connections["default"].execute_wrapper(trouble), pytest.raises(OperationalError):
            prune()
        assert trouble.count == ATTEMPTS

    def test_a_run_that_is_stopped_anywhere_leaves_no_event_without_its_stream_and_the_next_one_goes_on(self) -> None:
        session = records.row()
        for _ in range(2):
            ask(finished(session, events=5))
        with_everything(ended(OVER_FOR_TOO_LONG))
        left = prune(dry_run=True)
        steps = 0
        for stop in itertools.count(1):
            with connections["default"].execute_wrapper(Trouble(stop.__le__)):
                try:
                    prune(batch=3)
                    break
                except OperationalError:
                    pass
            assert events_without_stream() == 0
            now_left = prune(dry_run=True)
            assert all(now <= before for now, before in zip(astuple(now_left), astuple(left), strict=True))
            steps += now_left != left
            left = now_left
        assert steps > 3
        assert prune(dry_run=True) == Pruned()

    def test_inside_a_transaction_nothing_is_tried_again(self) -> None:
        """A deadlock has ended the whole transaction, with what its owner did before."""
        overdue(MINUTE)
        trouble = Trouble(lambda count: True)
        with connections["default"].execute_wrapper(trouble), pytest.raises(OperationalError), transaction.atomic():
            prune()
        assert trouble.count == 1


@pytest.mark.django_db(transaction=True, available_apps=FEW_APPS)
@pytest.mark.parametrize("batch", [1, 3, 1000])
def test_two_runs_at_once_share_the_work(batch: int) -> None:
    all_kinds()
    with_everything(records.row())
    finished(records.row(), events=200)
    would = prune(dry_run=True)
    start = threading.Barrier(2, timeout=SECONDS)
    outcomes: list[Pruned | BaseException] = []

    def run() -> None:
        try:
            start.wait()
            outcomes.append(prune(batch=batch))
        except BaseException as error:
            outcomes.append(error)
        finally:
            connections.close_all()

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(6 * SECONDS)
        assert not thread.is_alive()
    for outcome in outcomes:
        assert isinstance(outcome, Pruned), outcome
    # MariaDB locks rows in passing, and what another run seems to hold is left to the next one.
    outcomes.append(prune())
    assert tuple(map(sum, zip(*map(astuple, outcomes), strict=True))) == astuple(would)  # type: ignore[arg-type]
    assert prune(dry_run=True) == Pruned()
