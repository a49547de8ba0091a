"""The database goes away and comes back: no session is lost over it, and no server restarted."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx
import pytest

from tests.live.databases import Database
from tests.live.fixtures import Serve
from tests.live.gate import Gate
from tests.live.measuring import note
from tests.live.servers import ENTRIES, Server, one_by_default, wait_until
from tests.live.streams import check_whole
from tests.live.wire import Client

pytestmark = pytest.mark.live

DEADLINE = 1.0
# Beside the deadline for one read there may be one for a write, and the machine is busy with other tests.
SLACK = 3.0
BACK_SECONDS = 15.0
FAILOVER_SECONDS = 20.0
# What projects have that set nothing.
STORE_TIMEOUT = 5.0

# How the database goes away, and how it comes back.
OUTAGES: dict[str, tuple[Callable[[Gate], None], Callable[[Gate], None]]] = {
    "refused": (Gate.refuse, Gate.restore),
    "frozen": (Gate.freeze, Gate.thaw),
    "lost": (Gate.freeze, Gate.forget),
}


@pytest.fixture
def gate(database: Database) -> Iterator[Gate]:
    if database.vendor == "sqlite":
        pytest.skip("SQLite has no connection to cut: set DATABASE_URL to a PostgreSQL or MariaDB server")
    if database.address is None:
        pytest.skip("DATABASE_URL names no host, so nothing can stand in between: write one, 127.0.0.1 for example")
    with Gate(database.address) as gate:
        yield gate


@pytest.fixture
def serve_through(gate: Gate, database: Database, serve: Serve) -> Callable[..., Server]:
    """Start a server that reaches its database through the gate."""

    def start(kind: str = "uvicorn", entry: str = "native", deadline: float = DEADLINE) -> Server:
        return serve(
            kind,
            entry,
            database_url=database.url_through(gate.port),
            may_log_tracebacks=True,
            LIVE_STORE_TIMEOUT=str(deadline),
        )

    return start


def timed(function: Callable[[], httpx.Response]) -> tuple[httpx.Response, float]:
    started = time.monotonic()
    response = function()
    return response, time.monotonic() - started


def every_path(client: Client) -> dict[str, Callable[[], httpx.Response]]:
    """All that a client can send which needs the store."""
    return {
        "initialize": Client(client.server).handshake,
        "call": lambda: client.post_call("add", a=1, b=2),
        "call that uses the database": lambda: client.post_call("count"),
        "list": lambda: client.post("tools/list"),
        "ping": lambda: client.post("ping"),
        "setLevel": lambda: client.post("logging/setLevel", {"level": "error"}),
        "initialized": lambda: client.notify("notifications/initialized"),
        "DELETE": client.delete,
    }


def check_unavailable(client: Client, seconds: float = DEADLINE + SLACK) -> None:
    """Every path, all at once: 503, told when to come again, in time, and no id."""
    paths = every_path(client)
    with ThreadPoolExecutor(len(paths)) as pool:
        answers = dict(zip(paths, pool.map(timed, paths.values()), strict=True))
    for path, (response, elapsed) in answers.items():
        assert response.status_code == 503, (path, response.status_code, response.text)
        assert int(response.headers["retry-after"]) > 0, path
        assert "mcp-session-id" not in response.headers, path
        assert elapsed < seconds, f"{path} took {elapsed:.1f} s"


def check_back(client: Client, count: int) -> None:
    """Business as usual soon, with not one 404 on the way."""

    def answers() -> bool:
        # One that reads and one that writes.
        responses = [client.post_call("add", a=1, b=2), Client(client.server).handshake()]
        for response in responses:
            assert response.status_code in (200, 503), (response.status_code, response.text)
        return all(response.status_code == 200 for response in responses)

    wait_until(answers, "The server goes on after its database is back", BACK_SECONDS)
    assert client.call("count") == {"value": count}
    other = Client(client.server).initialize()
    assert other.call("orm_roundtrip") is not None
    assert other.delete().status_code == 204


@pytest.mark.parametrize("entry", one_by_default(ENTRIES))
@pytest.mark.parametrize("outage", OUTAGES)
def test_a_database_that_is_away_is_a_503_on_every_path_and_forgotten_when_it_is_back(
    outage: str, entry: str, gate: Gate, serve_through: Callable[..., Server]
) -> None:
    server = serve_through(entry=entry)
    client = Client(server).initialize()
    assert client.call("count") == {"value": 1}
    away, back = OUTAGES[outage]

    away(gate)
    check_unavailable(client)
    check_unavailable(client)
    back(gate)

    check_back(client, count=2)
    assert client.delete().status_code == 204


def test_a_session_that_this_process_does_not_hold_is_a_503_too_while_the_database_is_away(
    gate: Gate, serve_through: Callable[..., Server]
) -> None:
    server = serve_through()
    client = Client(server).initialize()
    server.restart()
    stranger = Client(server)
    stranger.session_id = "an-id-that-no-server-ever-gave"
    gate.refuse()
    check_unavailable(client)
    assert stranger.post_call("count").status_code == 503
    gate.restore()
    check_back(client, count=1)
    assert client.call("session_info")["restored"] is True
    assert stranger.post_call("count").status_code == 404


def test_a_server_started_while_its_database_is_away_says_503_and_works_once_it_is_there(
    gate: Gate, serve_through: Callable[..., Server]
) -> None:
    server = serve_through()
    client = Client(server).initialize()
    server.kill()
    gate.refuse()
    server.start()
    check_unavailable(client)
    gate.restore()
    check_back(client, count=1)


def test_an_outage_longer_than_any_number_of_deadlines_is_survived(
    gate: Gate, serve_through: Callable[..., Server]
) -> None:
    # Each deadline may leave a thread behind that is stuck for ever; there must be one left when it is over.
    server = serve_through(deadline=0.3)
    client = Client(server).initialize()
    gate.freeze()
    for _ in range(12):
        for request in (client.delete, Client(server).handshake):
            response, elapsed = timed(request)
            assert response.status_code == 503
            assert elapsed < DEADLINE + SLACK
    gate.forget()
    check_back(client, count=1)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["daphne", "granian"])
@pytest.mark.parametrize("entry", ENTRIES)
def test_outages_one_after_the_other_are_survived_under_every_server(
    kind: str, entry: str, gate: Gate, serve_through: Callable[..., Server]
) -> None:
    client = Client(serve_through(kind, entry)).initialize()
    for turn in range(6):
        away, back = list(OUTAGES.values())[turn % 3]
        away(gate)
        check_unavailable(client)
        back(gate)
        check_back(client, count=turn + 1)


@pytest.mark.long
@pytest.mark.parametrize("outage", OUTAGES)
def test_a_failover_of_20_seconds_kills_no_running_call(
    outage: str, gate: Gate, serve_through: Callable[..., Server], database: Database
) -> None:
    producer, follower = serve_through(deadline=STORE_TIMEOUT), serve_through(deadline=STORE_TIMEOUT)
    client = Client(producer).initialize()
    client.at(follower).call("session_info")
    away, back = OUTAGES[outage]
    # One is read where it runs, the other elsewhere; a third ends while the database is away.
    here = client.start("slow_progress", "here", steps=30, seconds=6)
    there = client.start("slow_progress", "there", steps=30, seconds=6)
    ending = client.start("slow_progress", "ending", steps=2, seconds=4)
    with here, there, ending:
        got = {"here": here.messages(3), "there": there.messages(3), "ending": ending.messages(1)}
    with client.at(follower).resume(there) as there, client.resume(here) as here, client.resume(ending) as ending:
        for stream in (here, there, ending):
            assert stream.status() == 200
        away(gate)
        # All leases run out meanwhile, and nobody may take anybody for dead over it.
        time.sleep(FAILOVER_SECONDS)
        for stream in (here, there, ending):
            assert not stream.ended
        back(gate)
        returned = time.monotonic()
        got["here"] += here.rest()
        got["there"] += there.rest()
        got["ending"] += ending.rest()
    note(f"{outage}: the last answer {time.monotonic() - returned:.1f} s after the database was back", database)
    for token, messages in got.items():
        check_whole(messages, 2 if token == "ending" else 30, token)
    check_back(client, count=1)


@pytest.mark.parametrize("entry", ENTRIES)
def test_connections_that_the_database_server_ended_are_replaced_and_nobody_notices(
    entry: str, database: Database, serve: Serve
) -> None:
    if database.vendor == "sqlite":
        pytest.skip("SQLite has no server that could end a connection")
    client = Client(serve(entry=entry)).initialize()
    for value in range(1, 6):
        assert client.call("count") == {"value": value}
        assert database.end_connections() > 0
    assert client.call("orm_roundtrip")
    assert client.delete().status_code == 204


def test_a_database_that_takes_no_writes_refuses_what_needs_them_with_503_and_serves_the_rest(
    database: Database, serve: Serve
) -> None:
    if database.vendor != "postgresql":
        pytest.skip("A standby that took over is played with a setting of PostgreSQL's")
    server = serve(may_log_tracebacks=True, LIVE_STORE_TIMEOUT=str(DEADLINE))
    client = Client(server).initialize()
    with read_only(database):
        for request in (Client(server).handshake, client.delete):
            response = request()
            assert response.status_code == 503, response.text
            assert int(response.headers["retry-after"]) > 0
            assert "mcp-session-id" not in response.headers
        assert client.call("add", a=1, b=2) == {"result": 3}
    check_back(client, count=1)


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_store_that_fails_is_a_503_on_every_path_and_leaks_no_id(
    entry: str, database: Database, serve: Serve
) -> None:
    # The database answers, but with errors: a table is missing, as during a botched deploy.
    server = serve(entry=entry, may_log_tracebacks=True, LIVE_STORE_TIMEOUT=str(DEADLINE))
    client = Client(server).initialize()
    assert client.call("count") == {"value": 1}
    with renamed(database, "mcp_django_session"):
        check_unavailable(client)
    check_back(client, count=2)


def test_a_failing_initialize_makes_no_session(database: Database, serve: Serve) -> None:
    server = serve(may_log_tracebacks=True, LIVE_STORE_TIMEOUT=str(DEADLINE))
    with renamed(database, "mcp_django_session"):
        client = Client(server, name="never-there")
        for _ in range(5):
            response = client.handshake()
            assert (response.status_code, response.headers.get("mcp-session-id")) == (503, None)
    assert database.sessions_of("never-there") == 0


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_sqlite_file_that_somebody_else_keeps_locked_refuses_writes_with_503_and_serves_reads(
    entry: str, database: Database, serve: Serve
) -> None:
    if database.vendor != "sqlite":
        pytest.skip("Locks of a whole database are SQLite's")
    server = serve(entry=entry, may_log_tracebacks=True, LIVE_STORE_TIMEOUT=str(DEADLINE))
    client = Client(server).initialize()
    assert client.call("count") == {"value": 1}
    other = database.connect()
    try:
        other.execute("BEGIN IMMEDIATE")
        for path, request in {"initialize": Client(server).handshake, "DELETE": client.delete}.items():
            response, elapsed = timed(request)
            assert response.status_code == 503, (path, response.status_code, response.text)
            assert int(response.headers["retry-after"]) > 0
            assert "mcp-session-id" not in response.headers
            assert elapsed < DEADLINE + SLACK
        # The write-ahead log lets readers go on.
        assert client.call("add", a=1, b=2) == {"result": 3}
    finally:
        other.rollback()
        other.close()
    wait_until(lambda: Client(server).handshake().status_code == 200, "initialize works again", BACK_SECONDS)


@contextmanager
def read_only(database: Database) -> Iterator[None]:
    """All connections are ended, and new ones may only read."""
    setting = f"ALTER DATABASE {database.settings['NAME']} SET default_transaction_read_only"
    database.rows(f"{setting} = on")
    database.end_connections()
    try:
        yield
    finally:
        # This connection may only read as well, unless its transaction says otherwise.
        database.rows(f"BEGIN READ WRITE; {setting} = off; COMMIT")
        database.end_connections()


@contextmanager
def renamed(database: Database, table: str) -> Iterator[None]:
    """A table is out of the way for a while."""
    database.rows(f"ALTER TABLE {table} RENAME TO {table}_away")
    try:
        yield
    finally:
        database.rows(f"ALTER TABLE {table}_away RENAME TO {table}")
