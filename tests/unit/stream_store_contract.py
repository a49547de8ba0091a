"""What every stream store promises, whatever keeps its streams.

A store is proven by a subclass of :class:`StreamStoreContract` whose fixture ``doors`` makes two ways to the same
streams, as two processes have, and whose fixture ``sessions`` makes the store of the sessions that they belong to.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import uuid
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from mcp_django.exceptions import StreamLost
from mcp_django.jsonrpc import RequestId
from mcp_django.models import Cancellation, Topic
from mcp_django.store import SessionStore
from mcp_django.stream_batches import NEVER_TOLD, Append, Question, Raise, StreamRecord
from mcp_django.stream_reads import Notice, StreamHead
from mcp_django.stream_store import StreamStore
from tests.unit.store_contract import created

PROCESS = uuid.uuid4()
UNKNOWN = 1
SERVER = "default"


@dataclass(frozen=True)
class Door:
    """One process's way to the streams, and to raise notices."""

    streams: StreamStore
    notify: Callable[[Raise], Awaitable[Any]]


def new_id() -> int:
    """An id for a stream."""
    return secrets.randbits(63)


def payload(number: int) -> str:
    """An event's payload, as one can tell it from others."""
    return json.dumps({"jsonrpc": "2.0", "method": "notifications/message", "params": {"n": number}})


async def session(sessions: SessionStore) -> str:
    """The digest of a new session."""
    return (await created(sessions)).digest


def opening(digest: str, payload: str = "", request_ids: tuple[RequestId, ...] = (1,), **values: Any) -> Append:
    """What opens a new stream, with an event if there is a payload."""
    record = StreamRecord(new_id(), digest, PROCESS, request_ids, "tools/call", "add")
    return Append(record.id, 1 if payload else 0, payload, opens=record, **values)


async def opened(streams: StreamStore, digest: str, events: int = 0, **values: Any) -> int:
    """A new stream with events 1 to ``events``."""
    first = opening(digest, payload(1) if events else "", **values)
    await streams.append(first)
    for sequence in range(2, events + 1):
        await streams.append(Append(first.stream, sequence, payload(sequence)))
    return first.stream


async def asked(streams: StreamStore, digest: str) -> uuid.UUID:
    """An open question of a session."""
    question = Question(uuid.uuid4(), digest, "elicitation/create")
    await streams.append(opening(digest, payload(1), asks=question))
    return question.id


async def head_of(streams: StreamStore, stream: int) -> StreamHead:
    return (await streams.heads([stream]))[stream]


async def log_of(streams: StreamStore, stream: int) -> list[tuple[int, str]]:
    """A stream's events."""
    return await streams.events(stream, 0, 10_000)


async def whole(streams: StreamStore, stream: int) -> tuple[Any, ...]:
    """Everything that the store tells about a stream."""
    return await streams.heads([stream]), await log_of(streams, stream)


async def wins(attempts: Iterable[Awaitable[Any]]) -> list[bool]:
    """Which of some attempts that are made at once succeed; the others are lost, or come to nothing."""
    outcomes = await asyncio.gather(*attempts, return_exceptions=True)
    for outcome in outcomes:
        assert outcome in (None, True, False) or isinstance(outcome, StreamLost), outcome
    return [outcome in (None, True) for outcome in outcomes]


@pytest.mark.anyio
class StreamStoreContract:
    """The promises. A subclass defines the fixtures ``doors`` and ``sessions``."""

    @pytest.fixture
    def streams(self, doors: tuple[Door, Door]) -> StreamStore:
        return doors[0].streams

    @pytest.fixture
    def other(self, doors: tuple[Door, Door]) -> StreamStore:
        """Another process's way to the same streams."""
        return doors[1].streams

    # Append

    async def test_a_stream_may_be_opened_without_an_event(self, streams: StreamStore, sessions: SessionStore) -> None:
        digest = await session(sessions)
        stream = await opened(streams, digest)
        head = await head_of(streams, stream)
        assert head == StreamHead(digest, False, "[1]", 0, False, PROCESS, head.alive, None, 0, 0)
        assert await log_of(streams, stream) == []

    async def test_a_stream_may_be_opened_by_its_first_event(
        self, streams: StreamStore, other: StreamStore, sessions: SessionStore
    ) -> None:
        stream = await opened(streams, await session(sessions), 1)
        assert (await head_of(other, stream)).last == 1
        assert await log_of(other, stream) == [(1, payload(1))]

    async def test_a_streams_beginning_and_end_may_be_one(self, streams: StreamStore, sessions: SessionStore) -> None:
        digest = await session(sessions)
        question = Question(uuid.uuid4(), digest, "ping")
        append = opening(digest, payload(1), asks=question, finishes=True)
        await streams.append(append)
        head = await head_of(streams, append.stream)
        assert (head.last, head.finished) == (1, True)
        assert await streams.answer(digest, question.id, "{}") is True

    @pytest.mark.parametrize("name", ["", "ü 😀", "\0", "lib://a\0\x1f\n", "x" * 100_000], ids=ascii)
    async def test_a_stream_can_be_opened_whatever_the_clients_call_is_about(
        self, streams: StreamStore, sessions: SessionStore, name: str
    ) -> None:
        append = opening(await session(sessions), payload(1))
        assert append.opens is not None
        await streams.append(replace(append, opens=replace(append.opens, method=name, name=name)))
        assert await log_of(streams, append.stream) == [(1, payload(1))]

    @pytest.mark.parametrize("ids", [(), (7,), ("7", 7, "ü", "", 2**53), tuple(range(100))], ids=str)
    async def test_a_stream_keeps_what_it_answers(
        self, streams: StreamStore, sessions: SessionStore, ids: tuple[RequestId, ...]
    ) -> None:
        stream = await opened(streams, await session(sessions), request_ids=ids)
        assert tuple(json.loads((await head_of(streams, stream)).request_ids_json)) == ids

    async def test_events_are_kept_in_order_and_the_last_one_finishes_the_stream(
        self, streams: StreamStore, sessions: SessionStore
    ) -> None:
        stream = await opened(streams, await session(sessions), 4)
        assert (await head_of(streams, stream)).finished is False
        await streams.append(Append(stream, 5, payload(5), finishes=True))
        head = await head_of(streams, stream)
        assert (head.last, head.finished) == (5, True)
        assert await log_of(streams, stream) == [(number, payload(number)) for number in range(1, 6)]

    async def test_a_payload_comes_back_as_it_was(self, streams: StreamStore, sessions: SessionStore) -> None:
        texts = [
            "{}",
            '{"a": "ü 😀 \u2028 % %s {} \\\\ \\" \'"}',
            " leading and trailing ",
            json.dumps("x" * 2_000_000),
        ]
        stream = await opened(streams, await session(sessions))
        for sequence, text in enumerate(texts, 1):
            await streams.append(Append(stream, sequence, text))
        assert await log_of(streams, stream) == list(enumerate(texts, 1))

    async def test_a_sequence_is_taken_once(
        self, streams: StreamStore, other: StreamStore, sessions: SessionStore
    ) -> None:
        stream = await opened(streams, await session(sessions), 2)
        before = await whole(streams, stream)
        for door in (streams, other):
            for sequence in (1, 2):
                with pytest.raises(StreamLost):
                    await door.append(Append(stream, sequence, "{}"))
        assert await whole(streams, stream) == before

    async def test_an_append_that_is_lost_leaves_nothing(self, streams: StreamStore, sessions: SessionStore) -> None:
        digest = await session(sessions)
        stream = await opened(streams, digest, 2)
        before = await whole(streams, stream)
        question = Question(uuid.uuid4(), digest, "ping")
        with pytest.raises(StreamLost):
            await streams.append(Append(stream, 2, "{}", asks=question, finishes=True))
        assert await whole(streams, stream) == before
        assert await streams.answer(digest, question.id, "{}") is False

    async def test_the_id_of_a_stream_is_taken_once(self, streams: StreamStore, sessions: SessionStore) -> None:
        stream = await opened(streams, await session(sessions), 2)
        before = await whole(streams, stream)
        for events in (0, 1):
            again = opening(await session(sessions), payload(3) if events else "")
            assert again.opens is not None
            with pytest.raises(StreamLost):
                await streams.append(replace(again, stream=stream, opens=replace(again.opens, id=stream)))
        assert await whole(streams, stream) == before

    async def test_a_question_is_asked_once(self, streams: StreamStore, sessions: SessionStore) -> None:
        digest = await session(sessions)
        question = Question(await asked(streams, digest), digest, "ping")
        stream = await opened(streams, digest)
        with pytest.raises(StreamLost):
            await streams.append(Append(stream, 1, "{}", asks=question))
        assert await log_of(streams, stream) == []

    async def test_of_two_producers_one_gets_each_sequence(
        self, streams: StreamStore, other: StreamStore, sessions: SessionStore
    ) -> None:
        stream = await opened(streams, await session(sessions))
        for sequence in range(1, 21):
            won = await wins(
                door.append(Append(stream, sequence, payload(side))) for side, door in enumerate((streams, other))
            )
            assert sorted(won) == [False, True]
            assert (await log_of(streams, stream))[-1] == (sequence, payload(won.index(True)))

    async def test_a_conflict_does_not_harm_what_is_appended_with_it(
        self, streams: StreamStore, sessions: SessionStore
    ) -> None:
        digest = await session(sessions)
        made = [await opened(streams, digest, 1) for _ in range(5)]
        won = await wins(streams.append(Append(stream, 1 + (stream != made[2]), payload(2))) for stream in made)
        assert won == [True, True, False, True, True]
        heads = await streams.heads(made)
        assert [heads[stream].last for stream in made] == [2, 2, 1, 2, 2]

    async def test_many_streams_grow_at_once(
        self, streams: StreamStore, other: StreamStore, sessions: SessionStore
    ) -> None:
        digest = await session(sessions)

        async def produce(door: StreamStore, number: int) -> int:
            stream = await opened(door, digest)
            for sequence in range(1, 6):
                last = sequence == 5
                await door.append(Append(stream, sequence, payload(1000 * number + sequence), finishes=last))
            return stream

        made = await asyncio.gather(*(produce([streams, other][number % 2], number) for number in range(40)))
        heads = await streams.heads(made)
        for number, stream in enumerate(made):
            assert (heads[stream].last, heads[stream].finished) == (5, True)
            expected = [(sequence, payload(1000 * number + sequence)) for sequence in range(1, 6)]
            assert await log_of(other, stream) == expected

    # Post

    async def test_the_first_post_makes_the_standalone_stream(
        self, streams: StreamStore, other: StreamStore, sessions: SessionStore
    ) -> None:
        digest, stream = await session(sessions), new_id()
        assert await streams.post(stream, digest, payload(1)) == 1
        assert await other.post(stream, digest, payload(2)) == 2
        head = await head_of(streams, stream)
        assert head == StreamHead(digest, True, "[]", 2, False, None, head.alive, None, 0, NEVER_TOLD)
        assert await log_of(streams, stream) == [(1, payload(1)), (2, payload(2))]

    async def test_posts_that_come_at_once_from_everywhere_are_numbered_without_a_gap(
        self, streams: StreamStore, other: StreamStore, sessions: SessionStore
    ) -> None:
        digest, stream = await session(sessions), new_id()

        async def post_ten(number: int) -> list[int]:
            door = [streams, other][number % 2]
            return [await door.post(stream, digest, payload(10 * number + count)) for count in range(10)]

        found = await asyncio.gather(*(post_ten(number) for number in range(10)))
        numbers = {
            sequence: payload(10 * number + count)
            for number, sequences in enumerate(found)
            for count, sequence in enumerate(sequences)
        }
        assert await log_of(streams, stream) == sorted(numbers.items())
        assert sorted(numbers) == list(range(1, 101))
        assert all(sequences == sorted(sequences) for sequences in found), "each sender's are in its own order"

    async def test_posts_to_several_sessions_are_not_mixed_up(
        self, streams: StreamStore, other: StreamStore, sessions: SessionStore
    ) -> None:
        made = [(new_id(), await session(sessions)) for _ in range(10)]
        sent = [(stream, digest, number) for number in range(5) for stream, digest in made]
        await asyncio.gather(
            *(
                [streams, other][index % 2].post(stream, digest, f"{stream} {number}")
                for index, (stream, digest, number) in enumerate(sent)
            )
        )
        heads = await streams.heads(stream for stream, _digest in made)
        for stream, digest in made:
            assert (heads[stream].digest, heads[stream].last) == (digest, 5)
            texts = {text for _sequence, text in await log_of(streams, stream)}
            assert texts == {f"{stream} {number}" for number in range(5)}

    async def test_what_is_posted_after_the_reader_came_goes_on_in_its_stream(
        self, streams: StreamStore, sessions: SessionStore
    ) -> None:
        digest, stream, reader = await session(sessions), new_id(), uuid.uuid4()
        await streams.open_standalone(stream, digest, 3)
        await streams.take_over(stream, reader, PROCESS, 4)
        assert await streams.post(stream, digest, payload(1)) == 1
        head = await head_of(streams, stream)
        assert (head.last, head.reader, head.told, head.delivered) == (1, reader, 4, 0)

    # Heads and events

    async def test_streams_that_are_not_kept_are_left_out(self, streams: StreamStore, sessions: SessionStore) -> None:
        digest = await session(sessions)
        made = [await opened(streams, digest, number) for number in range(5)]
        heads = await streams.heads([*made, UNKNOWN])
        assert {stream: head.last for stream, head in heads.items()} == dict(zip(made, range(5), strict=True))
        assert await streams.heads([UNKNOWN]) == {}
        assert await streams.heads([]) == {}

    async def test_heads_asked_for_by_several_at_once_are_each_ones_own(
        self, streams: StreamStore, sessions: SessionStore
    ) -> None:
        digest = await session(sessions)
        made = [await opened(streams, digest) for _ in range(10)]
        wanted = [set(made[number : number + 3]) for number in range(8)]
        found = await asyncio.gather(*(streams.heads(part) for part in wanted))
        assert [set(heads) for heads in found] == wanted

    @pytest.mark.parametrize("after", [0, 1, 4, 9, 10, 11, 10**12])
    @pytest.mark.parametrize("limit", [1, 3, 10, 1000])
    async def test_events_come_in_slices(
        self, streams: StreamStore, sessions: SessionStore, after: int, limit: int
    ) -> None:
        stream = await opened(streams, await session(sessions), 10)
        expected = [(sequence, payload(sequence)) for sequence in range(1, 11)][after : after + limit]
        assert await streams.events(stream, after, limit) == expected

    async def test_slices_asked_for_by_several_at_once_are_each_ones_own(
        self, streams: StreamStore, sessions: SessionStore
    ) -> None:
        digest = await session(sessions)
        one, two = await opened(streams, digest, 8), await opened(streams, digest, 3)
        wanted = [(one, 0, 3), (two, 0, 9), (one, 2, 4), (UNKNOWN, 0, 9), (two, 2, 1), (one, 7, 9), (one, 0, 3)]
        found = await asyncio.gather(*(streams.events(*slice) for slice in wanted))
        assert [[sequence for sequence, _payload in events] for events in found] == [
            [1, 2, 3],
            [1, 2, 3],
            [3, 4, 5, 6],
            [],
            [3],
            [8],
            [1, 2, 3],
        ]

    # Readers

    async def test_a_standalone_stream_is_opened_once(
        self, streams: StreamStore, other: StreamStore, sessions: SessionStore
    ) -> None:
        digest, stream = await session(sessions), new_id()
        await streams.open_standalone(stream, digest, 5)
        await streams.post(stream, digest, payload(1))
        before = await whole(streams, stream)
        assert before[0][stream].told == 5
        for door in (streams, other):
            await door.open_standalone(stream, digest, 9)
        assert await whole(streams, stream) == before

    async def test_a_standalone_stream_that_is_opened_from_everywhere_at_once_is_one(
        self, streams: StreamStore, other: StreamStore, sessions: SessionStore
    ) -> None:
        for _round in range(5):
            digest, stream = await session(sessions), new_id()
            await asyncio.gather(
                *(door.open_standalone(stream, digest, 1) for door in (streams, other, streams, other)),
                *(door.post(stream, digest, payload(1)) for door in (streams, other)),
            )
            assert (await head_of(streams, stream)).last == 2

    async def standalone(self, streams: StreamStore, sessions: SessionStore, events: int = 0) -> int:
        digest, stream = await session(sessions), new_id()
        await streams.open_standalone(stream, digest, 0)
        for number in range(1, events + 1):
            await streams.post(stream, digest, payload(number))
        return stream

    async def test_the_newest_that_takes_a_stream_over_reads_it(
        self, streams: StreamStore, other: StreamStore, sessions: SessionStore
    ) -> None:
        stream = await self.standalone(streams, sessions)
        for told, door in enumerate((streams, other, streams)):
            reader = uuid.uuid4()
            assert await door.take_over(stream, reader, PROCESS, told) is True
            head = await head_of(streams, stream)
            assert (head.reader, head.told) == (reader, told)

    async def test_a_reader_that_knows_of_no_notices_leaves_what_the_stream_was_told_of(
        self, streams: StreamStore, other: StreamStore, sessions: SessionStore
    ) -> None:
        stream, reader = await self.standalone(streams, sessions), uuid.uuid4()
        await streams.take_over(stream, reader, PROCESS, 5)
        await self.released(streams, stream, reader, None)
        for change in (other.take_if_free, other.take_over):
            assert await change(stream, reader, PROCESS, None) is True
            head = await head_of(streams, stream)
            assert (head.reader, head.told) == (reader, 5)
        assert await other.take_over(stream, reader, PROCESS, 0) is True
        assert (await head_of(streams, stream)).told == 0

    async def test_an_exchanges_stream_can_be_taken_over_too(
        self, streams: StreamStore, sessions: SessionStore
    ) -> None:
        stream, reader = await opened(streams, await session(sessions), 1, request_ids=(1,)), uuid.uuid4()
        assert await streams.take_over(stream, reader, uuid.uuid4(), 0) is True
        head = await head_of(streams, stream)
        assert (head.reader, head.process, head.last) == (reader, PROCESS, 1)

    async def test_what_is_not_kept_has_no_reader(self, streams: StreamStore) -> None:
        reader = uuid.uuid4()
        assert await streams.take_over(UNKNOWN, reader, PROCESS, 0) is False
        assert await streams.take_if_free(UNKNOWN, reader, PROCESS, 0) is False
        assert await streams.deliver(UNKNOWN, reader, 1) is False
        assert await streams.heads([UNKNOWN]) == {}

    async def test_a_stream_that_is_read_is_not_free(
        self, streams: StreamStore, other: StreamStore, sessions: SessionStore
    ) -> None:
        stream, reader = await self.standalone(streams, sessions), uuid.uuid4()
        assert await streams.take_if_free(stream, reader, PROCESS, 1) is True
        before = await whole(streams, stream)
        assert await other.take_if_free(stream, uuid.uuid4(), PROCESS, 2) is False
        assert await whole(streams, stream) == before
        # Whoever reads it may say so again.
        assert await streams.take_if_free(stream, reader, PROCESS, 3) is True
        assert (await head_of(streams, stream)).told == 3

    async def test_of_many_that_want_a_free_stream_one_gets_it(
        self, streams: StreamStore, other: StreamStore, sessions: SessionStore
    ) -> None:
        for _round in range(5):
            stream = await self.standalone(streams, sessions)
            readers = [uuid.uuid4() for _ in range(8)]
            won = await wins(
                [streams, other][number % 2].take_if_free(stream, reader, PROCESS, number)
                for number, reader in enumerate(readers)
            )
            assert sorted(won) == [False] * 7 + [True]
            head = await head_of(streams, stream)
            assert (head.reader, head.told) == (readers[won.index(True)], won.index(True))

    async def released(self, streams: StreamStore, stream: int, reader: uuid.UUID, told: int | None) -> None:
        """Release, and wait until it has been done."""
        loop, done = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            loop.call_soon_threadsafe(done.set)

        streams.release(stream, reader, told, tell)
        async with asyncio.timeout(10):
            await done.wait()

    async def test_a_reader_that_leaves_makes_the_stream_free(
        self, streams: StreamStore, other: StreamStore, sessions: SessionStore
    ) -> None:
        stream, reader, next_reader = await self.standalone(streams, sessions), uuid.uuid4(), uuid.uuid4()
        await streams.take_over(stream, reader, PROCESS, 1)
        await self.released(streams, stream, reader, 7)
        head = await head_of(streams, stream)
        assert (head.reader, head.told) == (None, 7)
        assert await other.take_if_free(stream, next_reader, PROCESS, 8) is True
        assert (await head_of(streams, stream)).reader == next_reader

    async def test_a_reader_that_leaves_after_another_came_changes_nothing(
        self, streams: StreamStore, other: StreamStore, sessions: SessionStore
    ) -> None:
        stream, reader, next_reader = await self.standalone(streams, sessions), uuid.uuid4(), uuid.uuid4()
        await streams.take_over(stream, reader, PROCESS, 1)
        await other.take_over(stream, next_reader, PROCESS, 2)
        await self.released(streams, stream, reader, 7)
        head = await head_of(streams, stream)
        assert (head.reader, head.told) == (next_reader, 2)

    async def test_the_release_of_what_is_not_kept_is_told_as_done_as_well(self, streams: StreamStore) -> None:
        await self.released(streams, UNKNOWN, uuid.uuid4(), 0)

    async def test_only_the_reader_may_claim_events_and_only_forwards(
        self, streams: StreamStore, other: StreamStore, sessions: SessionStore
    ) -> None:
        stream, reader = await self.standalone(streams, sessions, 5), uuid.uuid4()
        assert await streams.deliver(stream, reader, 1) is False
        await streams.take_over(stream, reader, PROCESS, 0)
        assert await streams.deliver(stream, reader, 2) is True
        assert await streams.deliver(stream, uuid.uuid4(), 3) is False
        assert await streams.deliver(stream, reader, 2) is False
        assert await streams.deliver(stream, reader, 1) is False
        assert (await head_of(other, stream)).delivered == 2
        assert await streams.deliver(stream, reader, 5) is True
        assert (await head_of(other, stream)).delivered == 5

    async def test_a_reader_whose_stream_was_taken_over_claims_nothing_more(
        self, streams: StreamStore, other: StreamStore, sessions: SessionStore
    ) -> None:
        stream, reader, next_reader = await self.standalone(streams, sessions, 5), uuid.uuid4(), uuid.uuid4()
        await streams.take_over(stream, reader, PROCESS, 0)
        await streams.deliver(stream, reader, 2)
        await other.take_over(stream, next_reader, PROCESS, 0)
        assert (await head_of(other, stream)).delivered == 2, "the next one goes on where the last one was"
        assert await streams.deliver(stream, reader, 3) is False
        assert await other.deliver(stream, next_reader, 3) is True

    async def test_an_event_is_claimed_by_exactly_one_of_two_readers_that_fight_for_the_stream(
        self, streams: StreamStore, other: StreamStore, sessions: SessionStore
    ) -> None:
        events = 20
        stream = await self.standalone(streams, sessions, events)
        claimed: list[int] = []

        async def fight(door: StreamStore) -> None:
            while True:
                reader = uuid.uuid4()
                await door.take_over(stream, reader, PROCESS, 0)
                sequence = (await head_of(door, stream)).delivered + 1
                if sequence > events:
                    return
                if await door.deliver(stream, reader, sequence):
                    claimed.append(sequence)

        async with asyncio.timeout(30):
            await asyncio.gather(fight(streams), fight(other))
        assert sorted(claimed) == list(range(1, events + 1))

    async def test_a_process_that_has_left_may_be_followed_by_any_other(
        self, streams: StreamStore, other: StreamStore, sessions: SessionStore
    ) -> None:
        digest, leaving = await session(sessions), uuid.uuid4()
        exchange = await opened(streams, digest, 1)
        await streams.leave(leaving)
        await streams.leave(leaving)
        assert await log_of(other, exchange) == [(1, payload(1))]
        assert (await head_of(other, exchange)).finished is False

    # Questions

    async def test_an_answer_is_kept_once(
        self, streams: StreamStore, other: StreamStore, sessions: SessionStore
    ) -> None:
        digest = await session(sessions)
        question = await asked(streams, digest)
        assert await streams.answers([question]) == {}
        text = json.dumps({"result": {"name": "ü 😀"}})
        assert await other.answer(digest, question, text) is True
        for door in (streams, other):
            assert await door.answer(digest, question, "{}") is False
            assert await door.answers([question]) == {question: text}

    async def test_nobody_answers_the_question_of_another_session(
        self, streams: StreamStore, sessions: SessionStore
    ) -> None:
        digest, foreign = await session(sessions), await session(sessions)
        question = await asked(streams, digest)
        assert await streams.answer(foreign, question, "{}") is False
        assert await streams.abandon(foreign, question) is False
        assert await streams.answers([question]) == {}
        assert await streams.answer(digest, question, "{}") is True

    async def test_a_question_that_nobody_asked_is_neither_answered_nor_abandoned(
        self, streams: StreamStore, sessions: SessionStore
    ) -> None:
        digest, unknown = await session(sessions), uuid.uuid4()
        assert await streams.answer(digest, unknown, "{}") is False
        assert await streams.abandon(digest, unknown) is False
        assert await streams.answers([unknown]) == {}
        assert await streams.answers([]) == {}

    async def test_an_abandoned_question_takes_no_answer(
        self, streams: StreamStore, other: StreamStore, sessions: SessionStore
    ) -> None:
        digest = await session(sessions)
        question = await asked(streams, digest)
        assert await streams.abandon(digest, question) is True
        assert await other.answer(digest, question, "{}") is False
        assert await streams.abandon(digest, question) is False
        assert await streams.answers([question]) == {}

    async def test_an_answered_question_is_not_abandoned(self, streams: StreamStore, sessions: SessionStore) -> None:
        digest = await session(sessions)
        question = await asked(streams, digest)
        await streams.answer(digest, question, '{"a":1}')
        assert await streams.abandon(digest, question) is False
        assert await streams.answers([question]) == {question: '{"a":1}'}

    async def test_of_many_answers_that_come_at_once_the_first_counts(
        self, streams: StreamStore, other: StreamStore, sessions: SessionStore
    ) -> None:
        digest, foreign = await session(sessions), await session(sessions)
        for _round in range(5):
            question = await asked(streams, digest)
            won = await wins(
                [streams, other][number % 2].answer(foreign if number == 3 else digest, question, f'{{"by":{number}}}')
                for number in range(8)
            )
            assert sorted(won) == [False] * 7 + [True]
            assert not won[3]
            assert await streams.answers([question]) == {question: f'{{"by":{won.index(True)}}}'}

    async def test_of_an_answer_and_its_abandonment_one_wins(
        self, streams: StreamStore, other: StreamStore, sessions: SessionStore
    ) -> None:
        digest = await session(sessions)
        for number in range(20):
            question = await asked(streams, digest)
            attempts = [streams.abandon(digest, question), other.answer(digest, question, "{}")]
            won = await wins(attempts if number % 2 else reversed(attempts))
            answered = won[1] if number % 2 else won[0]
            assert sorted(won) == [False, True]
            assert await streams.answers([question]) == ({question: "{}"} if answered else {})

    async def test_answers_are_given_for_those_that_are_asked_for(
        self, streams: StreamStore, sessions: SessionStore
    ) -> None:
        digest = await session(sessions)
        questions = [await asked(streams, digest) for _ in range(4)]
        for number in (0, 2):
            await streams.answer(digest, questions[number], f'{{"n":{number}}}')
        assert await streams.answers(questions[:2]) == {questions[0]: '{"n":0}'}
        found = await asyncio.gather(*(streams.answers([question]) for question in questions))
        assert found == [{questions[0]: '{"n":0}'}, {}, {questions[2]: '{"n":2}'}, {}]

    # Cancellations

    async def test_a_cancellation_is_kept_for_its_session(
        self, streams: StreamStore, other: StreamStore, sessions: SessionStore
    ) -> None:
        digest, foreign = await session(sessions), await session(sessions)
        await streams.cancel(digest, 7)
        assert await other.cancellations([digest, foreign]) == {digest: {Cancellation.key_of(7)}}
        assert await other.cancellations([foreign]) == {}
        assert await other.cancellations([]) == {}

    async def test_a_request_that_is_cancelled_again_is_cancelled_once(
        self, streams: StreamStore, other: StreamStore, sessions: SessionStore
    ) -> None:
        digest = await session(sessions)
        await asyncio.gather(*(door.cancel(digest, id) for door in (streams, other) for id in (7, "7", 7)))
        assert await streams.cancellations([digest]) == {digest: {Cancellation.key_of("7")}}

    IDS: tuple[RequestId, ...] = (
        *("a", "A", "a ", " a", "á", "ä", "ß", "ss", "a\0", "a\x01", "a\n", "", " ", "０", "0", "%", "_"),
        *("x" * 64, "x" * 65, "X" * 64, "x" * 100_000, "y" * 100_000, "\ud800", "😀", -1, "-1.0", 2**63, 2**64),
    )

    async def test_requests_with_ids_that_look_alike_are_cancelled_one_by_one(
        self, streams: StreamStore, sessions: SessionStore
    ) -> None:
        digest = await session(sessions)
        expected: set[str] = set()
        for id in self.IDS:
            await streams.cancel(digest, id)
            expected.add(Cancellation.key_of(id))
            assert await streams.cancellations([digest]) == {digest: expected}, id
        assert len(expected) == len(self.IDS)

    async def test_requests_with_any_ids_are_cancelled_at_once(
        self, streams: StreamStore, other: StreamStore, sessions: SessionStore
    ) -> None:
        digests = [await session(sessions) for _ in range(3)]
        await asyncio.gather(
            *(
                [streams, other][index % 2].cancel(digest, id)
                for digest in digests
                for index, id in enumerate([*self.IDS, *self.IDS])
            )
        )
        expected = {Cancellation.key_of(id) for id in self.IDS}
        assert await streams.cancellations(digests) == dict.fromkeys(digests, expected)

    # Notices

    async def test_a_server_without_notices_stands_at_zero(self, streams: StreamStore) -> None:
        assert await streams.clocks([SERVER, "another"]) == {SERVER: 0, "another": 0}
        assert await streams.clocks([]) == {}
        assert await streams.notices(SERVER, 0, []) == []

    async def test_notices_are_numbered_and_told_after_a_number(self, doors: tuple[Door, Door]) -> None:
        streams = doors[1].streams
        raised = [
            Notice(Topic.Kind.TOOLS, "", 1),
            Notice(Topic.Kind.RESOURCE, "lib://a", 2),
            Notice(Topic.Kind.PROMPTS, "", 3),
        ]
        for notice in raised:
            await doors[0].notify(Raise(SERVER, notice.kind, notice.uri))
            assert await streams.clocks([SERVER]) == {SERVER: notice.version}
        for number in range(5):
            assert await streams.notices(SERVER, number, ["lib://a"]) == raised[number:]

    async def test_what_changed_again_is_told_again_and_once(self, doors: tuple[Door, Door]) -> None:
        for door in (*doors, *doors):
            await door.notify(Raise(SERVER, Topic.Kind.TOOLS))
        await doors[0].notify(Raise(SERVER, Topic.Kind.PROMPTS))
        streams = doors[0].streams
        tools, prompts = Notice(Topic.Kind.TOOLS, "", 4), Notice(Topic.Kind.PROMPTS, "", 5)
        assert await streams.notices(SERVER, 0, []) == [tools, prompts]
        assert await streams.notices(SERVER, 3, []) == [tools, prompts]
        assert await streams.notices(SERVER, 4, []) == [prompts]

    async def test_only_resources_that_are_wanted_are_told_of(self, doors: tuple[Door, Door]) -> None:
        uris = ["lib://a", "lib://A", "lib://a ", "lib://ä", "lib://" + "x" * 1900, "lib://" + "x" * 1900 + "y"]
        for uri in uris:
            await doors[0].notify(Raise(SERVER, Topic.Kind.RESOURCE, uri))
        await doors[0].notify(Raise(SERVER, Topic.Kind.RESOURCES))
        streams = doors[1].streams
        lists = Notice(Topic.Kind.RESOURCES, "", len(uris) + 1)
        assert await streams.notices(SERVER, 0, ["lib://none"]) == [lists]
        for number, uri in enumerate(uris, 1):
            wanted = [Notice(Topic.Kind.RESOURCE, uri, number), lists]
            assert await streams.notices(SERVER, 0, [uri, "lib://none"]) == wanted
        assert [notice.uri for notice in await streams.notices(SERVER, 2, uris)] == [*uris[2:], ""]

    async def test_each_server_has_its_own_notices(self, doors: tuple[Door, Door]) -> None:
        await doors[0].notify(Raise("one", Topic.Kind.TOOLS))
        await doors[0].notify(Raise("two", Topic.Kind.TOOLS))
        await doors[0].notify(Raise("two", Topic.Kind.RESOURCE, "lib://a"))
        streams = doors[0].streams
        assert await streams.clocks(["one", "two", "three"]) == {"one": 1, "two": 2, "three": 0}
        assert await streams.notices("one", 0, ["lib://a"]) == [Notice(Topic.Kind.TOOLS, "", 1)]
        assert await streams.notices("three", 0, ["lib://a"]) == []
        found = await asyncio.gather(*(streams.notices(name, 1, ["lib://a"]) for name in ("one", "two")))
        assert found == [[], [Notice(Topic.Kind.RESOURCE, "lib://a", 2)]]

    async def test_whoever_saw_the_clock_has_seen_every_notice_up_to_it(self, doors: tuple[Door, Door]) -> None:
        """Numbers rise in the order of the commits: a listener that goes on after the clock it saw misses nothing."""
        uris = [f"lib://{number}" for number in range(60)]
        heard: list[str] = []
        raised = 0

        async def raise_some(door: Door, mine: list[str]) -> None:
            nonlocal raised
            for uri in mine:
                await door.notify(Raise(SERVER, Topic.Kind.RESOURCE, uri))
                raised += 1

        async def listen(streams: StreamStore) -> None:
            after = 0
            while True:
                ended = raised == len(uris)
                clock = (await streams.clocks([SERVER]))[SERVER]
                assert clock >= after
                found = await streams.notices(SERVER, after, uris)
                assert [notice.version for notice in found] == sorted(notice.version for notice in found)
                heard.extend(notice.uri for notice in found)
                after = clock
                if ended:
                    return

        async with asyncio.timeout(60):
            await asyncio.gather(
                raise_some(doors[0], uris[::3]),
                raise_some(doors[1], uris[1::3]),
                raise_some(doors[1], uris[2::3]),
                listen(doors[0].streams),
            )
        assert set(heard) == set(uris)
