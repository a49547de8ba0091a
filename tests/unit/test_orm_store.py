"""The store in the database."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import uuid
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import ImproperlyConfigured
from django.db import connections, router
from django.db.utils import DatabaseError
from django.test import override_settings
from django.utils import timezone

from mcp_django import batches
from mcp_django.exceptions import SessionNotFound, StoreUnavailable
from mcp_django.memory import MemoryStore
from mcp_django.models import Process, Session
from mcp_django.processes import Heartbeat, this_process
from mcp_django.store import ORMStore, session_store
from mcp_django.testing import inline
from tests.unit import records
from tests.unit.store_contract import StoreContract, created
from tests.unit.waiting import SECONDS, eventually, in_thread

# With few apps the tables are emptied quickly after each test.
FEW_APPS = ["django.contrib.contenttypes", "django.contrib.auth", "mcp_django"]


@pytest.mark.django_db(transaction=True, available_apps=FEW_APPS)
class TestORMStore(StoreContract):
    @pytest.fixture
    def store(self, orm_store: ORMStore) -> ORMStore:
        return orm_store

    async def test_is_durable(self, store: ORMStore) -> None:
        assert store.durable is True

    async def test_keeps_the_reason_of_the_end(self, store: ORMStore) -> None:
        record = await created(store)
        await store.end(record.digest, "by the test", "terminated")
        row = await in_thread(Session.objects.get, pk=record.digest)
        assert row.end_reason == "by the test"
        assert row.ended_at is not None

    async def test_sees_what_another_process_wrote(self, store: ORMStore) -> None:
        row = await in_thread(records.row)
        head = await store.head(row.pk)
        assert head is not None
        assert head.is_live(timezone.now())
        await in_thread(Session.objects.end_all, "by an admin")
        head = await store.head(row.pk)
        assert head is not None
        assert head.status == "terminated"

    async def test_one_bad_row_does_not_harm_those_created_with_it(self, store: ORMStore) -> None:
        taken = await created(store)
        outcomes = await asyncio.gather(
            created(store), store.create(records.record(taken.digest)), created(store), return_exceptions=True
        )
        assert isinstance(outcomes[1], StoreUnavailable)
        assert await store.load(taken.digest) == taken
        for record in (outcomes[0], outcomes[2]):
            assert not isinstance(record, BaseException)
            assert record is not None
            assert await store.head(record.digest) == record.head


def queries_of(items: list[Any], work: Any) -> tuple[list[str], Any]:
    """The statements of one visit to the database, and its outcomes."""
    connection = connections[router.db_for_write(Session)]
    statements: list[str] = []

    def note(execute: Any, sql: str, *args: Any) -> Any:
        statements.append(sql)
        return execute(sql, *args)

    with connection.execute_wrapper(note):
        outcomes = work(items)
    return [sql for sql in statements if not sql.startswith(("SAVEPOINT", "RELEASE"))], outcomes


@pytest.mark.django_db
class TestVisits:
    """What a lane does in one visit; here without a lane."""

    def test_heads_of_many_sessions_are_one_query(self) -> None:
        rows = [records.row() for _ in range(20)]
        items = [batches.ReadHead(row.pk) for row in [*rows, *rows]]
        statements, outcomes = queries_of(items, batches.read)
        assert len(statements) == 1
        assert [outcome[-1] for outcome in outcomes] == [row.expires_at for row in [*rows, *rows]]

    def test_every_kind_of_read_is_one_query(self) -> None:
        row = records.row()
        items = [batches.ReadHead(row.pk), batches.ReadRecord(row.pk), batches.ReadState(row.pk)] * 3
        statements, outcomes = queries_of([*items, batches.ReadHead("unknown")], batches.read)
        assert len(statements) == 3
        assert outcomes[-1] is None
        assert outcomes[2] == outcomes[5] == ({}, 0)

    def test_many_new_sessions_are_one_insert(self) -> None:
        items = [batches.Create(records.record()) for _ in range(20)]
        statements, outcomes = queries_of(items, batches.write)
        assert len([sql for sql in statements if sql.startswith("INSERT")]) == 1
        assert outcomes == [None] * 20
        assert Session.objects.count() == 20

    def test_touches_of_many_sessions_are_one_update(self) -> None:
        now = timezone.now()
        rows = [records.row(now=now - timedelta(hours=1)) for _ in range(20)]
        items = [batches.Touch(row.pk, now, now + timedelta(days=14)) for row in rows]
        statements, _outcomes = queries_of(items, batches.write)
        assert len([sql for sql in statements if sql.startswith("UPDATE")]) == 1
        assert set(Session.objects.values_list("last_seen_at", flat=True)) == {now}

    def test_many_changes_of_one_state_are_written_once(self) -> None:
        row = records.row()

        def add(state: dict[str, Any]) -> int:
            state["n"] = state.get("n", 0) + 1
            return int(state["n"])

        items = [batches.ChangeState(row.pk, add) for _ in range(20)]
        statements, outcomes = queries_of(items, batches.write)
        assert outcomes == list(range(1, 21))
        assert len([sql for sql in statements if sql.startswith("UPDATE") and "state_json" in sql]) == 1

    def test_a_visit_that_fails_leaves_nothing_half_done(self) -> None:
        row = records.row()
        items: list[batches.Write] = [batches.Create(records.record()), batches.Create(records.record(row.pk))]
        with pytest.raises(DatabaseError):
            batches.write(items)
        assert Session.objects.count() == 1

    def test_everything_goes_through_the_database_that_sessions_are_written_to(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A replica that lags behind would answer 404 for a session that was just made."""

        class Lagging:
            def db_for_read(self, model: Any, **hints: Any) -> str:
                raise AssertionError(f"{model.__name__} was read from a replica")

        row = records.row()
        monkeypatch.setattr(router, "routers", [Lagging()])
        items: list[Any] = [
            batches.ReadHead(row.pk),
            batches.ReadRecord(row.pk),
            batches.ReadState(row.pk),
            batches.ReadProcess(uuid.uuid4()),
        ]
        assert None not in batches.read(items)[:3]
        now = timezone.now()
        batches.write(
            [
                batches.Create(records.record()),
                batches.Touch(row.pk, now, now),
                batches.Change(lambda: Session(pk=row.pk).set_log_level("debug")),
                batches.Change(lambda: Session(pk=row.pk).end("by the test")),
                batches.ChangeState(row.pk, lambda state: None),
                batches.RenewLease(uuid.uuid4(), "1"),
            ]
        )


@pytest.mark.django_db
class TestProcesses:
    def alive(self, process: uuid.UUID) -> bool:
        return bool(batches.read([batches.ReadProcess(process)])[0])

    def lease(self, **values: Any) -> uuid.UUID:
        fields = {"pk": uuid.uuid4(), "host": socket.gethostname(), "pid": os.getpid(), "version": "1"} | values
        return Process.objects.create(**fields).pk

    def test_one_that_renews_its_lease_is_alive(self) -> None:
        process = uuid.uuid4()
        for _ in range(2):
            batches.write([batches.RenewLease(process, "1")])
        assert self.alive(process)
        assert Process.objects.get().pid == os.getpid()

    def test_one_whose_lease_ran_out_is_dead(self) -> None:
        process = self.lease()
        assert self.alive(process)
        Process.objects.update(seen_at=timezone.now() - Process.LEASE - timedelta(minutes=1))
        assert not self.alive(process)

    def test_one_of_another_machine_is_judged_by_its_lease_alone(self) -> None:
        assert self.alive(self.lease(host="elsewhere", pid=2**31 - 1))

    def test_one_of_this_machine_that_was_killed_is_dead_before_its_lease_runs_out(self) -> None:
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        process = self.lease(pid=child.pid)
        assert self.alive(process)
        child.communicate(b"\n", timeout=SECONDS)
        assert not self.alive(process)

    def test_one_of_another_user_of_this_machine_is_alive(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def not_yours(pid: int, signal: int) -> None:
            raise PermissionError

        monkeypatch.setattr(os, "kill", not_yours)
        assert self.alive(self.lease())


class TestHeartbeat:
    def test_renews_the_lease_of_this_process_from_a_thread_until_it_is_stopped(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("mcp_django.processes.RENEW_SECONDS", 0.001)
        posted: list[batches.RenewLease] = []
        heartbeat = Heartbeat(posted.append)
        heartbeat.start()
        heartbeat.start()
        try:
            eventually(lambda: len(posted) > 2, "the lease is renewed")
            assert {renewal.process for renewal in posted} == {this_process()}
        finally:
            heartbeat.stop()

    def test_starts_again_after_it_was_stopped(self) -> None:
        posted: list[Any] = []
        heartbeat = Heartbeat(posted.append)
        for count in (1, 2):
            heartbeat.start()
            eventually(lambda count=count: len(posted) == count, "the lease is renewed")  # type: ignore[misc]
            heartbeat.stop()

    @pytest.mark.django_db(transaction=True)
    def test_begins_when_the_store_first_keeps_a_session(self, orm_store: ORMStore, monkeypatch: Any) -> None:
        started: list[Heartbeat] = []
        monkeypatch.setattr(Heartbeat, "start", lambda heartbeat: started.append(heartbeat))
        asyncio.run(orm_store.head("unknown"))
        assert not started
        asyncio.run(orm_store.create(records.record()))
        assert started


@pytest.mark.django_db
def test_inline_the_store_works_inside_the_tests_own_transaction() -> None:
    """What `mcp_django.testing` turns on: nothing is committed, and no thread is left."""
    store = ORMStore()
    record = records.record()
    with inline():
        async_to_sync(store.create)(record)
        assert async_to_sync(store.load)(record.digest) == record
        assert async_to_sync(store.change_state)(record.digest, lambda state: state.update(a=1)) is None
        assert async_to_sync(store.end)(record.digest, "by the test", "terminated") is True
        with pytest.raises(SessionNotFound):
            async_to_sync(store.read_state)(record.digest)
    assert connections["default"].in_atomic_block
    assert Session.objects.get(pk=record.digest).state == {"a": 1}
    assert store._writes._thread is None


class TestChoice:
    def test_the_default_is_the_orm_store_and_made_once(self) -> None:
        assert isinstance(session_store(), ORMStore)
        assert session_store() is session_store()

    def test_the_setting_chooses_and_is_read_again(self) -> None:
        with override_settings(MCP_DJANGO_SESSION_STORE="mcp_django.memory.MemoryStore"):
            assert isinstance(session_store(), MemoryStore)
        assert isinstance(session_store(), ORMStore)

    @pytest.mark.parametrize(
        ("path", "expected"),
        [
            ("no.such.Store", "cannot be imported"),
            ("mcp_django.memory.NoSuchStore", "cannot be imported"),
            ("nodots", "cannot be imported"),
            ("builtins.dict", "lacks"),
            ("mcp_django.memory", "mcp_django.memory"),
            ("mcp_django.models.DIGEST_LENGTH", "mcp_django.models.DIGEST_LENGTH"),
        ],
    )
    def test_what_is_no_store_is_a_clear_error(self, path: str, expected: str) -> None:
        with (
            override_settings(MCP_DJANGO_SESSION_STORE=path),
            pytest.raises(ImproperlyConfigured, match=expected) as caught,
        ):
            session_store()
        assert "MCP_DJANGO_SESSION_STORE" in str(caught.value)
        assert path in str(caught.value)

    def test_a_store_that_lacks_methods_is_told_which(self) -> None:
        with (
            override_settings(MCP_DJANGO_SESSION_STORE="builtins.dict"),
            pytest.raises(ImproperlyConfigured, match="create, head, load, touch"),
        ):
            session_store()
