"""Streams in the database."""

from __future__ import annotations

import asyncio
import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.db.models import F

from mcp_django.exceptions import StreamLost
from mcp_django.models import Event, Process, Session, Stream
from mcp_django.processes import Heartbeat
from mcp_django.store import ORMStore
from mcp_django.stream_batches import Append, Post
from mcp_django.stream_store import ORMStreams, StreamStore
from tests.unit.store_contract import created
from tests.unit.stream_store_contract import (
    PROCESS,
    UNKNOWN,
    Door,
    StreamStoreContract,
    head_of,
    log_of,
    new_id,
    opened,
    payload,
    session,
    whole,
    wins,
)
from tests.unit.test_orm_store import FEW_APPS
from tests.unit.waiting import in_thread

ERRORS = ('{"error":1}', '{"error":2}')


def lease(process: uuid.UUID = PROCESS) -> None:
    """The process lives."""
    Process.objects.update_or_create(pk=process, defaults={"host": "elsewhere", "pid": 1, "version": "1"})


def lease_ran_out(process: uuid.UUID = PROCESS) -> None:
    """The process has not been heard of for longer than a lease."""
    lease(process)
    Process.objects.filter(pk=process).update(seen_at=F("seen_at") - Process.LEASE - timedelta(seconds=1))


def heartbeat_renewed(process: uuid.UUID = PROCESS) -> None:
    assert Process(pk=process).renew()


@pytest.fixture
def may_judge(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process has reached the database for a full lease."""
    monkeypatch.setattr(Heartbeat, "may_judge", True)


@pytest.mark.django_db(transaction=True, available_apps=FEW_APPS)
class TestORMStreams(StreamStoreContract):
    @pytest.fixture
    def sessions(self, orm_store: ORMStore) -> ORMStore:
        return orm_store

    @pytest.fixture
    def doors(self, orm_store: ORMStore, second_orm_store: ORMStore) -> tuple[Door, Door]:
        stores = (orm_store, second_orm_store)
        one, two = (Door(ORMStreams(store), store.writes.ask) for store in stores)
        return one, two

    # What only rows have

    async def test_a_stream_says_what_it_is_an_answer_to(self, streams: StreamStore, sessions: ORMStore) -> None:
        row = await in_thread(Stream.objects.get, pk=await opened(streams, await session(sessions)))
        assert (row.method, row.name, row.process, row.standalone) == ("tools/call", "add", PROCESS, False)

    async def test_a_stream_of_a_session_that_is_not_there_is_lost_and_harms_nobody(
        self, streams: StreamStore, sessions: ORMStore
    ) -> None:
        digest = await session(sessions)
        outcomes = await asyncio.gather(
            opened(streams, digest, 1), opened(streams, "f" * 64, 1), opened(streams, digest, 1), return_exceptions=True
        )
        assert isinstance(outcomes[1], StreamLost)
        streams_there = [outcomes[0], outcomes[2]]
        assert set(await in_thread(lambda: list(Stream.objects.values_list("pk", flat=True)))) == set(streams_there)

    async def test_nothing_can_be_posted_to_a_session_that_is_not_there(
        self, streams: StreamStore, sessions: ORMStore
    ) -> None:
        digest, stream, none = await session(sessions), new_id(), new_id()
        outcomes = await asyncio.gather(
            streams.post(stream, digest, "{}"), streams.post(none, "f" * 64, "{}"), return_exceptions=True
        )
        assert outcomes[0] == 1
        assert isinstance(outcomes[1], StreamLost)
        assert await streams.heads([none]) == {}
        assert await log_of(streams, none) == []

    @pytest.mark.parametrize("end", ["ended", "expired", "unknown", "another server's"])
    async def test_a_session_that_does_not_live_on_this_server_is_told_nothing(
        self, streams: StreamStore, sessions: ORMStore, end: str
    ) -> None:
        record = await created(sessions)
        lives, digest, server = await session(sessions), record.digest, "default"
        if end == "ended":
            await sessions.end(digest, "by the test", "terminated")
        elif end == "expired":
            await in_thread(Session.objects.filter(pk=digest).update, expires_at=record.created_at)
        elif end == "unknown":
            digest = "f" * 64
        else:
            server = "another"
        stream, told = new_id(), new_id()
        posts = [Post(stream, digest, "{}", server), Post(told, lives, "{}", "default")]
        assert await asyncio.gather(*(sessions.writes.ask(post) for post in posts)) == [0, 1]
        assert set(await streams.heads([stream, told])) == {told}

    async def test_cancelling_raises_the_sessions_epoch_so_that_every_process_looks(
        self, streams: StreamStore, sessions: ORMStore
    ) -> None:
        record = await created(sessions)
        await streams.cancel(record.digest, 7)
        await streams.cancel(record.digest, 7)
        head = await sessions.head(record.digest)
        assert head is not None
        assert head.epoch == record.epoch + 2

    async def test_events_that_were_pruned_leave_a_gap_that_is_passed_over(
        self, streams: StreamStore, sessions: ORMStore
    ) -> None:
        stream = await opened(streams, await session(sessions), 3)
        for sequence in (500, 501, 900):
            await streams.append(Append(stream, sequence, payload(sequence)))
        await in_thread(Event.objects.filter(stream_id=stream, sequence=2).delete)
        position, read = 0, []
        while events := await streams.events(stream, position, 10):
            read += [sequence for sequence, _payload in events]
            position = read[-1]
        assert read == [1, 3, 500, 501, 900]
        found = await asyncio.gather(*(streams.events(stream, after, 1) for after in (0, 1, 3, 500, 899, 900)))
        assert [[sequence for sequence, _payload in events] for events in found] == [[1], [3], [500], [501], [900], []]

    # Processes

    async def test_a_head_says_whether_the_producer_lives(self, streams: StreamStore, sessions: ORMStore) -> None:
        stream = await opened(streams, await session(sessions))
        assert (await head_of(streams, stream)).alive is False
        await in_thread(lease)
        assert (await head_of(streams, stream)).alive is True
        await in_thread(lease_ran_out)
        assert (await head_of(streams, stream)).alive is False
        await in_thread(heartbeat_renewed)
        assert (await head_of(streams, stream)).alive is True

    async def test_a_stream_whose_readers_process_died_is_free_for_who_may_judge(
        self, streams: StreamStore, other: StreamStore, sessions: ORMStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stream, gone, reader = await self.standalone(streams, sessions), uuid.uuid4(), uuid.uuid4()
        await in_thread(lease, gone)
        await streams.take_over(stream, uuid.uuid4(), gone, 0)
        for judges, alive, expected in [(True, True, False), (False, False, False), (True, False, True)]:
            monkeypatch.setattr(Heartbeat, "may_judge", judges)
            await in_thread(lease if alive else lease_ran_out, gone)
            if alive:
                await in_thread(heartbeat_renewed, gone)
            assert other.may_judge is judges
            assert await other.take_if_free(stream, reader, PROCESS, 0) is expected, (judges, alive)
        assert (await head_of(streams, stream)).reader == reader

    async def test_of_many_that_want_a_dead_readers_stream_one_gets_it(
        self, streams: StreamStore, other: StreamStore, sessions: ORMStore, may_judge: None
    ) -> None:
        await in_thread(lease)
        for _round in range(5):
            stream = await self.standalone(streams, sessions)
            await streams.take_over(stream, uuid.uuid4(), uuid.uuid4(), 0)
            attempts = [[streams, other][n % 2].take_if_free(stream, uuid.uuid4(), PROCESS, n) for n in range(8)]
            assert sorted(await wins(attempts)) == [False] * 7 + [True]

    async def test_a_process_that_leaves_has_no_lease_and_reads_nothing(
        self, streams: StreamStore, other: StreamStore, sessions: ORMStore
    ) -> None:
        leaving, staying, reader = uuid.uuid4(), uuid.uuid4(), uuid.uuid4()
        for process in (leaving, staying, PROCESS):
            await in_thread(lease, process)
        left, kept = await self.standalone(streams, sessions), await self.standalone(streams, sessions)
        await streams.take_over(left, uuid.uuid4(), leaving, 3)
        await other.take_over(kept, reader, staying, 4)
        produced = await opened(streams, await session(sessions))
        await streams.leave(leaving)
        heads = await other.heads([left, kept, produced])
        assert (heads[left].reader, heads[left].told) == (None, 3)
        assert (heads[kept].reader, heads[kept].told) == (reader, 4)
        assert heads[produced].alive is True
        assert await in_thread(lambda: set(Process.objects.values_list("pk", flat=True))) == {staying, PROCESS}
        assert await other.take_if_free(left, reader, staying, 5) is True

    async def test_the_calls_of_a_process_that_has_left_are_orphans_at_once(
        self, streams: StreamStore, other: StreamStore, sessions: ORMStore
    ) -> None:
        await in_thread(lease)
        stream = await opened(streams, await session(sessions))
        await streams.leave(PROCESS)
        assert (await head_of(other, stream)).alive is False
        assert await other.end_orphan(stream, PROCESS, ERRORS) is True

    # Orphans

    async def orphan(self, streams: StreamStore, sessions: ORMStore, events: int = 2) -> int:
        stream = await opened(streams, await session(sessions), events, request_ids=(1, 2))
        await in_thread(lease_ran_out)
        return stream

    @pytest.mark.parametrize("events", [0, 2])
    async def test_an_orphan_is_ended_by_errors_that_follow_its_events(
        self, streams: StreamStore, other: StreamStore, sessions: ORMStore, events: int
    ) -> None:
        stream = await self.orphan(streams, sessions, events)
        assert await other.end_orphan(stream, PROCESS, ERRORS) is True
        head = await head_of(streams, stream)
        assert (head.last, head.finished) == (events + 2, True)
        assert (await log_of(streams, stream))[events:] == [(events + 1, ERRORS[0]), (events + 2, ERRORS[1])]

    async def test_a_producer_that_was_given_up_and_wakes_up_finds_its_stream_lost(
        self, streams: StreamStore, other: StreamStore, sessions: ORMStore
    ) -> None:
        stream = await self.orphan(streams, sessions)
        await other.end_orphan(stream, PROCESS, ERRORS)
        before = await whole(streams, stream)
        await in_thread(heartbeat_renewed)
        with pytest.raises(StreamLost):
            await streams.append(Append(stream, 3, payload(3), finishes=True))
        after = await whole(streams, stream)
        assert after[1] == before[1]

    async def test_a_stream_that_ended_by_itself_is_no_orphan(
        self, streams: StreamStore, other: StreamStore, sessions: ORMStore
    ) -> None:
        stream = await self.orphan(streams, sessions)
        await streams.append(Append(stream, 3, payload(3), finishes=True))
        before = await whole(streams, stream)
        assert await other.end_orphan(stream, PROCESS, ERRORS) is False
        assert await other.end_orphan(UNKNOWN, PROCESS, ERRORS) is False
        assert await whole(streams, stream) == before

    async def test_the_stream_of_another_process_is_no_orphan_of_this_one(
        self, streams: StreamStore, other: StreamStore, sessions: ORMStore
    ) -> None:
        stream = await self.orphan(streams, sessions)
        before = await whole(streams, stream)
        assert await other.end_orphan(stream, uuid.uuid4(), ERRORS) is False
        assert await whole(streams, stream) == before

    async def test_a_producer_that_has_renewed_its_lease_since_it_was_looked_at_keeps_its_stream(
        self, streams: StreamStore, other: StreamStore, sessions: ORMStore
    ) -> None:
        """It was frozen for longer than its lease, and so, perhaps, was whoever is about to judge it."""
        stream = await self.orphan(streams, sessions)
        assert (await head_of(other, stream)).alive is False
        await in_thread(heartbeat_renewed)
        before = await whole(streams, stream)
        assert await other.end_orphan(stream, PROCESS, ERRORS) is False
        after = await whole(streams, stream)
        assert after[1] == before[1]
        assert after[0][stream].finished is False
        await streams.append(Append(stream, 3, payload(3), finishes=True))

    async def test_of_several_judges_one_ends_the_stream(
        self, streams: StreamStore, other: StreamStore, sessions: ORMStore
    ) -> None:
        for _round in range(10):
            stream = await self.orphan(streams, sessions)
            won = await wins([streams, other][n % 2].end_orphan(stream, PROCESS, ERRORS) for n in range(6))
            assert sorted(won) == [False] * 5 + [True]
            assert [text for _sequence, text in await log_of(streams, stream)][2:] == [*ERRORS]

    async def test_of_a_judge_and_a_producer_that_answers_just_then_one_ends_the_stream(
        self, streams: StreamStore, other: StreamStore, sessions: ORMStore
    ) -> None:
        for number in range(20):
            stream = await self.orphan(streams, sessions)
            attempts: list[Any] = [
                other.end_orphan(stream, PROCESS, ERRORS),
                streams.append(Append(stream, 3, payload(3), finishes=True)),
            ]
            won = await wins(attempts if number % 2 else reversed(attempts))
            judged, answered = won if number % 2 else reversed(won)
            assert judged is not answered
            log = [text for _sequence, text in await log_of(streams, stream)][2:]
            assert log == ([*ERRORS] if judged else [payload(3)])
            assert (await head_of(streams, stream)).finished is True

    async def test_whatever_a_producer_that_is_judged_just_then_still_writes_the_errors_are_the_end(
        self, streams: StreamStore, other: StreamStore, sessions: ORMStore
    ) -> None:
        for _round in range(20):
            stream = await self.orphan(streams, sessions)
            written: list[str] = []

            async def produce(stream: int = stream, written: list[str] = written) -> None:
                # Until it is judged: how soon the judge gets its turn is up to the database.
                for sequence in range(3, 10_000):
                    await streams.append(Append(stream, sequence, payload(sequence)))
                    written.append(payload(sequence))

            async def judge(stream: int = stream) -> None:
                while True:
                    try:
                        if await other.end_orphan(stream, PROCESS, ERRORS):
                            return
                    except StreamLost:
                        # The producer was faster. Whoever follows the stream looks again.
                        continue

            producer, _judge = await asyncio.gather(produce(), judge(), return_exceptions=True)
            log = [text for _sequence, text in await log_of(streams, stream)][2:]
            assert isinstance(producer, StreamLost)
            assert log == [*written, *ERRORS]
            assert (await head_of(streams, stream)).finished is True
