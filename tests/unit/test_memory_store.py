"""The store in the memory of one process."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from mcp_django.memory import MemoryStore
from mcp_django.processes import this_process
from tests.unit import records
from tests.unit.store_contract import StoreContract


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self, memory_store: MemoryStore) -> MemoryStore:
        return memory_store

    async def test_is_not_durable(self, store: MemoryStore) -> None:
        assert store.durable is False
        assert await store.process_alive(this_process()) is True

    async def test_clears_away_the_dead_so_that_it_does_not_grow_for_ever(self, store: MemoryStore) -> None:
        ended = records.record()
        await store.create(ended)
        await store.end(ended.digest, "by the test", "terminated")
        overdue = records.record(now=timezone.now() - timedelta(days=15))
        await store.create(overdue)
        live = [records.record() for _ in range(998)]
        for record in live:
            await store.create(record)
        assert await store.head(ended.digest) is None
        assert await store.head(overdue.digest) is None
        for record in live:
            assert await store.head(record.digest) == record.head
