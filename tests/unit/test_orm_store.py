"""The store in the database."""

from __future__ import annotations

import asyncio

import pytest
from asgiref.sync import async_to_sync
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.test import override_settings
from django.utils import timezone

from mcp_django.exceptions import HandlerError, SessionNotFound, StoreUnavailable, TooManySessions
from mcp_django.memory import MemoryStore
from mcp_django.models import Session, Stream
from mcp_django.store import ORMStore, session_store
from mcp_django.testing import inline
from tests.unit import records
from tests.unit.store_contract import StoreContract, created
from tests.unit.waiting import in_thread

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

    @override_settings(MCP_DJANGO_MAX_ADDRESS_SESSIONS=5)
    async def test_a_flood_of_new_sessions_leaves_no_more_rows_than_a_caller_may_have(self, store: ORMStore) -> None:
        for _ in range(10):
            await asyncio.gather(*(created(store, quota="flood") for _ in range(3)))
        rows = await in_thread(lambda: list(Session.objects.of_quota("flood").values_list("status", flat=True)))
        assert rows.count("active") == 5
        assert len(rows) <= 2 * 5

    @override_settings(MCP_DJANGO_MAX_ADDRESS_SESSIONS=2)
    async def test_where_all_sessions_of_a_caller_are_at_work_there_is_no_room_for_another(
        self, store: ORMStore
    ) -> None:
        working = [await created(store, quota="caller") for _ in range(2)]
        for number, record in enumerate(working):
            await in_thread(Stream.objects.create, pk=number, session_id=record.digest, method="tools/call")
        with pytest.raises(TooManySessions):
            await created(store, quota="caller")
        await created(store, quota="another caller")
        assert await in_thread(Session.objects.of_quota("caller").count) == 2
        assert await self.live_of(store, working) == [True, True]
        await in_thread(lambda: Stream.objects.update(finished_at=timezone.now()))
        await created(store, quota="caller")
        assert sorted(await self.live_of(store, working)) == [False, True]

    @override_settings(MCP_DJANGO_MAX_ADDRESS_SESSIONS=2)
    async def test_rows_of_sessions_that_are_over_make_room_for_new_ones(self, store: ORMStore) -> None:
        for _ in range(8):
            record = await created(store, quota="caller")
            await store.end(record.digest, "by the test", "terminated")
        assert await in_thread(Session.objects.of_quota("caller").count) == 2

    async def test_subscriptions_from_two_processes_lose_nothing(
        self, store: ORMStore, second_orm_store: ORMStore
    ) -> None:
        record = await created(store)
        doors = [store, second_orm_store]
        for number in range(10):
            await store.change_subscription(record.digest, f"lib://gone/{number}", True)
        for number in range(20):
            # One at a time through each, so that they are many transactions and not a few batches.
            outcomes = await asyncio.gather(
                *(
                    door.change_subscription(record.digest, f"lib://{side}/{number}", True)
                    for side, door in enumerate(doors)
                ),
                *(door.change_subscription(record.digest, f"lib://gone/{number % 10}", False) for door in doors),
            )
            assert outcomes == [True] * 4
        row = await in_thread(Session.objects.get, pk=record.digest)
        assert sorted(row.subscriptions) == sorted(f"lib://{side}/{n}" for side in range(2) for n in range(20))
        assert row.epoch == 10 + 80

    async def test_a_subscription_that_is_refused_does_not_harm_what_is_written_with_it(self, store: ORMStore) -> None:
        record, other = await created(store), await created(store)
        with override_settings(MCP_DJANGO_MAX_SUBSCRIPTIONS=1):
            await store.change_subscription(record.digest, "lib://a", True)
            outcomes = await asyncio.gather(
                store.set_log_level(record.digest, "debug"),
                store.change_subscription(record.digest, "lib://b", True),
                store.change_subscription(other.digest, "lib://b", True),
                return_exceptions=True,
            )
        assert isinstance(outcomes[1], HandlerError)
        assert (outcomes[0], outcomes[2]) == (True, True)
        row = await in_thread(Session.objects.get, pk=record.digest)
        assert (row.log_level, row.subscriptions, row.epoch) == ("debug", ["lib://a"], 2)

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
    assert store.writes._thread is None


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
            pytest.raises(ImproperlyConfigured, match="create, head, heads, load, touch"),
        ):
            session_store()
