"""Calls run in parallel with a database connection each, and give it back."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from functools import partial

import pytest

from tests.live.databases import Database
from tests.live.fixtures import serving
from tests.live.servers import ENTRIES, KINDS, Server, one_by_default, wait_until
from tests.live.wire import EVERYTHING, LIVE, Client, all_at_once

pytestmark = pytest.mark.live

CALLS = 64


@pytest.fixture(scope="module", params=one_by_default(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=ENTRIES)
def server(
    kind: str, request: pytest.FixtureRequest, database: Database, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    with serving(database, tmp_path_factory.mktemp("server")) as start:
        yield start(kind, request.param)


def check_given_back(database: Database, before: int) -> None:
    if database.vendor == "postgresql":
        wait_until(
            lambda: database.server_connections() <= before,
            f"The number of connections is back at {before}",
        )


def meet(server: Server, database: Database, tool: str, calls: int, *, one_session: bool) -> None:
    session = Client(server, path=LIVE).initialize()
    clients = [session if one_session else Client(server, path=LIVE).initialize() for _ in range(calls)]
    session.call(tool, party=uuid.uuid4().hex, size=1)
    before = database.server_connections() if database.vendor == "postgresql" else 0
    party = uuid.uuid4().hex
    answers = all_at_once(calls, lambda index: clients[index].call(tool, party=party, size=calls))
    assert len(answers) == calls
    assert len({answer["rows"] for answer in answers}) == 1
    check_given_back(database, before)


@pytest.mark.parametrize("tool", ["meet_async", "meet_sync"])
def test_64_calls_of_one_session_query_the_database_at_the_same_time_and_leave_no_connection(
    tool: str, server: Server, database: Database
) -> None:
    meet(server, database, tool, CALLS, one_session=True)


@pytest.mark.parametrize("tool", ["meet_async", "meet_sync"])
def test_calls_of_many_sessions_query_the_database_at_the_same_time_and_leave_no_connection(
    tool: str, server: Server, database: Database
) -> None:
    meet(server, database, tool, CALLS // 2, one_session=False)


def test_64_round_trips_of_the_demo_leave_no_connection(server: Server, database: Database) -> None:
    client = Client(server, path=EVERYTHING).initialize()
    first = client.call("orm_roundtrip")
    before = database.server_connections() if database.vendor == "postgresql" else 0
    assert all_at_once(CALLS, lambda _: client.call("orm_roundtrip")) == [first] * CALLS
    check_given_back(database, before)


def meet_one(client: Client, tool: str, party: str, _: int) -> None:
    client.call(tool, party=party, size=CALLS)


@pytest.mark.long
def test_many_rounds_leave_no_connection(server: Server, database: Database) -> None:
    client = Client(server, path=LIVE).initialize()
    client.call("meet_sync", party=uuid.uuid4().hex, size=1)
    before = database.server_connections() if database.vendor == "postgresql" else 0
    for turn in range(20):
        party = uuid.uuid4().hex
        tool = ("meet_async", "meet_sync")[turn % 2]
        all_at_once(CALLS, partial(meet_one, client, tool, party))
    check_given_back(database, before)
