"""Handles in the database and in the memory of one process."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.models import User
from django.core.exceptions import ImproperlyConfigured
from django.test import override_settings
from django.utils import timezone

from mcp_django.exceptions import HandleNotFound, StoreUnavailable
from mcp_django.handle_store import HandleStore, ORMHandles
from mcp_django.memory import MemoryHandles, MemoryStore
from mcp_django.models import StoredHandle, digest_of
from mcp_django.store import ORMStore, handle_store, session_store
from mcp_django.testing import inline
from tests.unit import records
from tests.unit.handle_store_contract import HandleStoreContract, created
from tests.unit.state_contract import add_one
from tests.unit.test_orm_store import FEW_APPS
from tests.unit.waiting import in_thread


@pytest.mark.django_db(transaction=True, available_apps=FEW_APPS)
class TestORMHandles(HandleStoreContract):
    @pytest.fixture
    def store(self, orm_store: ORMStore) -> ORMHandles:
        return orm_store.handles

    async def test_changes_from_two_processes_lose_nothing(
        self, store: HandleStore, second_orm_store: ORMStore
    ) -> None:
        record = await created(store)
        doors = [store, second_orm_store.handles]
        for number in range(20):
            # One at a time through each, so that they are many transactions and not a few batches.
            found = await asyncio.gather(*(door.change_state(record.digest, add_one) for door in doors))
            assert sorted(found) == [2 * number + 1, 2 * number + 2]

    async def test_ended_by_another_process_it_is_gone(self, store: HandleStore, second_orm_store: ORMStore) -> None:
        record = await created(store)
        await store.change_state(record.digest, add_one)
        outcomes = await asyncio.gather(
            second_orm_store.handles.end(record.digest),
            *(store.change_state(record.digest, add_one) for _ in range(5)),
            return_exceptions=True,
        )
        assert outcomes[0] is True
        assert all(isinstance(outcome, (int, HandleNotFound)) for outcome in outcomes[1:])
        assert not await in_thread(StoredHandle.objects.exists)

    async def test_one_bad_row_does_not_harm_those_created_with_it(self, store: HandleStore) -> None:
        taken = await created(store)
        outcomes = await asyncio.gather(
            created(store), store.create(records.handle_record(taken.digest)), created(store), return_exceptions=True
        )
        assert isinstance(outcomes[1], StoreUnavailable)
        assert await store.head(taken.digest) == taken.head
        for record in (outcomes[0], outcomes[2]):
            assert record is not None
            assert not isinstance(record, BaseException)
            assert await store.head(record.digest) == record.head


class TestMemoryHandles(HandleStoreContract):
    @pytest.fixture
    def store(self, memory_store: MemoryStore) -> MemoryHandles:
        return memory_store.handles

    async def test_clears_away_the_expired_so_that_it_does_not_grow_for_ever(self, store: MemoryHandles) -> None:
        expired = await created(store, now=timezone.now() - 2 * records.TTL)
        made = [await created(store) for _ in range(999)]
        assert await store.head(expired.digest) is None
        assert [await store.head(record.digest) for record in made] == [record.head for record in made]


@pytest.mark.django_db
def test_inline_the_store_works_inside_the_tests_own_transaction() -> None:
    handles, record = ORMStore().handles, records.handle_record()
    with inline():
        async_to_sync(handles.create)(record)
        assert async_to_sync(handles.change_state)(record.digest, add_one) == 1
        assert StoredHandle.objects.get(pk=record.digest).state == {"n": 1}
        assert async_to_sync(handles.end)(record.digest) is True
        with pytest.raises(HandleNotFound):
            async_to_sync(handles.read_state)(record.digest)


class StoreWithoutHandles(MemoryStore):
    """A project's own session store, which keeps sessions and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        del self.handles


class TestChoice:
    def test_handles_are_kept_where_sessions_are(self) -> None:
        store = session_store()
        assert isinstance(store, ORMStore)
        assert handle_store() is store.handles

    def test_a_session_store_that_keeps_none_is_told_what_it_lacks(self) -> None:
        path = f"{__name__}.StoreWithoutHandles"
        with (
            override_settings(MCP_DJANGO_SESSION_STORE=path),
            pytest.raises(ImproperlyConfigured, match="keeps no handles: give it an attribute `handles`") as caught,
        ):
            handle_store()
        assert path in str(caught.value)


@pytest.mark.django_db
class TestRows:
    def test_a_row_is_found_by_its_handles_text(self) -> None:
        row = records.handle_row(digest_of("cart-abc"))
        assert StoredHandle.objects.for_text("cart-abc") == row
        with pytest.raises(StoredHandle.DoesNotExist):
            StoredHandle.objects.for_text("cart-abd")

    def test_questions_tell_rows_apart(self) -> None:
        user = User.objects.create_user("ann")
        active, expired = records.handle_row(), records.handle_row(now=timezone.now() - 2 * records.TTL)
        owned, other = records.handle_row(owner_id=user.pk), records.handle_row(server="shop")
        rows = StoredHandle.objects
        assert set(rows.active()) == {active, owned, other}
        assert list(rows.expired()) == [expired]
        assert list(rows.of_server("shop")) == [other]
        assert list(rows.of_owner(user)) == [owned]

    def test_many_are_ended_at_once_and_counted_if_they_were_active(self) -> None:
        expired = records.handle_row(now=timezone.now() - 2 * records.TTL)
        for _ in range(3):
            records.handle_row()
        assert StoredHandle.objects.end_all() == 3
        assert StoredHandle.objects.end_all() == 0
        assert list(StoredHandle.objects.all()) == [expired]

    def test_nothing_is_written_into_one_that_has_expired(self) -> None:
        row = records.handle_row(now=timezone.now() - 2 * records.TTL)
        assert row.replace_state("{}", version=0) is False
        assert StoredHandle.objects.all().touch(timezone.now(), timezone.now() + timedelta(days=1)) == 0
        assert row.end() is False

    def test_a_row_is_named_by_its_kind_and_the_beginning_of_its_digest(self) -> None:
        row = records.handle_row("f" * 64, kind="cart")
        assert str(row) == "cart ffffffffffff"
