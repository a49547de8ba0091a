"""One visit of a lane to the database: many items, few statements, one commit. Here without a lane."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from django.db import router
from django.db.utils import DatabaseError
from django.utils import timezone

from mcp_django import batches, stream_reads, visits
from mcp_django import stream_batches as streams
from mcp_django.models import Session, Topic
from mcp_django.stream_store import asked, row
from tests.unit import records
from tests.unit.statements import queries_of


@dataclass(frozen=True)
class Letter:
    """An item that is served as its text in upper case."""

    text: str

    @staticmethod
    def serve(items: Sequence[Letter]) -> list[str]:
        served.append([item.text for item in items])
        return [item.text.upper() for item in items]


@dataclass(frozen=True)
class Number:
    number: int

    @staticmethod
    def serve(items: Sequence[Number]) -> list[Any]:
        served.append([item.number for item in items])
        return [ValueError(item.number) if item.number < 0 else item.number for item in items]


served: list[list[Any]] = []


def test_items_are_served_by_kind_and_each_gets_its_own_outcome() -> None:
    served.clear()
    outcomes = visits.read([Letter("a"), Number(1), Letter("b"), Letter("a"), Number(-1), Number(2)])
    assert served == [["a", "b", "a"], [1, -1, 2]]
    assert [outcome for outcome in outcomes if not isinstance(outcome, ValueError)] == ["A", 1, "B", "A", 2]
    assert isinstance(outcomes[4], ValueError)


def test_a_kind_that_loses_an_outcome_is_a_mistake_and_not_somebody_elses_answer() -> None:
    class Forgetful(Letter):
        @staticmethod
        def serve(items: Sequence[Letter]) -> list[str]:
            return []

    with pytest.raises(ValueError, match="shorter"):
        visits.read([Forgetful("a")])


@pytest.mark.django_db
class TestVisits:
    """What a lane does in one visit; here without a lane."""

    def test_heads_of_many_sessions_are_one_query(self) -> None:
        rows = [records.row() for _ in range(20)]
        items = [batches.ReadHead(row.pk) for row in [*rows, *rows]]
        statements, outcomes = queries_of(items, visits.read)
        assert len(statements) == 1
        assert [outcome[-1] for outcome in outcomes] == [row.expires_at for row in [*rows, *rows]]

    def test_every_kind_of_read_is_one_query(self) -> None:
        row = records.row()
        items = [batches.ReadHead(row.pk), batches.ReadRecord(row.pk), batches.ReadState(row.pk)] * 3
        statements, outcomes = queries_of([*items, batches.ReadHead("unknown")], visits.read)
        assert len(statements) == 3
        assert outcomes[-1] is None
        assert outcomes[2] == outcomes[5] == ({}, 0)

    def test_many_new_sessions_are_one_insert(self) -> None:
        items = [batches.Create(records.record()) for _ in range(20)]
        statements, outcomes = queries_of(items, visits.write)
        assert len([sql for sql in statements if sql.startswith("INSERT")]) == 1
        assert outcomes == [None] * 20
        assert Session.objects.count() == 20

    def test_touches_of_many_sessions_are_one_update(self) -> None:
        now = timezone.now()
        rows = [records.row(now=now - timedelta(hours=1)) for _ in range(20)]
        items = [batches.Touch(row.pk, now, now + timedelta(days=14)) for row in rows]
        statements, _outcomes = queries_of(items, visits.write)
        assert len([sql for sql in statements if sql.startswith("UPDATE")]) == 1
        assert set(Session.objects.values_list("last_seen_at", flat=True)) == {now}

    def test_many_changes_of_one_state_are_written_once(self) -> None:
        row = records.row()

        def add(state: dict[str, Any]) -> int:
            state["n"] = state.get("n", 0) + 1
            return int(state["n"])

        items = [batches.ChangeState(row.pk, add) for _ in range(20)]
        statements, outcomes = queries_of(items, visits.write)
        assert outcomes == list(range(1, 21))
        assert len([sql for sql in statements if sql.startswith("UPDATE") and "state_json" in sql]) == 1

    def test_a_visit_that_fails_leaves_nothing_half_done(self) -> None:
        row = records.row()
        items: list[batches.Write] = [batches.Create(records.record()), batches.Create(records.record(row.pk))]
        with pytest.raises(DatabaseError):
            visits.write(items)
        assert Session.objects.count() == 1

    def test_heads_of_a_thousand_sessions_are_one_query(self) -> None:
        digests = {records.row().pk for _ in range(1000)}
        items = [batches.ReadHeads(frozenset({*digests, "unknown"})), batches.ReadHeads(frozenset(list(digests)[:10]))]
        statements, outcomes = queries_of(items, visits.read)
        assert len(statements) == 1
        assert set(outcomes[0]) == digests
        assert set(outcomes[1]) == set(list(digests)[:10])

    def test_no_sessions_are_no_query(self) -> None:
        assert queries_of([batches.ReadHeads(frozenset())], visits.read) == ([], [{}])


@pytest.mark.django_db
class TestReplica:
    """A replica that lags behind would answer 404 for a session that was just made."""

    @pytest.fixture
    def session(self, monkeypatch: pytest.MonkeyPatch) -> str:
        """A session with a subscription, in a project that reads from a replica."""

        class Lagging:
            def db_for_read(self, model: Any, **hints: Any) -> str:
                raise AssertionError(f"{model.__name__} was read from a replica")

        digest = records.row().pk
        monkeypatch.setattr(router, "routers", [Lagging()])
        return digest

    def test_sessions_are_read_and_changed_where_they_are_written(self, session: str) -> None:
        now = timezone.now()
        items: list[Any] = [
            batches.ReadHead(session),
            batches.ReadHeads(frozenset({session})),
            batches.ReadRecord(session),
            batches.ReadState(session),
            batches.ReadProcess(uuid.uuid4()),
        ]
        assert None not in visits.read(items)[:4]
        outcomes = visits.write(
            [
                batches.Create(records.record()),
                batches.Touch(session, now, now + timedelta(days=1)),
                batches.Change(lambda: Session(pk=session).set_log_level("debug")),
                batches.Change(lambda: Session(pk=session).change_subscription("lib://a", True)),
                batches.Change(lambda: Session(pk=session).mark_restored(uuid.uuid4(), "print")),
                batches.ChangeState(session, lambda state: None),
                batches.RenewLease(uuid.uuid4(), "1"),
            ]
        )
        assert outcomes == [None, None, True, True, True, None, None]
        assert visits.write([batches.Change(lambda: Session(pk=session).end("by the test"))]) == [True]

    def test_streams_are_read_and_changed_where_sessions_are_written(self, session: str) -> None:
        stream, standalone, process, reader = secrets.randbits(63), secrets.randbits(63), uuid.uuid4(), uuid.uuid4()
        question = streams.Question(uuid.uuid4(), session, "roots/list")
        record = streams.StreamRecord(stream, session, process, (1,))
        visits.write([streams.Append(stream, 1, "{}", opens=record, asks=question)])
        outcomes = visits.write(
            [
                streams.Post(standalone, session, "{}", "default"),
                streams.OpenStandalone(standalone, session, 0),
                batches.Change(lambda: row(stream).take_over(reader, process, 0)),
                batches.Change(lambda: row(stream).take_if_free(reader, process, 0, judge=True)),
                batches.Change(lambda: row(stream).deliver(reader, 1)),
                batches.Change(lambda: row(stream).release(reader, 0)),
                batches.Change(lambda: asked(question.id, session).answer("{}")),
                streams.EndOrphan(stream, process, ("{}",)),
                streams.Cancel(session, 1),
                streams.Raise("default", Topic.Kind.RESOURCE, "lib://a"),
                streams.Raise("default", Topic.Kind.RESOURCE, "lib://a"),
            ]
        )
        assert outcomes == [1, None, True, True, True, True, True, True, None, 1, 1]
        found = visits.read(
            [
                stream_reads.ReadStreams(frozenset({stream})),
                stream_reads.ReadEvents(stream, 0, 10),
                stream_reads.ReadAnswers(frozenset({question.id})),
                stream_reads.ReadCancellations(frozenset({session})),
                stream_reads.ReadClocks(frozenset({"default"})),
                stream_reads.ReadNotices("default", 0, frozenset({"lib://a"})),
            ]
        )
        assert all(found)
