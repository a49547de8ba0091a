"""A stream broken anywhere and resumed on another process: every event once, in order, then live, then the result."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest

from tests.live.databases import Database
from tests.live.fixtures import Serve, serving
from tests.live.servers import Server, manage, wait_until
from tests.live.streams import Message, Stream, check_whole, is_answer, progress_of
from tests.live.wire import LIVE, Client

pytestmark = pytest.mark.live

CALL_LOST = -32000
LEASE = 12.0
DEATH_SECONDS = 15.0
WORKERS = 24
SEED = 20251125


class Trio(NamedTuple):
    a: Server
    b: Server
    c: Server


@pytest.fixture(scope="module")
def trio(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    """Three processes on one database, one of them with the other entry."""
    with serving(database, tmp_path_factory.mktemp("trio")) as start:
        yield Trio(start(), start(), start(entry="view"))


def wait_for_judge(server: Server) -> Client:
    """Whoever has not reached the database itself for a full lease takes nobody for dead: let a server be there."""
    client = Client(server, path=LIVE).initialize()
    wait_until(lambda: client.call("may_judge")["value"] is True, f"{server!r} may judge", 2 * LEASE)
    return client


def broken_after(client: Client, events: int, steps: int, seconds: float) -> tuple[Stream, list[Message]]:
    """A call whose connection broke after the priming event and so many others; and what had come."""
    stream = client.start("slow_progress", "token", steps=steps, seconds=seconds)
    priming = stream.frame()
    assert priming is not None
    assert priming.id
    assert priming.data == ""
    got = stream.messages(events)
    stream.close()
    return stream, got


@pytest.mark.parametrize("events", range(6))
def test_a_stream_broken_after_any_event_goes_on_on_another_process(events: int, trio: Trio) -> None:
    client = Client(trio.a).initialize()
    broken, got = broken_after(client, events, steps=5, seconds=0.5)
    with client.at(trio.b).resume(broken) as resumed:
        assert resumed.status() == 200
        check_whole(got + resumed.rest(), 5, "token")
        assert resumed.response.complete


def test_a_stream_may_go_on_under_the_other_entry_and_come_back(trio: Trio) -> None:
    client = Client(trio.c).initialize()
    broken, got = broken_after(client, 2, steps=8, seconds=1.0)
    for server in (trio.a, trio.c, trio.b):
        resumed = client.at(server).resume(broken)
        got += resumed.messages(2 if server is not trio.b else 3)
        resumed.close()
        broken = resumed
    assert is_answer(got[-1])
    check_whole(got, 8, "token")


def test_a_stream_is_followed_live_on_another_process(trio: Trio) -> None:
    party = uuid.uuid4().hex
    client = Client(trio.a, path=LIVE).initialize()
    with client.start("stepwise", "token", party=party, steps=4) as stream:
        client.call("let_step", party=party)
        got = stream.messages(1)
    with client.at(trio.b).resume(stream) as resumed:
        for step in (2, 3, 4):
            # The step after this one is taken only when this one has arrived there.
            client.call("let_step", party=party)
            got += resumed.messages(1)
            assert progress_of(got) == list(range(1, step + 1))
        got += resumed.rest()
    assert got[-1]["result"]["structuredContent"] == {"rows": 4}
    assert [is_answer(message) for message in got] == [False] * 4 + [True]


def test_a_connection_that_is_still_open_ends_when_another_process_takes_the_stream_over(trio: Trio) -> None:
    party = uuid.uuid4().hex
    client = Client(trio.a, path=LIVE).initialize()
    with client.start("stepwise", "token", party=party, steps=2) as stream:
        client.call("let_step", party=party)
        got = stream.messages(1)
        with client.at(trio.b).resume(stream) as resumed:
            assert resumed.status() == 200
            # The call has not ended yet, so the answer will go to one of them alone.
            assert stream.rest() == []
            assert stream.response.complete
            client.call("let_step", party=party)
            got += resumed.rest()
    assert progress_of(got) == [1, 2]
    assert [message["result"]["structuredContent"] for message in got if is_answer(message)] == [{"rows": 2}]


def mangled(event_id: str) -> list[str]:
    """Event ids that are none, made from one that is."""
    other = "A" if event_id[0] != "A" else "B"
    return [event_id[:-1], event_id + "A", other + event_id[1:], event_id * 2, "A" * 4000, "1"]


def test_an_event_id_that_is_not_the_sessions_own_is_400_on_every_process(trio: Trio) -> None:
    client, stranger = Client(trio.a).initialize(), Client(trio.b).initialize()
    with client.start("slow_progress", "token", steps=30, seconds=6) as stream, client.listen() as standalone:
        got = stream.messages(1)
        standalone.frame()
        assert stream.last_id
        assert standalone.last_id
        for server in trio:
            for own in (stream.last_id, standalone.last_id):
                with stranger.at(server).listen(own) as foreign:
                    assert (foreign.status(), foreign.last_id) == (400, own)
            for forged in mangled(stream.last_id):
                with client.at(server).listen(forged) as refused:
                    assert refused.status() == 400, forged
        # Nobody has taken anything over by it.
        check_whole(got + stream.rest(), 30, "token")
        assert standalone.arrived() == []
        assert not standalone.ended


def test_own_event_ids_are_400_once_all_is_delivered_and_an_error_for_the_request_once_it_is_pruned(
    trio: Trio, database: Database
) -> None:
    client = Client(trio.a).initialize()
    broken, got = broken_after(client, 1, steps=2, seconds=0.2)
    with client.at(trio.b).resume(broken) as resumed:
        check_whole(got + resumed.rest(), 2, "token")
    for server in trio:
        with client.at(server).resume(resumed) as again:
            assert again.status() == 400
    manage(database.url, "clearmcpsessions", LIVE_STREAM_RETENTION="0.001")
    for server in trio:
        with client.at(server).resume(broken) as late:
            (answer,) = late.rest()
            assert (answer["id"], answer["error"]["code"]) == (broken.request_id, CALL_LOST)
            assert late.response.complete
        with client.at(trio.b).resume(late) as nothing:
            assert nothing.status() == 400


def test_a_stream_whose_producer_was_killed_when_it_was_done_is_replayed_to_the_result(
    serve: Serve, trio: Trio, database: Database
) -> None:
    producer = serve()
    client = Client(producer).initialize()
    broken, got = broken_after(client, 1, steps=3, seconds=0.3)
    wait_until(lambda: database.unfinished_streams(client.session_id) == 0, "The call is done")
    producer.kill()
    with client.at(trio.b).resume(broken) as resumed:
        check_whole(got + resumed.rest(), 3, "token")


def test_the_stream_of_a_killed_producer_ends_with_an_error_within_15_seconds(serve: Serve, trio: Trio) -> None:
    producer = serve()
    client = Client(producer).initialize()
    wait_for_judge(trio.b)
    broken, got = broken_after(client, 2, steps=600, seconds=300)
    with client.at(trio.b).resume(broken) as resumed:
        got += resumed.messages(1)
        killed = time.monotonic()
        producer.kill()
        rest = resumed.rest()
        elapsed = time.monotonic() - killed
        assert resumed.response.complete
    print(f"[measured] killed producer: the stream ended {elapsed:.1f} s after the kill")
    got += rest
    assert progress_of(got) == list(range(1, len(got)))
    assert [message["error"]["code"] for message in got if is_answer(message)] == [CALL_LOST]
    assert got[-1]["id"] == broken.request_id
    assert elapsed < DEATH_SECONDS


@pytest.mark.long
def test_one_who_comes_back_long_after_the_producer_was_killed_hears_it_too(serve: Serve, trio: Trio) -> None:
    producer = serve()
    client = Client(producer).initialize()
    judge = wait_for_judge(trio.c)
    broken, _got = broken_after(client, 1, steps=600, seconds=300)
    pid = producer.pid
    assert judge.call("is_alive", pid=pid)["value"] is True
    producer.kill()
    wait_until(lambda: not judge.call("is_alive", pid=pid)["value"], "The lease has run out", 2 * LEASE)
    came_back = time.monotonic()
    with client.at(trio.c).resume(broken) as resumed:
        rest = resumed.rest()
    assert [message["error"]["code"] for message in rest if is_answer(message)] == [CALL_LOST]
    assert time.monotonic() - came_back < DEATH_SECONDS - LEASE
    # The next one finds the error where the first one left it, and nothing is added.
    with client.at(trio.a).resume(broken) as again:
        assert again.rest() == rest


def test_a_producer_frozen_past_its_lease_and_woken_cannot_answer_a_second_time(serve: Serve, trio: Trio) -> None:
    # What the tool tries to report then fails, which is logged as any failure of a tool is.
    producer = serve(may_log_tracebacks=True)
    client = Client(producer).initialize()
    wait_for_judge(trio.b)
    with client.start("slow_progress", "token", steps=40, seconds=20) as original:
        # An event has arrived, so its commit is through: nothing is locked while the process does nothing.
        before, place = original.messages(2), original.last_id
        producer.freeze()
        with client.at(trio.b).resume(original) as resumed:
            rest = resumed.rest()
        producer.thaw()
        after = original.rest()

    assert progress_of(before + rest) == list(range(1, len(before + rest)))
    assert [message["error"]["code"] for message in rest if is_answer(message)] == [CALL_LOST]
    # The original connection is closed; if it heard an answer, then the same.
    assert [message for message in after if is_answer(message)] in ([], [rest[-1]])
    # Wait until the woken producer has tried to go on, and been told that it lost the stream.
    wait_until(lambda: "took this one for dead" in producer.output, "The producer noticed")
    for server in (producer, trio.a, trio.b, trio.c):
        with client.at(server).listen(place) as again:
            assert again.rest() == rest
    assert client.call("add", a=1, b=2) == {"result": 3}


@pytest.mark.long
def test_a_frozen_producer_that_nobody_followed_goes_on_as_if_nothing_had_been(serve: Serve) -> None:
    producer = serve()
    client = Client(producer).initialize()
    with client.start("slow_progress", "token", steps=6, seconds=3) as stream:
        got = stream.messages(2)
        producer.freeze()
        time.sleep(LEASE + 1)
        producer.thaw()
        check_whole(got + stream.rest(), 6, "token")


def break_at_random(trio: Trio, seed: int) -> int:
    """A call whose connection breaks again and again, on its way over the processes. Returns how often it broke."""
    chance = random.Random(seed)
    steps = chance.randint(1, 12)
    token = f"token-{seed}"
    client = Client(chance.choice(trio)).initialize()
    stream = client.start("slow_progress", token, steps=steps, seconds=steps * chance.choice([0, 0.002, 0.02]))
    # Without its first event id a client cannot come back.
    stream.frame()
    got = read_up_to(stream, chance.randint(0, steps))
    breaks = 0
    while True:
        stream.close()
        if got and is_answer(got[-1]):
            check_whole(got, steps, token)
            return breaks
        breaks += 1
        stream = client.at(chance.choice(trio)).resume(stream)
        if chance.random() < 0.9:
            assert stream.status() == 200, (seed, stream)
        if breaks >= 5 or chance.random() < 0.2:
            got += stream.rest()
        elif chance.random() < 0.5:
            got += read_up_to(stream, chance.randint(0, steps))
        else:
            # Anywhere, in the middle of an event too; or at once, perhaps before the response began.
            stream.take(chance.randint(0, 1500))
            got += stream.parsed()


def read_up_to(stream: Stream, events: int) -> list[Message]:
    """So many messages, or fewer if the stream ends."""
    got: list[Message] = []
    while len(got) < events and (message := stream.message()) is not None:
        got.append(message)
    return got


def check_random_breaks(trio: Trio, number: int) -> None:
    with ThreadPoolExecutor(WORKERS) as pool:
        breaks = list(pool.map(lambda index: break_at_random(trio, SEED + index), range(number)))
    print(f"[measured] {number} calls, {sum(breaks)} breaks")
    assert sum(breaks) >= number


def test_streams_broken_anywhere_lose_and_double_nothing(trio: Trio) -> None:
    check_random_breaks(trio, 40)


@pytest.mark.long
def test_a_thousand_streams_broken_anywhere_lose_and_double_nothing(trio: Trio) -> None:
    check_random_breaks(trio, 1000)
