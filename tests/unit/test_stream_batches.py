"""Streams' reads and writes in the database: few statements for many streams, and one bad event fails alone."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from mcp_django import visits
from mcp_django.batches import ReadHeads
from mcp_django.exceptions import StoreUnavailable, StreamLost
from mcp_django.jsonrpc import line
from mcp_django.models import ClientRequest, Event, Process, Stream, Topic
from mcp_django.store import ORMStore
from mcp_django.stream_batches import Append, Cancel, EndOrphan, OpenStandalone, Post, Question, Raise, StreamRecord
from mcp_django.stream_reads import ReadAnswers, ReadCancellations, ReadClocks, ReadEvents, ReadStreams
from mcp_django.stream_store import ORMStreams
from tests.unit import records
from tests.unit.statements import queries_of
from tests.unit.store_contract import created
from tests.unit.stream_store_contract import PROCESS, new_id, opening, payload
from tests.unit.test_orm_store import FEW_APPS
from tests.unit.waiting import in_thread

MANY = 128


def rows_of(digest: str, count: int, **values: Any) -> list[int]:
    """Streams of a session, without events."""
    made = [Stream(pk=new_id(), session_id=digest, process=PROCESS, **values) for _ in range(count)]
    Stream.objects.bulk_create(made)
    return [row.pk for row in made]


def events_of(streams: Sequence[int], count: int) -> None:
    Event.objects.bulk_create(
        Event(stream_id=stream, sequence=sequence, payload=payload(sequence))
        for stream in streams
        for sequence in range(1, count + 1)
    )


@pytest.fixture
def digest(db: None) -> str:
    return records.row().pk


class TestReads:
    def test_where_a_thousand_streams_stand_is_one_query(self, digest: str) -> None:
        made = rows_of(digest, 1000)
        events_of(made[::100], 3)
        Process.objects.create(pk=PROCESS, host="here", pid=1, version="1")
        items = [ReadStreams(frozenset(made)), ReadStreams(frozenset({made[0], new_id()}))]
        statements, (heads, some) = queries_of(items, visits.read)
        assert len(statements) == 1
        assert {stream: head.last for stream, head in heads.items()} == {
            stream: 0 if index % 100 else 3 for index, stream in enumerate(made)
        }
        assert all(head.alive for head in heads.values())
        assert some == {made[0]: heads[made[0]]}

    def test_the_events_of_many_streams_are_one_query(self, digest: str) -> None:
        made = rows_of(digest, MANY)
        events_of(made, 5)
        items = [ReadEvents(stream, 1, 3) for stream in made]
        statements, outcomes = queries_of(items, visits.read)
        assert len(statements) == 1
        assert outcomes == [[(sequence, payload(sequence)) for sequence in (2, 3, 4)]] * MANY

    @pytest.mark.parametrize(
        "make",
        [
            lambda numbers, digests: ReadAnswers(frozenset(uuid.UUID(int=number) for number in numbers)),
            lambda numbers, digests: ReadCancellations(frozenset(digests)),
            lambda numbers, digests: ReadClocks(frozenset(map(str, numbers))),
        ],
        ids=["answers", "cancellations", "clocks"],
    )
    def test_what_many_wait_for_is_one_query(self, digest: str, make: Callable[..., Any]) -> None:
        items = [make(range(number, number + 200), [digest, "unknown"]) for number in range(0, 1000, 100)]
        statements, outcomes = queries_of(items, visits.read)
        assert len(statements) == 1
        assert len(outcomes) == 10

    def test_a_tick_over_a_thousand_streams_and_sessions_is_two_queries(self, digest: str) -> None:
        made = rows_of(digest, 1000)
        digests = frozenset(f"{number:064x}" for number in range(1000)) | {digest}
        items = [ReadStreams(frozenset(made)), ReadHeads(digests)]
        statements, (streams, sessions) = queries_of(items, visits.read)
        assert len(statements) == 2
        assert len(streams) == 1000
        assert set(sessions) == {digest}

    @pytest.mark.parametrize(
        "item",
        [ReadStreams(frozenset()), ReadAnswers(frozenset()), ReadCancellations(frozenset()), ReadClocks(frozenset())],
        ids=lambda item: type(item).__name__,
    )
    def test_nothing_is_no_query(self, db: None, item: Any) -> None:
        assert queries_of([item], visits.read) == ([], [{}])


class TestWrites:
    def test_one_event_each_of_many_streams_is_one_statement(self, digest: str) -> None:
        made = rows_of(digest, MANY)
        statements, outcomes = queries_of([Append(stream, 1, payload(1)) for stream in made], visits.write)
        assert len(statements) == 1
        assert outcomes == [None] * MANY
        assert set(Event.objects.values_list("stream_id", "sequence")) == {(stream, 1) for stream in made}

    def test_the_beginnings_questions_and_ends_of_many_streams_are_few_statements(self, digest: str) -> None:
        def question() -> Question:
            return Question(uuid.uuid4(), digest, "ping")

        items = [opening(digest, payload(1), asks=question(), finishes=True) for _ in range(MANY)]
        few, _outcomes = queries_of(items[:2], visits.write)
        statements, outcomes = queries_of(items[2:], visits.write)
        assert outcomes == [None] * (MANY - 2)
        assert len(few) == 4
        # SQLite takes fewer values in one statement than 128 rows have.
        assert len(statements) <= 8
        assert Stream.objects.exclude(finished_at=None).count() == MANY
        assert ClientRequest.objects.open().count() == Event.objects.count() == MANY

    def test_posts_to_many_sessions_are_few_statements(self, db: None) -> None:
        digests = [records.row().pk for _ in range(50)]
        items = [Post(new_id(), digest, payload(1), "default") for digest in digests]
        items += [replace(item, payload=payload(2)) for item in items]
        statements, outcomes = queries_of(items, visits.write)
        assert outcomes == [1] * 50 + [2] * 50
        assert len(statements) <= 7

    def test_notices_of_one_kind_that_are_raised_together_are_one(self, db: None) -> None:
        visits.write([Raise("default", Topic.Kind.TOOLS)])
        items = [Raise("default", kind) for kind in (Topic.Kind.TOOLS, Topic.Kind.PROMPTS)] * 50
        statements, outcomes = queries_of(items, visits.write)
        assert outcomes == [2] * 100
        assert len(statements) <= 8
        assert dict(Topic.objects.values_list("kind", "version")) == {"clock": 2, "tools": 2, "prompts": 2}

    def test_many_cancellations_are_few_statements(self, digest: str) -> None:
        statements, _outcomes = queries_of([Cancel(digest, number) for number in range(100)], visits.write)
        assert len(statements) <= 3
        assert visits.read([ReadCancellations(frozenset({digest}))]) == [{digest: {str(n) for n in range(100)}}]

    def test_long_names_are_cut_to_what_the_columns_take(self, digest: str) -> None:
        record = StreamRecord(new_id(), digest, PROCESS, method="m" * 300, name="ü" * 300)
        visits.write([Append(record.id, 0, "", opens=record)])
        row = Stream.objects.get()
        assert (row.method, row.name) == ("m" * 100, "ü" * 200)

    def test_a_visit_that_fails_leaves_nothing_half_done(self, digest: str) -> None:
        (stream,) = rows_of(digest, 1)
        items = [
            opening(digest, payload(1), asks=Question(uuid.uuid4(), digest, "ping")),
            Append(stream, 1, payload(1), finishes=True),
            Append(stream, 1, payload(2)),
        ]
        with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
            visits.write(items)
        assert Event.objects.count() == ClientRequest.objects.count() == 0
        assert Stream.objects.get().finished_at is None

    def test_an_orphan_without_requests_is_ended_without_an_event(self, digest: str) -> None:
        (stream,) = rows_of(digest, 1)
        assert visits.write([EndOrphan(stream, PROCESS, ())]) == [True]
        assert Stream.objects.get().finished_at is not None
        assert Event.objects.count() == 0

    def test_a_standalone_stream_goes_on_from_where_the_notices_stood(self, digest: str) -> None:
        stream = new_id()
        visits.write([OpenStandalone(stream, digest, 7)])
        row = Stream.objects.get()
        assert (row.pk, row.standalone, row.told, row.process) == (stream, True, 7, None)


Poison = Callable[[int, str], Append]

POISONS: dict[str, Poison] = {
    "a sequence that is taken": lambda stream, digest: Append(stream, 1, payload(2)),
    "a NUL byte": lambda stream, digest: Append(stream, 2, '{"text":"\0"}'),
    "half of a surrogate pair": lambda stream, digest: Append(stream, 2, '{"text":"\ud83d"}'),
    "a control character": lambda stream, digest: Append(stream, 2, '{"text":"\x1f"}'),
    "nothing": lambda stream, digest: Append(stream, 2, ""),
    "20 MB": lambda stream, digest: Append(stream, 2, line("x" * 20_000_000)),
    "a stream whose id is taken": lambda stream, digest: Append(
        stream, 0, "", opens=StreamRecord(stream, digest, PROCESS)
    ),
    "a stream of no session": lambda stream, digest: opening("f" * 64, payload(1)),
    "a question of no session": lambda stream, digest: Append(
        stream, 2, payload(2), asks=Question(uuid.uuid4(), "f" * 64, "ping")
    ),
    "a sequence that fits no column": lambda stream, digest: Append(stream, 2**64, payload(2)),
}
ALWAYS_LOST = {
    "a sequence that is taken",
    "a stream whose id is taken",
    "a stream of no session",
    "a question of no session",
}


@pytest.mark.anyio
@pytest.mark.django_db(transaction=True, available_apps=FEW_APPS)
class TestPoison:
    """One event that cannot be written fails alone; those that were to be written with it are. By way of a lane."""

    async def streams_with_one_event(self, store: ORMStore, count: int) -> tuple[str, list[int]]:
        digest = (await created(store)).digest
        opened = [opening(digest, payload(1)) for _ in range(count)]
        await asyncio.gather(*(ORMStreams(store).append(item) for item in opened))
        return digest, [item.stream for item in opened]

    @pytest.mark.parametrize("place", [0, 50, 100])
    @pytest.mark.parametrize("name", POISONS)
    async def test_fails_alone(self, orm_store: ORMStore, name: str, place: int) -> None:
        digest, made = await self.streams_with_one_event(orm_store, 101)
        items = [Append(stream, 2, payload(2), finishes=True) for stream in made]
        poison = items[place] = POISONS[name](made[place], digest)
        before = await in_thread(rows_in, poison)
        outcomes = await asyncio.gather(*(orm_store.writes.ask(item) for item in items), return_exceptions=True)
        outcome = outcomes.pop(place)
        neighbours = [stream for stream in made if stream != made[place]]
        assert outcomes == [None] * 100
        assert await in_thread(finished_with_two_events, neighbours)
        if name in ALWAYS_LOST:
            assert isinstance(outcome, StreamLost)
        if outcome is None:
            assert await in_thread(rows_in, poison) == [*before, (poison.sequence, poison.payload)]
        else:
            # Whether it can be written differs from database to database.
            assert isinstance(outcome, (StreamLost, StoreUnavailable, ValueError, OverflowError))
            assert await in_thread(rows_in, poison) == before

    async def test_several_fail_each_for_itself(self, orm_store: ORMStore) -> None:
        digest, made = await self.streams_with_one_event(orm_store, 100)
        items = [Append(stream, 2, payload(2), finishes=True) for stream in made]
        for place, name in zip((0, 33, 34, 99), sorted(ALWAYS_LOST), strict=True):
            items[place] = POISONS[name](made[place], digest)
        outcomes = await asyncio.gather(*(orm_store.writes.ask(item) for item in items), return_exceptions=True)
        lost = [place for place, outcome in enumerate(outcomes) if outcome is not None]
        assert lost == [0, 33, 34, 99]
        assert all(isinstance(outcomes[place], StreamLost) for place in lost)
        others = [stream for place, stream in enumerate(made) if place not in lost]
        assert await in_thread(finished_with_two_events, others)

    async def test_other_writes_of_the_visit_are_made_as_well(self, orm_store: ORMStore) -> None:
        digest, made = await self.streams_with_one_event(orm_store, 1)
        standalone = new_id()
        streams = ORMStreams(orm_store)
        writes: list[Awaitable[Any]] = [
            orm_store.set_log_level(digest, "debug"),
            streams.post(standalone, digest, payload(1)),
            streams.append(Append(made[0], 1, "{}")),
            streams.post(standalone, digest, payload(2)),
            orm_store.change_state(digest, lambda state: state.update(a=1)),
            streams.cancel(digest, 7),
        ]
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
        assert isinstance(outcomes.pop(2), StreamLost)
        assert outcomes == [True, 1, 2, None, None]
        assert (await orm_store.read_state(digest))[0] == {"a": 1}

    async def test_large_events_do_not_make_a_batch_that_is_larger(self, orm_store: ORMStore) -> None:
        """Each fits; all of them together would not, in a database that limits what one packet may hold."""
        digest = (await created(orm_store)).digest
        text = line("x" * 3_000_000)
        opened = [opening(digest, text) for _ in range(12)]
        await asyncio.gather(*(ORMStreams(orm_store).append(item) for item in opened))
        assert await in_thread(lambda: Event.objects.filter(payload=text).count()) == 12


def rows_in(append: Append) -> list[tuple[int, str]]:
    """The events of the stream that an append is to."""
    rows = Event.objects.filter(stream_id=append.stream).order_by("sequence")
    return list(rows.values_list("sequence", "payload"))


def finished_with_two_events(streams: list[int]) -> bool:
    rows = Event.objects.filter(stream_id__in=streams).order_by("stream_id", "sequence")
    expected = [(stream, number, payload(number)) for stream in sorted(streams) for number in (1, 2)]
    finished = Stream.objects.filter(pk__in=streams).exclude(finished_at=None)
    return list(rows.values_list("stream_id", "sequence", "payload")) == expected and finished.count() == len(streams)
