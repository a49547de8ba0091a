"""A hundred thousand sessions that one address opens without end: rows and memory are bounded, nobody else notices."""

from __future__ import annotations

import asyncio
import json
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live.databases import Database, scratch_database
from tests.live.fixtures import Serve
from tests.live.measuring import QUIET, note
from tests.live.servers import Server, manage
from tests.live.wire import EVERYTHING, LIVE, Client

pytestmark = [pytest.mark.live, pytest.mark.long]

COUNT = 100_000
CONNECTIONS = 16
ALLOWED = 1000
FLAT = 1.1
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "flood", "version": "1"}},
}


@pytest.fixture
def own_database(tmp_path: Path) -> Iterator[Database]:
    """A database that no other test has left rows in."""
    with scratch_database(tmp_path) as scratch:
        manage(scratch.url, "migrate", "--verbosity", "0")
        yield scratch


async def flood(server: Server, address: str, count: int) -> list[int]:
    """Open sessions as fast as the server lets one; returns the statuses."""
    body = json.dumps(INITIALIZE).encode()
    head = (
        f"POST {EVERYTHING} HTTP/1.1\r\nHost: 127.0.0.1:{server.port}\r\nX-Forwarded-For: {address}\r\n"
        "Accept: application/json, text/event-stream\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    statuses: list[int] = []

    async def one_after_the_other(times: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for _ in range(times):
            writer.write(head.encode() + body)
            answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            statuses.append(int(answer.split()[1]))
            length = next(line for line in answer.lower().split("\r\n") if line.startswith("content-length"))
            await reader.readexactly(int(length.partition(":")[2]))
        writer.close()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(CONNECTIONS):
            tasks.create_task(one_after_the_other(count // CONNECTIONS))
    return statuses


def test_an_address_that_opens_sessions_without_end_harms_nobody_else(serve: Serve, own_database: Database) -> None:
    server = serve(
        database_url=own_database.url, **QUIET, LIVE_TRUSTED_PROXIES="127.0.0.1", LIVE_ADDRESS_SESSIONS=str(ALLOWED)
    )
    bystanders = [Client(server).initialize(), Client(server, path=LIVE, token="live-token-bystander").initialize()]
    memory: list[int] = []
    waits: list[float] = []
    ended = threading.Event()

    def stand_by() -> None:
        while not ended.wait(0.25):
            started = time.monotonic()
            bystanders[0].call("count")
            assert bystanders[1].request("ping") == {}
            waits.append(time.monotonic() - started)
            memory.append(server.memory())

    standing_by = threading.Thread(target=stand_by)
    started = time.monotonic()
    standing_by.start()
    try:
        statuses = asyncio.run(flood(server, "192.0.2.66", COUNT))
    finally:
        ended.set()
        standing_by.join()
    elapsed = time.monotonic() - started
    rows = own_database.value("SELECT count(*) FROM mcp_django_session")
    third = len(memory) // 3
    middle, last = statistics.fmean(memory[third : 2 * third]), statistics.fmean(memory[-third:])
    note(
        f"{COUNT} initializes in {elapsed:.0f} s; {rows} rows; memory {middle / 2**20:.0f} MB in the middle third, "
        f"{last / 2**20:.0f} in the last; two calls of others took {statistics.median(waits) * 1000:.0f} ms, "
        f"{max(waits) * 1000:.0f} at most",
        own_database,
    )
    assert statuses.count(200) == COUNT
    assert rows <= 2 * ALLOWED + 2
    assert last < FLAT * middle
    assert bystanders[0].call("count") == {"value": len(waits) + 1}
    assert Client(server).initialize().call("add", a=1, b=2) == {"result": 3}
