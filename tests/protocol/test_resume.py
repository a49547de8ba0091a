"""A stream that breaks and is resumed: every event once and in order, on whichever process, also after the end."""

from __future__ import annotations

import asyncio
import random
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import TYPE_CHECKING, Any

import pytest

from mcp_django.models import Event, Process, Stream, digest_of
from mcp_django.sse import EventIds
from tests.protocol.client import Client, EventStream, Session, case, progress_of, with_progress
from tests.protocol.layers import Broker
from tests.protocol.outage import refusing
from tests.protocol.processes import Processes
from tests.protocol.stage import Stage, until, until_async

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.anyio

LATEST = "2025-11-25"
VERSIONS = ["2024-11-05", "2025-03-26", "2025-06-18", LATEST]
STEPS = 4


@pytest.fixture(autouse=True)
def quick_looks(settings: Settings) -> None:
    settings.MCP_DJANGO_POLL_INTERVAL = 0.03


async def over(count: int = 1) -> None:
    """Wait until so many streams are over."""

    async def are_over() -> bool:
        return await Stream.objects.exclude(finished_at=None).acount() >= count

    await until_async(are_over)


async def broken_after(stream: EventStream, events: int) -> str:
    """Read so many events, lose the connection, and return the id to resume with."""
    while sum(frame.has_message for frame in stream.frames) < events or stream.last_id is None:
        assert await stream.frame() is not None
    await stream.disconnect()
    assert stream.last_id is not None
    return stream.last_id


def seen(*parts: EventStream) -> list[Any]:
    """The messages that the client has read on all of its connections."""
    return [frame.message for part in parts for frame in part.frames if frame.has_message]


def assert_whole(messages: list[Any], steps: int = STEPS) -> None:
    """Every step once, in order, and then the answer."""
    assert progress_of(messages) == list(range(1, steps + 1))
    assert messages[-1]["result"]["structuredContent"] == {"value": steps}
    assert len(messages) == steps + 1


# Where it breaks, and where it goes on


@pytest.mark.parametrize("where", ["same process", "another process"])
async def test_a_stream_that_breaks_after_any_event_goes_on_live_from_there(
    client: Client, stage: Stage, server_processes: Processes, settings: Settings, where: str
) -> None:
    # Before the first event nothing but time makes a stream.
    settings.MCP_DJANGO_STREAM_AFTER = 0.05
    session = await client.open()
    first = server_processes.current
    for events in range(STEPS + 1):
        with case(events):
            server_processes.become(first)
            gate = stage.hold("end" if events == STEPS else f"step {events + 1}")
            exchange = session.begin(with_progress(session.tool("steps", steps=STEPS)))
            stream = await exchange.stream()
            last_id = await broken_after(stream, events)
            if where == "another process":
                await server_processes.another()
            resumed = await session.listen(last_id)
            priming = await resumed.frame()
            assert priming is not None
            assert (priming.id, priming.data) == (last_id, "")
            gate.open()
            await resumed.rest()
            assert_whole(seen(stream, resumed))


@pytest.mark.parametrize("where", ["same process", "another process", "the producer's death"])
async def test_a_stream_that_breaks_after_any_event_is_complete_after_its_end_too(
    client: Client, server_processes: Processes, where: str
) -> None:
    session = await client.open()
    first = server_processes.current
    for events in range(STEPS + 1):
        with case(events):
            server_processes.become(first)
            stream = await session.stream("steps", steps=STEPS)
            last_id = await broken_after(stream, events)
            await over(events + 1)
            if where == "another process":
                await server_processes.another()
            elif where == "the producer's death":
                await server_processes.restart()
                first = server_processes.current
            resumed = await session.listen(last_id)
            await resumed.rest()
            assert_whole(seen(stream, resumed))


@pytest.mark.parametrize("version", VERSIONS)
async def test_every_revision_can_resume(client: Client, server_processes: Processes, version: str) -> None:
    session = await client.open(version)
    stream = await session.stream("steps", steps=STEPS)
    last_id = await broken_after(stream, 2)
    await server_processes.another()
    resumed = await session.listen(last_id)
    await resumed.rest()
    assert_whole(seen(stream, resumed))
    primings = [frame for frame in resumed.frames if frame.data == ""]
    assert len(primings) == (version == LATEST)
    assert all(frame.retry is None for frame in resumed.frames) is (version != LATEST)


async def test_rule_4_every_connection_begins_at_once_with_where_it_stands_so_that_it_may_break_again_at_once(
    client: Client, stage: Stage, server_processes: Processes
) -> None:
    session = await client.open()
    gate = stage.hold("step 3")
    parts = [await session.stream("steps", steps=STEPS)]
    last_id = await broken_after(parts[0], 2)
    for _ in range(4):
        await server_processes.another()
        part = await session.listen(last_id)
        frame = await part.frame()
        assert frame is not None
        assert (frame.id, frame.data, frame.retry) == (last_id, "", 3000)
        await part.disconnect()
        parts.append(part)
    gate.open()
    parts.append(await session.listen(last_id))
    await parts[-1].rest()
    assert_whole(seen(*parts))


async def test_an_older_event_is_a_place_to_resume_from_as_well(client: Client) -> None:
    session = await client.open()
    stream = await session.stream("steps", steps=STEPS)
    messages = await stream.rest()
    ids = [frame.id for frame in stream.frames]
    for place, event_id in enumerate(ids[:-1]):
        resumed = await session.listen(event_id)
        assert await resumed.rest() == messages[place:]


async def test_a_long_log_is_read_from_the_store_in_pieces(client: Client, server_processes: Processes) -> None:
    session, steps = await client.open(), 300
    stream = await session.stream("steps", steps=steps)
    last_id = await broken_after(stream, 1)
    await over()
    await server_processes.another()
    resumed = await session.listen(last_id)
    await resumed.rest()
    assert_whole(seen(stream, resumed), steps)


async def test_large_events_come_whole_and_in_order(client: Client, server_processes: Processes) -> None:
    session, steps = await client.open(), 12
    stream = await session.stream("steps", steps=steps, size=200_000)
    last_id = await broken_after(stream, 1)
    await server_processes.another()
    resumed = await session.listen(last_id)
    await resumed.rest()
    assert_whole(seen(stream, resumed), steps)


async def test_a_batch_is_resumed_like_a_single_request(client: Client, server_processes: Processes) -> None:
    session = await client.open("2025-03-26")
    loud, quiet = with_progress(session.tool("steps", steps=STEPS)), session.tool("add", a=1, b=2)
    stream = await session.begin([loud, quiet]).stream()
    last_id = await broken_after(stream, 2)
    await server_processes.another()
    resumed = await session.listen(last_id)
    await resumed.rest()
    messages = seen(stream, resumed)
    assert progress_of(messages) == list(range(1, STEPS + 1))
    assert sorted(message["id"] for message in messages if "id" in message) == sorted([loud["id"], quiet["id"]])


async def test_requests_on_one_session_are_resumed_apart(client: Client, server_processes: Processes) -> None:
    session = await client.open()
    streams = [await session.stream("steps", steps=STEPS + number) for number in range(4)]
    ids = [await broken_after(stream, 1 + number) for number, stream in enumerate(streams)]
    await server_processes.another()
    resumed = [await session.listen(last_id) for last_id in ids]
    for number, (before, after) in enumerate(zip(streams, resumed, strict=True)):
        await after.rest()
        assert_whole(seen(before, after), STEPS + number)


# More connections than one


@pytest.mark.parametrize("where", ["same process", "another process"])
async def test_who_resumes_takes_the_stream_over_from_the_connection_before(
    client: Client, stage: Stage, server_processes: Processes, where: str
) -> None:
    session = await client.open()
    gate = stage.hold("step 2")
    connections = [await session.stream("steps", steps=STEPS)]
    await connections[0].message()
    last_id = connections[0].last_id
    for _ in range(3):
        if where == "another process":
            await server_processes.another()
        connections.append(await session.listen(last_id))
        assert await connections[-2].rest() == [], "The one before is closed, with nothing more on it."
    gate.open()
    await connections[-1].rest()
    assert_whole(seen(*connections))


async def test_a_look_that_was_under_way_does_not_take_a_new_reader_for_an_old_one(
    client: Client, stage: Stage, server_processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await client.open()
    gate = stage.hold("step 2")
    stream = await session.stream("steps", steps=STEPS)
    last_id = await broken_after(stream, 1)
    first = await session.listen(last_id)
    assert await first.frame()
    streams = server_processes.streams
    streams.watcher.stop()
    heads, answered = streams.store.heads, stage.hold("the head is read")

    async def held(wanted: Any) -> Any:
        found = await heads(wanted)
        await stage.visit("the head is read")
        return found

    monkeypatch.setattr(streams.store, "heads", held)
    looking = asyncio.create_task(server_processes.tick())
    await answered.reached()
    monkeypatch.setattr(streams.store, "heads", heads)
    second = await session.listen(last_id)
    assert await second.frame()
    assert await first.rest() == []
    answered.open()
    await looking
    gate.open()
    await second.rest()
    assert_whole(seen(stream, second))


# The polling pattern


@pytest.mark.parametrize("loud", [False, True])
@pytest.mark.parametrize("where", ["same process", "another process"])
async def test_a_tool_may_send_its_client_away_and_answer_it_when_it_is_back(
    client: Client, stage: Stage, server_processes: Processes, where: str, loud: bool
) -> None:
    session = await client.open()
    gates = [stage.hold(f"work {number}") for number in (1, 2)]
    connections = [await session.stream("poll", times=2, loud=loud)]
    await connections[0].rest()
    for gate in gates:
        priming = connections[-1].frames[0]
        assert (priming.data, priming.retry) == ("", 3000)
        last_id = connections[-1].last_id
        if where == "another process":
            await server_processes.another()
        connections.append(await session.listen(last_id))
        gate.open()
        await connections[-1].rest()
    messages = seen(*connections)
    assert progress_of(messages) == ([0, 1, 2] if loud else [1, 2])
    assert messages[-1]["result"]["structuredContent"] == {"value": "done"}
    assert "result" not in seen(*connections[:-1])


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18"])
async def test_older_clients_would_not_come_back_and_are_not_sent_away(client: Client, version: str) -> None:
    session = await client.open(version)
    messages = await (await session.stream("poll", times=2)).rest()
    assert progress_of(messages) == [1, 2]
    assert "result" in messages[-1]
    assert (await session.post(session.tool("poll", times=2))).result["structuredContent"] == {"value": "done"}


# Ids that lead nowhere


def tampered(event_id: str) -> dict[str, str]:
    """Event ids that are none, made from one that is."""
    raw = urlsafe_b64decode(event_id + "=" * (-len(event_id) % 4))
    return {
        "truncated": event_id[:-1],
        "half": event_id[: len(event_id) // 2],
        "longer": event_id + "A",
        "twice": event_id + event_id,
        "padded": event_id + "==",
        "another place": encoded(raw[:15] + bytes([raw[15] ^ 1]) + raw[16:]),
        "another stream": encoded(bytes([raw[0] ^ 1]) + raw[1:]),
        "another seal": encoded(raw[:-1] + bytes([raw[-1] ^ 1])),
        "no seal": encoded(raw[:-8]),
        "spaces": f"{event_id[:5]} {event_id[5:]}",
        "huge": "A" * 60_000,
        "a number": "1",
        "negative": "-1",
        "nonsense": "nonsense",
        "not ASCII": "ünïcode",
        "an injection": "'; DROP TABLE mcp_django_event; --",
        "in other letters": event_id.swapcase(),
    }


def encoded(raw: bytes) -> str:
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


async def assert_400(session: Session, event_id: str) -> None:
    response = await session.get(event_id).response()
    assert response.status == 400
    assert response.error["code"] == -32600


async def test_a_forged_or_mangled_event_id_is_400_and_costs_the_stream_nothing(client: Client, stage: Stage) -> None:
    session = await client.open()
    gate = stage.hold("step 2")
    stream = await session.stream("steps", steps=STEPS)
    await stream.message()
    assert stream.last_id is not None
    for name, event_id in tampered(stream.last_id).items():
        with case(name):
            await assert_400(session, event_id)
    gate.open()
    await stream.rest()
    assert_whole(seen(stream))


async def test_an_event_id_of_another_session_is_400_whoever_has_it(
    client: Client, alice: Client, bob: Client, stage: Stage
) -> None:
    mine, theirs = await alice.open(), [await alice.open(), await bob.open(), await client.open()]
    gate = stage.hold("step 2")
    stream = await mine.stream("steps", steps=STEPS)
    await stream.message()
    async with mine.listening() as standalone:
        assert await standalone.frame()
        for event_id in (stream.last_id, standalone.last_id):
            assert event_id is not None
            for session in theirs:
                await assert_400(session, event_id)
            # The session's id with somebody else's token, or on another server: there is no such session.
            assert (await mine.of(bob).get(event_id).response()).status == 404
            assert (await mine.of(Client(alice.application, "/other/mcp")).get(event_id).response()).status == 404
        assert standalone.arrived() == []
    gate.open()
    await stream.rest()
    assert_whole(seen(stream))


@pytest.mark.parametrize("where", ["same process", "another process"])
async def test_an_event_id_after_which_all_was_delivered_is_400(
    client: Client, server_processes: Processes, where: str
) -> None:
    session = await client.open()
    stream = await session.stream("steps", steps=1)
    await stream.rest()
    if where == "another process":
        await server_processes.another()
    assert stream.last_id is not None
    await assert_400(session, stream.last_id)
    row = await Stream.objects.aget()
    await assert_400(session, EventIds(digest_of(session.id), row.pk).at(99))
    # Not so the one before it.
    assert len(await (await session.listen(stream.frames[-2].id)).rest()) == 1


async def test_a_stream_that_is_no_longer_kept_is_an_error_for_its_request(
    client: Client, server_processes: Processes
) -> None:
    session = await client.open()
    for id in ("seven", 7):
        stream = await session.begin(with_progress(session.tool("steps", steps=2)) | {"id": id}).stream()
        last_id = await broken_after(stream, 1)
        await over()
        await Stream.objects.all().adelete()
        for _ in range(2):
            resumed = await session.listen(last_id)
            (error,) = await resumed.rest()
            assert (error["id"], error["error"]["code"]) == (id, -32000)
            assert "no longer kept" in error["error"]["message"]
            # Some clients take the error for a break, and without an id they would be one more listener.
            assert resumed.last_id not in (None, last_id)
            await assert_400(session, resumed.last_id)
            await server_processes.another()


async def test_a_batch_that_is_no_longer_kept_is_an_error_for_each_of_its_requests(client: Client) -> None:
    session = await client.open("2025-03-26")
    messages = [with_progress(session.tool("steps", steps=2)), client.message("ping")]
    stream = await session.begin(messages).stream()
    last_id = await broken_after(stream, 1)
    await over()
    await Stream.objects.all().adelete()
    errors = await (await session.listen(last_id)).rest()
    assert [error["id"] for error in errors] == [message["id"] for message in messages]
    assert {error["error"]["code"] for error in errors} == {-32000}


async def test_request_ids_that_would_make_event_ids_long_are_left_out_of_them(client: Client) -> None:
    session = await client.open()
    message = with_progress(session.tool("steps", steps=STEPS)) | {"id": "x" * 10_000}
    stream = await session.begin(message).stream()
    last_id = await broken_after(stream, 1)
    assert len(last_id) < 200
    resumed = await session.listen(last_id)
    await resumed.rest()
    assert_whole(seen(stream, resumed))
    await Stream.objects.all().adelete()
    await assert_400(session, last_id)


async def test_a_resumption_without_a_session_or_with_a_dead_one_is_no_resumption(client: Client) -> None:
    session = await client.open()
    stream = await session.stream("steps", steps=2)
    last_id = await broken_after(stream, 1)
    headers = {"Accept": "text/event-stream", "Last-Event-ID": last_id}
    assert (await client.request("GET", headers=headers)).status == 400
    await session.delete()
    assert (await session.get(last_id).response()).status == 404


async def test_the_last_event_id_must_come_once(client: Client) -> None:
    session = await client.open()
    stream = await session.stream("steps", steps=2)
    last_id = await broken_after(stream, 1)
    response = await session.get(headers={"Last-Event-ID": [last_id, last_id]}).response()
    assert response.status == 400
    assert "last-event-id" in response.error["message"].lower()


async def test_event_ids_outlive_a_rotated_secret_key_as_long_as_it_is_a_fallback(
    client: Client, settings: Settings
) -> None:
    session = await client.open()
    stream = await session.stream("steps", steps=STEPS)
    last_id = await broken_after(stream, 1)
    old, settings.SECRET_KEY = settings.SECRET_KEY, "another key"
    await assert_400(session, last_id)
    settings.SECRET_KEY_FALLBACKS = ["a key before that", old]
    resumed = await session.listen(last_id)
    assert await resumed.frame()
    await resumed.disconnect()
    # What is given out now is made with the new key.
    settings.SECRET_KEY_FALLBACKS = []
    assert resumed.last_id not in (None, last_id)
    again = await session.listen(resumed.last_id)
    await again.rest()
    assert_whole(seen(stream, resumed, again))


# Hints, and the lack of them


@pytest.mark.parametrize("sky", ["prompt", "dropped", "doubled", "delayed"], indirect=True)
async def test_hints_may_be_lost_doubled_or_late_and_the_result_is_the_same(
    client: Client, stage: Stage, server_processes: Processes, settings: Settings, sky: Broker
) -> None:
    if sky.weather != "dropped":
        # So that nothing is found but by a hint.
        settings.MCP_DJANGO_POLL_INTERVAL = 1000
    session = await client.open()
    gates = [stage.hold(f"step {number}") for number in (2, 3, 4)]
    parts = [await session.stream("steps", steps=STEPS)]
    for number, gate in enumerate(gates):
        last_id = await broken_after(parts[-1], 1)
        await server_processes.another()
        parts.append(await session.listen(last_id))
        assert await parts[-1].frame()
        if sky.weather != "dropped":
            await until(lambda: server_processes.streams.wakeups.connected)
        gate.open()
        if number == 2:
            await parts[-1].rest()
    assert_whole(seen(*parts))
    assert sky.hints > 0


# Random breaks


async def story(client: Client, server_processes: Processes, dice: random.Random) -> None:
    """One call whose connections break at random places and go on in random processes."""
    version = dice.choice(VERSIONS)
    session = await client.open(version)
    steps = dice.randint(1, 12)
    processes = [server_processes.current]
    parts = [await session.stream("steps", steps=steps, size=dice.choice([0, 0, 0, 5000]))]
    for _ in range(dice.randint(1, 5)):
        part = parts[-1]
        frames = dice.randint(1, 6)
        while frames > 0 or part.last_id is None:
            if await part.frame() is None:
                break
            frames -= 1
        await part.disconnect()
        if part.frames and part.frames[-1].has_message and "result" in part.frames[-1].message:
            break
        if dice.random() < 0.3:
            await over()
        if dice.random() < 0.3 and len(processes) < 3:
            processes.append(await server_processes.another())
        else:
            server_processes.become(dice.choice([*processes, server_processes.current]))
        parts.append(await session.listen(last_id_of(parts)))
    else:
        await parts[-1].rest()
    assert_whole(seen(*parts), steps)


def last_id_of(parts: list[EventStream]) -> str:
    return next(part.last_id for part in reversed(parts) if part.last_id is not None)


async def stories(client: Client, server_processes: Processes, count: int) -> None:
    first = server_processes.current
    for number in range(count):
        with case(number):
            server_processes.become(first)
            await story(client, server_processes, random.Random(f"resume {number}"))
            server_processes.become(first)
            server_processes.end_others()
            await Stream.objects.all().adelete()


async def test_20_streams_broken_at_random_lose_and_double_nothing(client: Client, server_processes: Processes) -> None:
    await stories(client, server_processes, 20)


@pytest.mark.long
async def test_1000_streams_broken_at_random_lose_and_double_nothing(
    client: Client, server_processes: Processes
) -> None:
    await stories(client, server_processes, 1000)


# Producers that die, and those that only seem to


async def test_the_stream_of_a_dead_producer_is_ended_with_an_error_but_not_before_a_full_lease(
    client: Client, stage: Stage, server_processes: Processes
) -> None:
    session = await client.open()
    gate = stage.hold("step 2")
    message = with_progress(session.tool("steps", steps=STEPS))
    stream = await session.begin(message).stream()
    last_id = await broken_after(stream, 1)
    await gate.reached()
    await server_processes.restart()
    resumed = await session.listen(last_id)
    assert await resumed.frame()
    # This process has just come, too: perhaps it was the database that was away, for everybody.
    await server_processes.tick()
    assert (await Stream.objects.aget()).finished_at is None
    await server_processes.let_judge()
    (error,) = await resumed.rest()
    assert (error["id"], error["error"]["code"]) == (message["id"], -32000)
    assert "gone" in error["error"]["message"]
    assert await Event.objects.acount() == 2
    assert resumed.last_id is not None
    await assert_400(session, resumed.last_id)


async def test_a_process_that_renews_its_lease_is_not_judged(
    client: Client, stage: Stage, server_processes: Processes
) -> None:
    session = await client.open()
    gate = stage.hold("step 2")
    stream = await session.stream("steps", steps=STEPS)
    last_id = await broken_after(stream, 1)
    await server_processes.another()
    resumed = await session.listen(last_id)
    assert await resumed.frame()
    await server_processes.let_judge()
    await server_processes.tick()
    gate.open()
    await resumed.rest()
    assert_whole(seen(stream, resumed))


async def test_of_many_that_follow_a_dead_producer_s_stream_one_ends_it(
    client: Client, stage: Stage, server_processes: Processes
) -> None:
    session = await client.open("2025-03-26")
    gate = stage.hold("step 2")
    messages = [with_progress(session.tool("steps", steps=STEPS)), session.tool("pause", place="step 2")]
    stream = await session.begin(messages).stream()
    last_id = await broken_after(stream, 1)
    await gate.reached()
    await server_processes.restart()
    resumed = await session.listen(last_id)
    await server_processes.let_judge()
    streams = server_processes.streams
    id = (await Stream.objects.aget()).pk
    head = (await streams.store.heads([id]))[id]
    await asyncio.gather(*(streams.end_orphan(id, head) for _ in range(8)))
    errors = await resumed.rest()
    assert sorted(error["id"] for error in errors) == sorted(message["id"] for message in messages)
    assert await Event.objects.acount() == 3


@pytest.mark.parametrize("place", ["step 2", "end"])
@pytest.mark.parametrize("connected", [False, True], ids=["broken", "connected"])
async def test_a_producer_that_was_frozen_and_wakes_again_cannot_answer_a_second_time(
    client: Client, stage: Stage, server_processes: Processes, place: str, connected: bool
) -> None:
    session = await client.open()
    steps = 1 if place == "end" else STEPS
    gate = stage.hold(place)
    message = with_progress(session.tool("steps", steps=steps))
    stream = await session.begin(message).stream()
    await stream.message()
    last_id = stream.last_id
    frozen = await server_processes.another()
    if not connected:
        await stream.disconnect()
    else:
        # A frozen process looks at nothing.
        server_processes.become(frozen)
        server_processes.streams.watcher.stop()
        await server_processes.another()
    await server_processes.lose_lease(frozen)
    resumed = await session.listen(last_id)
    await server_processes.let_judge()
    (error,) = await resumed.rest()
    assert error["error"]["code"] == -32000
    server_processes.become(frozen)
    woken = server_processes.streams
    gate.open()
    woken.watcher.start()
    await until(lambda: not woken.calls)
    assert await Event.objects.acount() == 2
    assert not await Stream.objects.unfinished().aexists()
    if connected:
        assert await stream.rest() in ([], [error])
    await until(lambda: not woken.feeds)
    assert resumed.last_id is not None
    await assert_400(session, resumed.last_id)
    # Alive again, it serves as before.
    assert await session.call("add", a=1, b=2) == {"result": 3}


async def test_a_database_that_is_away_ends_no_resumed_stream(
    client: Client, stage: Stage, server_processes: Processes
) -> None:
    session = await client.open()
    gate = stage.hold("step 2")
    stream = await session.stream("steps", steps=STEPS)
    last_id = await broken_after(stream, 1)
    await server_processes.another()
    resumed = await session.listen(last_id)
    assert await resumed.frame()
    with refusing() as refused:
        gate.open()
        await until(lambda: refused() > 3)
    await resumed.rest()
    assert_whole(seen(stream, resumed))


async def test_everybody_s_lease_has_run_out_after_a_failover_and_nobody_is_judged_for_it(
    client: Client, stage: Stage, server_processes: Processes
) -> None:
    session = await client.open()
    gate = stage.hold("step 2")
    stream = await session.stream("steps", steps=STEPS)
    last_id = await broken_after(stream, 1)
    first = await server_processes.another()
    resumed = await session.listen(last_id)
    await server_processes.let_judge()
    await until_async(Process.objects.filter(pk=server_processes.current).aexists)
    # What the follower knows of itself: it could not renew its lease for long, either.
    server_processes.sessions.store.heartbeat._renewed_at -= Process.LEASE.total_seconds()  # type: ignore[attr-defined]
    await server_processes.lose_lease(first)
    await server_processes.lose_lease(server_processes.current)
    await server_processes.tick()
    gate.open()
    await resumed.rest()
    assert_whole(seen(stream, resumed))
