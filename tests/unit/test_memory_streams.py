"""Streams in the memory of one process."""

from __future__ import annotations

import pytest

from mcp_django import memory_streams
from mcp_django.memory import MemoryStore
from mcp_django.memory_streams import MemoryStreams
from mcp_django.models import Cancellation, digest_of
from mcp_django.stream_batches import Append, Post, Raise
from tests.unit.stream_store_contract import PROCESS, Door, StreamStoreContract, log_of, new_id, opened, payload

DIGEST = digest_of("a session")


class TestMemoryStreams(StreamStoreContract):
    @pytest.fixture
    def sessions(self, memory_store: MemoryStore) -> MemoryStore:
        return memory_store

    @pytest.fixture
    def doors(self) -> tuple[Door, Door]:
        streams = MemoryStreams()

        async def notify(item: Raise) -> None:
            streams.take(item)

        door = Door(streams, notify)
        return door, door


@pytest.mark.anyio
class TestMemory:
    """What holds in the memory of one process only."""

    async def test_there_is_no_other_process_to_judge(self) -> None:
        streams = MemoryStreams()
        stream = await opened(streams, DIGEST, 1)
        assert streams.may_judge is False
        assert await streams.end_orphan(stream, PROCESS, ("{}",)) is False
        assert (await streams.heads([stream]))[stream].alive is True
        assert await log_of(streams, stream) == [(1, payload(1))]

    async def test_what_was_posted_by_anything_but_a_call_is_in_the_same_stream(self) -> None:
        streams, stream = MemoryStreams(), new_id()
        assert await streams.post(stream, DIGEST, payload(1)) == 1
        streams.take(Post(stream, DIGEST, payload(2), "default"))
        assert await streams.post(stream, DIGEST, payload(3)) == 3
        assert await log_of(streams, stream) == [(number, payload(number)) for number in (1, 2, 3)]

    async def test_the_oldest_finished_streams_are_dropped_when_there_are_many(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(memory_streams, "MAX_STREAMS", 20)
        streams, standalone = MemoryStreams(), new_id()
        await streams.open_standalone(standalone, DIGEST, 0)
        made = [await opened(streams, DIGEST) for _ in range(20)]
        for stream in made[3:]:
            await streams.append(Append(stream, 1, payload(1), finishes=True))
        newest = [await opened(streams, DIGEST) for _ in range(5)]
        kept = await streams.heads([standalone, *made, *newest])
        assert set(kept) >= {standalone, *made[:3], *newest}, "what is not over stays"
        assert len(kept) <= 20
        dropped = [stream for stream in made if stream not in kept]
        assert dropped == made[3 : 3 + len(dropped)]

    async def test_the_oldest_cancellations_are_dropped_when_there_are_many(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(memory_streams, "MAX_CANCELLATIONS", 3)
        streams = MemoryStreams()
        for number in range(5):
            await streams.cancel(DIGEST, number)
        assert await streams.cancellations([DIGEST]) == {DIGEST: {Cancellation.key_of(n) for n in (2, 3, 4)}}
