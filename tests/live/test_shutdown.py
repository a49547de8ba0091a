"""Servers that are told to stop while streams are open: gone soon, and every client knows what to do."""

from __future__ import annotations

import os
import signal
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from itertools import product
from pathlib import Path

import pytest

from tests.live.databases import Database
from tests.live.fixtures import Serve, serving
from tests.live.measuring import note
from tests.live.servers import ENTRIES, Server, one_by_default, some_by_default, wait_until
from tests.live.stopping import GONE_SECONDS, GRACE_SECONDS, check_gone, stop
from tests.live.streams import Stream, check_whole, is_answer
from tests.live.wire import LIVE, Client

pytestmark = pytest.mark.live

# Daphne ends by itself, without the farewell; see below.
SERVERS = ("uvicorn", "granian", "gunicorn")
SIGNALS = (signal.SIGTERM, signal.SIGINT)
# SIGQUIT is what workers of gunicorn get when the main process alone was told of a Ctrl-C.
ENDS = [*product(SERVERS, SIGNALS), ("gunicorn", signal.SIGQUIT)]
BY_DEFAULT = {("uvicorn", signal.SIGINT), *((kind, signal.SIGTERM) for kind in SERVERS)}
CALL_LOST = -32000
LEASE = 12.0
RETRY = 3000


@pytest.fixture(scope="module")
def successor(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The process that the balancer chooses from then on."""
    with serving(database, tmp_path_factory.mktemp("successor")) as start:
        yield start()


def check_farewell(stream: Stream) -> None:
    """The connection was closed in good order, with the word to come back."""
    assert stream.rest() == []
    assert stream.response.complete
    assert (stream.frames[-1].retry, stream.frames[-1].id, stream.frames[-1].data) == (RETRY, None, "")


@pytest.mark.parametrize("end", some_by_default(ENDS, BY_DEFAULT), ids=lambda end: f"{end[0]}-{end[1].name}")
def test_a_server_with_open_streams_is_gone_within_two_seconds_and_clients_go_on_with_the_next(
    end: tuple[str, signal.Signals], serve: Serve, successor: Server, database: Database
) -> None:
    kind, number = end
    server = serve(kind)
    client = Client(server).initialize()
    assert client.call("count") == {"value": 1}
    there = client.at(successor)
    with client.listen() as idle, client.start("slow_progress", "token", steps=600, seconds=300) as call:
        idle.frame()
        call.messages(2)
        place = call.last_id
        elapsed = stop(server, number)
        gone = time.monotonic()
        check_farewell(idle)
        heard = call.rest()
    note(f"{kind} gone {elapsed:.2f} s after {number.name}", database)
    assert database.session(client.session_id or "", "status", "end_reason") == ("active", "")

    # It is not the lease that ends the call: the error is there already.
    with there.listen(place) as resumed:
        rest = resumed.rest()
    assert time.monotonic() - gone < LEASE / 2
    (error,) = [message["error"] for message in rest if is_answer(message)]
    assert error["code"] == CALL_LOST
    assert "shutting down" in error["message"]
    if kind == "gunicorn" and number != signal.SIGTERM:
        # It is in a hurry then and cuts connections whose calls have not ended.
        assert heard == rest[: len(heard)]
    else:
        assert heard == rest
        assert call.response.complete

    assert there.call("count") == {"value": 2}
    with there.listen() as listening:
        # Nobody waits for the lease of the old process: the stream is free at once.
        greeting = listening.frame()
        assert greeting is not None
        assert greeting.id
    check_gone(elapsed, server, number)


@pytest.mark.parametrize("entry", one_by_default(ENTRIES))
def test_a_call_that_ends_in_time_is_answered(entry: str, serve: Serve) -> None:
    server = serve(entry=entry)
    client = Client(server).initialize()
    with client.start("slow_progress", "token", steps=4, seconds=1.2) as call:
        got = call.messages(3)
        elapsed = stop(server)
        check_whole(got + call.rest(), 4)
        assert call.response.complete
    check_gone(elapsed, server)


def test_streams_of_the_view_end_as_well(serve: Serve, database: Database) -> None:
    server = serve(entry="view")
    client = Client(server).initialize()
    with client.listen() as idle, client.start("slow_progress", "token", steps=600, seconds=300) as call:
        idle.frame()
        call.messages(2)
        elapsed = stop(server)
        check_farewell(idle)
        (error,) = [message["error"] for message in call.rest() if is_answer(message)]
    note(f"uvicorn with the view gone after {elapsed:.2f} s", database)
    assert error["code"] == CALL_LOST
    check_gone(elapsed, server)


def test_clients_of_older_revisions_are_told_no_retry(serve: Serve) -> None:
    server = serve()
    client = Client(server, version="2025-06-18").initialize()
    with client.listen() as idle:
        idle.frame()
        stop(server)
        assert idle.rest() == []
        assert idle.response.complete
        assert {frame.retry for frame in idle.frames} == {None}


@pytest.mark.parametrize("kind", one_by_default(SERVERS))
def test_a_sync_tool_that_is_stuck_in_a_thread_does_not_keep_the_process_alive(
    kind: str, serve: Serve, successor: Server, database: Database
) -> None:
    server = serve(kind)
    client = Client(server, path=LIVE).initialize()
    with client.start("stick", party=uuid.uuid4().hex, seconds=120) as call:
        # Its answer takes so long that it has become a stream.
        priming = call.frame()
        assert priming is not None
        assert priming.id
        elapsed = stop(server)
        (answer,) = call.rest()
    note(f"{kind} with a stuck thread gone after {elapsed:.2f} s", database)
    assert (answer["id"], answer["error"]["code"]) == (call.request_id, CALL_LOST)
    assert client.at(successor).call("recall", key="k") == {"value": None}
    check_gone(elapsed, server)


@pytest.mark.parametrize("version", ["2025-11-25", "2025-06-18"])
def test_a_call_that_is_still_quiet_when_its_server_is_told_to_stop_is_answered_too(version: str, serve: Serve) -> None:
    # Clients of the older revision have no event id to come back with: what does not reach them now never does.
    server = serve()
    client = Client(server, path=LIVE, version=version).initialize()
    party = uuid.uuid4().hex
    with client.start("stick", party=party, seconds=120) as call:
        wait_until(lambda: client.call("is_walking", party=party)["value"], "The tool runs")
        elapsed = stop(server)
        (answer,) = call.rest()
    assert (answer["id"], answer["error"]["code"]) == (call.request_id, CALL_LOST)
    assert "shutting down" in answer["error"]["message"]
    check_gone(elapsed, server)


@pytest.mark.long
@pytest.mark.parametrize("number", SIGNALS)
def test_daphne_ends_by_itself_and_its_sessions_live_on(
    number: signal.Signals, serve: Serve, successor: Server, database: Database
) -> None:
    server = serve("daphne")
    client = Client(server).initialize()
    with client.listen() as idle, client.start("slow_progress", "token", steps=600, seconds=300) as call:
        idle.frame()
        call.messages(2)
        elapsed = stop(server, number)
        assert idle.rest() == []
        # Without a farewell the call dies unsaid: the lease tells, to whoever comes back.
        assert not any(is_answer(message) for message in call.rest())
        assert call.last_id
    note(f"daphne gone {elapsed:.2f} s after {number.name}", database)
    check_gone(elapsed, server, number)
    assert database.session(client.session_id or "", "status", "end_reason") == ("active", "")
    assert client.at(successor).call("count") == {"value": 1}
    with client.at(successor).resume(call) as resumed:
        assert [message["error"]["code"] for message in resumed.rest() if is_answer(message)] == [CALL_LOST]


def test_runserver_with_open_streams_reloads_within_two_seconds(
    serve: Serve, tmp_path: Path, database: Database
) -> None:
    watched = tmp_path / "watched.py"
    watched.touch()
    server = serve("runserver", LIVE_RUNSERVER="1", LIVE_WATCHED=str(watched))
    client = Client(server).initialize()
    assert client.call("count") == {"value": 1}
    before = client.call("session_info")["pid"]
    with client.listen() as idle, client.start("slow_progress", "token", steps=600, seconds=300) as call:
        idle.frame()
        call.messages(2)
        elapsed = reload(server, watched)
        assert idle.rest() == []
        assert not any(is_answer(message) for message in call.rest())
    wait_until(server.answers, "The new process answers", 30)
    assert client.call("session_info")["pid"] != before
    assert client.call("count") == {"value": 2}
    note(f"runserver: the old process is gone {elapsed:.2f} s after a file changed", database)
    if elapsed >= GONE_SECONDS:
        # As above: a look at the files every second, and an interpreter that ends, take their time on a busy machine.
        without = reload(server, watched)
        note(f"runserver without streams: gone after {without:.2f} s", database)
        assert elapsed - without < GRACE_SECONDS


def reload(server: Server, watched: Path) -> float:
    """Have a file changed and wait until the old process is gone, which its connections show; returns the seconds."""
    server.disconnect()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        changed = time.monotonic()
        later = watched.stat().st_mtime + 10
        os.utime(watched, (later, later))
        connection.settimeout(30)
        with suppress(ConnectionError):
            assert connection.recv(1) == b""
        return time.monotonic() - changed
