"""GET streams of one session on several processes: exactly one of them reads."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.live.app import TOKEN_PREFIX
from tests.live.databases import Database
from tests.live.fixtures import Serve, serving
from tests.live.measuring import QUIET, note
from tests.live.servers import Server, wait_until
from tests.live.streams import Stream
from tests.live.wire import LIVE, Client

pytestmark = pytest.mark.live

DEATH_SECONDS = 15.0


@pytest.fixture(scope="module")
def servers(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server]]:
    with serving(database, tmp_path_factory.mktemp("servers")) as start:
        yield start(**QUIET), start(**QUIET)


@pytest.fixture
def listening() -> Iterator[ExitStack]:
    """Streams that end with the test."""
    with ExitStack() as stack:
        yield stack


def reads(stream: Stream) -> bool:
    """Whether a new connection is the reader: it is greeted with an event id, one that is held is not."""
    frame = stream.frame()
    assert frame is not None, f"The connection was refused: {stream!r}"
    return bool(frame.id)


def told(stream: Stream, number: int) -> list[object]:
    return [message["params"]["data"] for message in stream.messages(number)]


def test_anonymously_the_first_keeps_the_stream_and_the_second_is_held_elsewhere(
    servers: tuple[Server, Server], listening: ExitStack
) -> None:
    client = Client(servers[0], path=LIVE).initialize()
    first = listening.enter_context(client.listen())
    assert reads(first)
    second = listening.enter_context(client.at(servers[1]).listen())
    assert not reads(second)
    third = listening.enter_context(client.listen())
    assert not reads(third)

    for number in range(6):
        client.at(servers[number % 2]).call("tell", text=f"message {number}")
    assert told(first, 6) == [f"message {number}" for number in range(6)]
    for held in (second, third):
        assert held.arrived() == []
        assert not any(frame.id for frame in held.frames)
        assert not held.ended
    assert first.arrived() == []


def test_anonymously_the_second_takes_over_when_the_first_is_gone_and_misses_nothing(
    servers: tuple[Server, Server], listening: ExitStack
) -> None:
    client = Client(servers[0], path=LIVE).initialize()
    with client.listen() as first:
        assert reads(first)
        second = listening.enter_context(client.at(servers[1]).listen())
        assert not reads(second)
        client.call("tell", text="for the first")
        assert told(first, 1) == ["for the first"]
    client.call("tell", text="for the second")
    assert told(second, 1) == ["for the second"]
    assert second.last_id


def test_an_event_id_takes_the_stream_over_at_once_on_another_process(
    servers: tuple[Server, Server], listening: ExitStack
) -> None:
    client = Client(servers[0], path=LIVE).initialize()
    first = listening.enter_context(client.listen())
    assert reads(first)
    client.call("tell", text="one")
    client.call("tell", text="two")
    assert told(first, 1) == ["one"]

    second = listening.enter_context(client.at(servers[1]).resume(first))
    assert reads(second)
    # Whether or not the first connection had it already: it is the same client, and it says that it has not.
    assert told(second, 1) == ["two"]
    assert [message["params"]["data"] for message in first.rest()] in ([], ["two"])
    assert first.response.complete
    client.call("tell", text="three")
    assert told(second, 1) == ["three"]


def test_with_an_owner_the_newest_reads_on_whichever_process_it_is(
    servers: tuple[Server, Server], listening: ExitStack
) -> None:
    client = Client(servers[0], path=LIVE, token=f"{TOKEN_PREFIX}owner").initialize()
    first = listening.enter_context(client.listen())
    assert reads(first)
    second = listening.enter_context(client.at(servers[1]).listen())
    assert reads(second)
    assert first.rest() == []
    assert first.response.complete
    client.call("tell", text="for the newest")
    assert told(second, 1) == ["for the newest"]


def test_a_session_that_is_ended_on_one_process_ends_its_streams_on_the_other(
    servers: tuple[Server, Server], listening: ExitStack
) -> None:
    client = Client(servers[0], path=LIVE).initialize()
    first = listening.enter_context(client.listen())
    assert reads(first)
    held = listening.enter_context(client.listen())
    assert not reads(held)
    party = "nobody lets it step"
    call = listening.enter_context(client.start("stepwise", "token", party=party, steps=1))
    wait_until(lambda: client.call("is_walking", party=party)["value"], "The tool runs")
    assert client.at(servers[1]).delete().status_code == 204
    assert first.rest() == []
    assert held.rest() == []
    assert [message.get("error", {}).get("code") for message in call.rest()] == [-32000]


@pytest.mark.long
def test_a_reader_whose_process_was_killed_is_succeeded_by_the_one_who_is_held(
    serve: Serve, servers: tuple[Server, Server], listening: ExitStack, database: Database
) -> None:
    reading = serve()
    client = Client(reading, path=LIVE).initialize()
    first = listening.enter_context(client.listen())
    assert reads(first)
    held = listening.enter_context(client.at(servers[1]).listen())
    assert not reads(held)
    killed = time.monotonic()
    reading.kill()
    client.at(servers[1]).call("tell", text="for whoever lives")
    assert told(held, 1) == ["for whoever lives"]
    elapsed = time.monotonic() - killed
    note(f"killed reader succeeded after {elapsed:.1f} s", database)
    assert elapsed < 2 * DEATH_SECONDS
