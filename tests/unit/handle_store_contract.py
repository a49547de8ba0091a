"""What every store of handles promises, whatever keeps them."""

from __future__ import annotations

import asyncio
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from mcp_django.exceptions import HandleNotFound
from mcp_django.handle_batches import HandleHead, HandleRecord
from mcp_django.handle_store import HandleStore
from tests.unit import records
from tests.unit.state_contract import UNKNOWN, StateContract

HOUR = timedelta(hours=1)


async def created(store: HandleStore, **changes: Any) -> HandleRecord:
    """A record that the store has."""
    record = records.handle_record(**changes)
    await store.create(record)
    return record


@pytest.mark.anyio
class HandleStoreContract(StateContract):
    """The promises. A subclass defines the fixture ``store``."""

    missing = HandleNotFound

    @pytest.fixture
    def states(self, store: HandleStore) -> HandleStore:
        return store

    async def made(self, states: HandleStore, now: datetime | None = None) -> str:
        return (await created(states, now=now or timezone.now())).digest

    async def is_ended(self, states: HandleStore, digest: str) -> None:
        assert await states.end(digest) is True

    async def head(self, store: HandleStore, digest: str) -> HandleHead:
        head = await store.head(digest)
        assert head is not None
        return head

    # Create and find

    async def test_a_created_handle_is_found_as_it_was_made(self, store: HandleStore) -> None:
        record = await created(store, principal="user:1", server="shop", kind="cart", state_json='{"n":7}')
        now = record.created_at
        assert await store.head(record.digest) == ("shop", "cart", "user:1", now, now + records.TTL)
        assert (await store.read_state(record.digest))[0] == {"n": 7}

    async def test_an_unknown_handle_is_none_and_nothing_happens_to_it(self, store: HandleStore) -> None:
        assert await store.head(UNKNOWN) is None
        store.touch(UNKNOWN, timezone.now(), HOUR)
        assert await store.end(UNKNOWN) is False
        assert await store.head(UNKNOWN) is None

    async def test_many_handles_asked_for_at_once_are_not_mixed_up(self, store: HandleStore) -> None:
        made = await asyncio.gather(*(created(store, kind=f"kind_{number}") for number in range(50)))
        heads = await asyncio.gather(*(store.head(record.digest) for record in [*made, *made]))
        assert heads == [record.head for record in [*made, *made]]

    async def test_texts_that_some_collations_mix_up_come_back_as_they_were(self, store: HandleStore) -> None:
        for principal in ("bob", "Bob", "bob ", "b\u00f6b"):
            record = await created(store, principal=principal)
            assert (await self.head(store, record.digest)).principal == principal

    # Touch

    async def touched(self, store: HandleStore, digest: str, used_at: datetime, ttl: timedelta) -> None:
        """Touch, and wait until it has been done: the store writes in order."""
        store.touch(digest, used_at, ttl)
        await created(store)

    async def test_a_touch_moves_last_use_and_expiry(self, store: HandleStore) -> None:
        record = await created(store)
        used_at = record.created_at + HOUR
        await self.touched(store, record.digest, used_at, 2 * HOUR)
        head = await self.head(store, record.digest)
        assert (head.used_at, head.expires_at) == (used_at, used_at + 2 * HOUR)

    async def test_a_touch_never_moves_back(self, store: HandleStore) -> None:
        record = await created(store)
        await self.touched(store, record.digest, record.created_at + HOUR, records.TTL)
        before = await store.head(record.digest)
        for seconds in (0, 60):
            moment = record.created_at + HOUR - timedelta(seconds=seconds)
            await self.touched(store, record.digest, moment, 2 * records.TTL)
        assert await store.head(record.digest) == before

    async def test_handles_touched_at_once_live_as_long_as_each_of_them_is_to(self, store: HandleStore) -> None:
        made = [await created(store) for _ in range(6)]
        used_at = made[-1].created_at + HOUR
        for number, record in enumerate(made):
            store.touch(record.digest, used_at, HOUR * (1 + number % 3))
        other = await created(store)
        for number, record in enumerate(made):
            head = await self.head(store, record.digest)
            assert head.expires_at - head.used_at == HOUR * (1 + number % 3)
        assert await store.head(other.digest) == other.head

    async def test_a_handle_past_its_expiry_is_not_touched_awake(self, store: HandleStore) -> None:
        record = await created(store, now=timezone.now() - 2 * records.TTL)
        await self.touched(store, record.digest, timezone.now(), records.TTL)
        assert await store.head(record.digest) == record.head

    # End

    async def test_a_handle_that_was_ended_is_not_there(self, store: HandleStore) -> None:
        record, other = await created(store), await created(store)
        assert await store.end(record.digest) is True
        assert await store.head(record.digest) is None
        assert await store.head(other.digest) == other.head

    async def test_a_handle_ends_once(self, store: HandleStore) -> None:
        record = await created(store)
        assert sorted(await asyncio.gather(*(store.end(record.digest) for _ in range(10)))) == [False] * 9 + [True]

    async def test_a_handle_past_its_expiry_is_over_already(self, store: HandleStore) -> None:
        record = await created(store, now=timezone.now() - 2 * records.TTL)
        assert await store.end(record.digest) is False
