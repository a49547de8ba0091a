"""Fifty thousand calls whose clients went away: no memory, no thread and no row is left of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.live.databases import Database, scratch_database
from tests.live.fixtures import Serve
from tests.live.measuring import QUIET, note
from tests.live.servers import manage, wait_until
from tests.live.wire import Client

pytestmark = [pytest.mark.live, pytest.mark.long]

CALLS = 50_000
ROUND = 1000
SESSIONS = 64
WORKERS = 16
FLAT = 1.1


@pytest.fixture
def own_database(tmp_path: Path) -> Iterator[Database]:
    """A database that no other test has left rows in."""
    with scratch_database(tmp_path) as scratch:
        manage(scratch.url, "migrate", "--verbosity", "0")
        yield scratch


def break_off(client: Client) -> None:
    """Begin a call and go away with the first bytes of its answer."""
    with client.start("slow_progress", "token", steps=2, seconds=0) as stream:
        stream.take(1)


def test_broken_connections_leave_nothing_behind(serve: Serve, own_database: Database) -> None:
    server = serve(database_url=own_database.url, **QUIET)
    clients = [Client(server).initialize() for _ in range(SESSIONS)]
    memory: list[int] = []
    started = time.monotonic()
    with ThreadPoolExecutor(WORKERS) as pool:
        for begin in range(0, CALLS, ROUND):
            list(pool.map(break_off, (clients[number % SESSIONS] for number in range(begin, begin + ROUND))))
            memory.append(server.memory())
    elapsed = time.monotonic() - started
    third = len(memory) // 3
    middle, last = statistics.fmean(memory[third : 2 * third]), statistics.fmean(memory[-third:])
    note(
        f"{CALLS} broken calls in {elapsed:.0f} s; memory {memory[0] / 2**20:.0f} MB after the first thousand, "
        f"{middle / 2**20:.0f} in the middle third, {last / 2**20:.0f} in the last; {server.threads()} threads",
        own_database,
    )
    assert last < FLAT * middle

    def rows(table: str) -> int:
        return int(own_database.value(f"SELECT count(*) FROM mcp_django_{table}"))

    # The calls went on without their clients: each has come to its end.
    unfinished = "SELECT count(*) FROM mcp_django_stream WHERE finished_at IS NULL"
    wait_until(lambda: own_database.value(unfinished) == 0, "All calls are over")
    assert (rows("stream"), rows("event")) == (CALLS, 3 * CALLS)

    started = time.monotonic()
    print(manage(own_database.url, "clearmcpsessions", LIVE_STREAM_RETENTION="0.001"))
    note(f"pruned in {time.monotonic() - started:.1f} s", own_database)
    assert (rows("stream"), rows("event")) == (0, 0)
    assert rows("session") == SESSIONS
    assert clients[0].call("add", a=1, b=2) == {"result": 3}
