"""Official clients against a real server; what they send is up to them."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.drivers import CLIENTS, ClientError, Driver
from tests.live.databases import Database
from tests.live.fixtures import Serve, serving
from tests.live.servers import ENTRIES, KINDS, Server, one_by_default
from tests.live.wire import EVERYTHING

pytestmark = [pytest.mark.live, pytest.mark.clients]


@pytest.fixture(scope="module")
def servers(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], Server]]:
    """Servers by kind and entry, kept for all clients of this module."""
    with serving(database, tmp_path_factory.mktemp("servers")) as start:
        yield Started(start)


class Started(dict[tuple[str, str], Server]):
    def __init__(self, start: Serve) -> None:
        super().__init__()
        self.start = start

    def __missing__(self, key: tuple[str, str]) -> Server:
        server = self[key] = self.start(*key)
        return server


@pytest.fixture(scope="module")
def forgetful(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server without a durable store."""
    with serving(database, tmp_path_factory.mktemp("forgetful")) as start:
        yield start(SESSION_STORE="memory")


@pytest.fixture(params=CLIENTS)
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Driver]:
    with CLIENTS[request.param](tmp_path / "client.err") as driver:
        yield driver


@pytest.fixture
def name() -> str:
    """A client name of this test alone, by which its sessions can be counted."""
    return f"client-{uuid.uuid4().hex[:12]}"


@pytest.mark.parametrize("entry", one_by_default(ENTRIES))
@pytest.mark.parametrize("kind", one_by_default(KINDS))
def test_a_client_goes_on_after_the_server_was_killed_and_does_not_initialize_again(
    client: Driver,
    name: str,
    kind: str,
    entry: str,
    servers: dict[tuple[str, str], Server],
    database: Database,
) -> None:
    server = servers[kind, entry]
    client.connect(server.url(EVERYTHING), name)
    before = client.call("session_info")
    server.secrets.add(before["session_id"])
    assert client.call("count") == {"value": 1}
    assert before["restored"] is False

    server.restart()

    after = client.call("session_info")
    assert after["restored"] is True
    assert after["restore_count"] == 1
    assert after["pid"] != before["pid"]
    assert after["session_id"] == before["session_id"]
    assert after["client_name"] == name
    assert client.call("count") == {"value": 2}
    assert database.sessions_of(name) == 1


@pytest.mark.long
def test_a_client_goes_on_through_twenty_restarts(
    client: Driver, name: str, servers: dict[tuple[str, str], Server], database: Database
) -> None:
    server = servers["uvicorn", "native"]
    client.connect(server.url(EVERYTHING), name)
    for value in range(1, 21):
        assert client.call("count") == {"value": value}
        server.restart()
    assert client.call("count") == {"value": 21}
    assert database.sessions_of(name) == 1


def test_a_client_that_gets_errors_keeps_its_connection(
    client: Driver, name: str, servers: dict[tuple[str, str], Server], database: Database
) -> None:
    # Wire rule 1: the Python client 1.x gives up its connection at any 4xx or 5xx.
    client.connect(servers["uvicorn", "native"].url(EVERYTHING), name)
    assert client.call("count") == {"value": 1}
    assert "nowhere" in client.refused("read", uri="nowhere://nothing")
    assert "no_such_prompt" in client.refused("prompt", name="no_such_prompt")
    assert "no_such_tool" in client.refused("call", name="no_such_tool", arguments={})
    assert "add" in client.refused("call", name="add", arguments={"a": "no number"})
    assert client.call("count") == {"value": 2}
    assert database.sessions_of(name) == 1


def test_a_client_that_closes_ends_its_session(
    client: Driver, name: str, servers: dict[tuple[str, str], Server], database: Database
) -> None:
    client.connect(servers["uvicorn", "native"].url(EVERYTHING), name)
    session_id = client.call("session_info")["session_id"]
    servers["uvicorn", "native"].secrets.add(session_id)
    assert database.session(session_id, "status") == ("active",)
    client.close()
    assert database.session(session_id, "status") == ("terminated",)


def test_a_client_told_that_its_session_is_gone_can_begin_another(
    client: Driver, name: str, database: Database, forgetful: Server
) -> None:
    client.connect(forgetful.url(EVERYTHING), name)
    assert client.call("count") == {"value": 1}
    forgetful.restart()
    with pytest.raises(ClientError, match=r"(?i)session"):
        client.call("count")
    client.connect(forgetful.url(EVERYTHING), name)
    assert client.call("count") == {"value": 1}
    assert database.sessions_of(name) == 0
