"""A server is killed and started again: what its sessions know afterwards."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import product

import httpx
import pytest

from tests.live.databases import Database
from tests.live.fixtures import Serve, serving
from tests.live.servers import ENTRIES, KINDS, Server, one_by_default, some_by_default, wait_until
from tests.live.wire import LIVE, Client, all_at_once, error_code

pytestmark = pytest.mark.live


PROMPT_SECONDS = 5.0


BY_DEFAULT = {("uvicorn", "native"), ("uvicorn", "view"), ("daphne", "view"), ("granian", "native")}


@pytest.fixture(scope="module", params=some_by_default(product(KINDS, ENTRIES), BY_DEFAULT), ids="-".join)
def each(
    request: pytest.FixtureRequest, database: Database, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Every server with either entry."""
    with serving(database, tmp_path_factory.mktemp("each")) as start:
        yield start(*request.param)


@pytest.fixture(scope="module")
def server(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that do not ask for more; each of them kills and starts it."""
    with serving(database, tmp_path_factory.mktemp("server")) as start:
        yield start()


def test_a_session_survives_kill_9_with_its_state_and_knows_that_it_was_restored(
    each: Server, database: Database
) -> None:
    client = Client(each).initialize()
    before = client.call("session_info")
    assert client.call("count") == {"value": 1}
    assert (before["restored"], before["restore_count"]) == (False, 0)

    each.restart()

    after = client.call("session_info")
    assert (after["restored"], after["restore_count"]) == (True, 1)
    assert client.call("count") == {"value": 2}
    assert after["pid"] != before["pid"]
    for kept in ("session_id", "protocol_version", "client_name", "user"):
        assert after[kept] == before[kept]
    assert database.session(client.session_id or "", "status", "restore_count") == ("active", 1)


def test_a_server_told_to_stop_ends_soon_and_leaves_its_sessions_alive(each: Server, database: Database) -> None:
    clients = all_at_once(8, lambda _: Client(each).initialize())
    # Connections are kept open by the client, threads and lanes of the server are warm.
    assert all_at_once(8, lambda index: clients[index].call("count")) == [{"value": 1}] * 8
    clients[0].call("orm_roundtrip")

    assert each.terminate() < PROMPT_SECONDS

    for client in clients:
        assert database.session(client.session_id or "", "status", "end_reason") == ("active", "")
    each.start()
    assert clients[0].call("session_info")["restored"] is True
    assert clients[0].call("count") == {"value": 2}


def test_sessions_survive_with_the_versions_they_negotiated(server: Server) -> None:
    versions = ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"]
    clients = [Client(server, version=version).initialize() for version in versions]
    before = [client.call("session_info")["protocol_version"] for client in clients]
    server.restart()
    after = [client.call("session_info") for client in clients]
    assert [answer["protocol_version"] for answer in after] == before == [each.version for each in clients]
    assert {answer["restored"] for answer in after} == {True}


def test_a_session_that_ended_stays_ended_after_a_restart(server: Server, database: Database) -> None:
    client = Client(server).initialize()
    assert client.delete().status_code == 204
    server.restart()
    assert client.post_call("count").status_code == 404
    assert database.session(client.session_id or "", "status", "restore_count") == ("terminated", 0)


def test_a_notification_restores_a_session_as_well_as_a_call_does(server: Server) -> None:
    client = Client(server).initialize()
    server.restart()
    response = client.notify("notifications/roots/list_changed")
    assert (response.status_code, response.content) == (202, b"")
    assert client.call("session_info")["restored"] is True


def test_a_session_killed_between_initialize_and_initialized_can_go_on(server: Server, database: Database) -> None:
    client = Client(server)
    client.session_id = client.handshake().headers["mcp-session-id"]
    server.restart()
    assert database.session(client.session_id, "initialized_at") == (None,)
    assert client.notify("notifications/initialized").status_code == 202
    assert client.call("session_info")["restored"] is True
    assert database.session(client.session_id, "initialized_at") != (None,)


@pytest.mark.parametrize("entry", one_by_default(ENTRIES))
def test_without_a_durable_store_a_session_is_gone_after_a_restart_and_a_new_one_works(
    entry: str, serve: Serve
) -> None:
    server = serve(entry=entry, SESSION_STORE="memory")
    client = Client(server).initialize()
    assert client.call("count") == {"value": 1}
    assert client.call("count") == {"value": 2}

    server.restart()

    response = client.post_call("count")
    assert response.status_code == 404
    assert error_code(response) == -32001
    assert Client(server).initialize().call("count") == {"value": 1}


@pytest.mark.parametrize("entry", one_by_default(ENTRIES))
def test_clients_that_leave_while_their_session_is_restored_take_no_other_request_down(
    entry: str, serve: Serve
) -> None:
    server = serve(entry=entry)
    name = f"slow-{uuid.uuid4().hex[:12]}"
    client = Client(server, path=LIVE, name=name).initialize()
    server.restart()
    other = Client(server, path=LIVE).initialize()
    body = client.message("tools/call", {"name": "recall", "arguments": {"key": "k"}})

    def leave(_: int) -> None:
        with (
            httpx.Client(base_url=server.url(), trust_env=False) as impatient,
            pytest.raises(httpx.ReadTimeout),
        ):
            impatient.post(LIVE, headers=client.headers(), json=body, timeout=0.5)

    with ThreadPoolExecutor(1) as pool:
        all_at_once(4, leave)
        stays = pool.submit(client.call, "recall", key="k")
        wait_until(lambda: name in other.call("waiting")["value"], "The restore waits")
        all_at_once(4, leave)
        other.call("let_go", name=name)
        assert stays.result(timeout=30) == {"value": None}


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_a_session_survives_twenty_restarts(kind: str, serve: Serve, database: Database) -> None:
    server = serve(kind)
    client = Client(server).initialize()
    for value in range(1, 21):
        assert client.call("count") == {"value": value}
        server.restart()
    after = client.call("session_info")
    assert (after["restored"], after["restore_count"]) == (True, 1)
    assert client.call("count") == {"value": 21}
    assert database.session(client.session_id or "", "restore_count") == (20,)
