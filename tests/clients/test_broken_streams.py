"""Official clients whose streams break: they come back on their own, to another process, and miss nothing.

Between them and two servers is a balancer that breaks connections. Two limits are the clients' own, in the Python
clients (`mcp/client/streamable_http.py`, 1.30 and 2.3), and only where a connection is cut instead of ended:

- `_handle_reconnection` goes back to the event id that the broken connection had begun with, so what came over that
  one is seen twice;
- `handle_get_stream` counts two such breaks over the life of a session and then stops listening.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from itertools import pairwise
from typing import Any, Literal, get_args

import pytest

from tests.clients.balancer import Balancer, How, Visit
from tests.clients.drivers import CLIENTS, ClientError, Driver
from tests.live import wire
from tests.live.databases import Database
from tests.live.fixtures import serving
from tests.live.servers import Server, one_by_default, wait_until
from tests.live.wire import EVERYTHING

pytestmark = [pytest.mark.live, pytest.mark.clients]

LIST_CHANGED = ["notifications/tools/list_changed"]
ASKED = ["asked", "What is your name?"]
SILENCE = 0.8  # more than a client waits between two tries, see tests.clients.settings
TRIES = 2  # how often each of the clients tries to come back before it gives up


@pytest.fixture(scope="module")
def servers(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    with serving(database, tmp_path_factory.mktemp("servers")) as start:
        yield [start(DJANGO_SETTINGS_MODULE="tests.clients.settings") for _ in range(2)]


@pytest.fixture
def balancer(servers: list[Server]) -> Iterator[Balancer]:
    with Balancer(servers) as balancer:
        yield balancer
    for server in servers:
        server.secrets |= {balancer.session_id} - {""}


@pytest.fixture(scope="module", params=CLIENTS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def driver(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Driver]:
    with CLIENTS[kind](tmp_path_factory.mktemp(kind) / "client.err") as driver:
        yield driver


@pytest.fixture
def client(driver: Driver, balancer: Balancer) -> Iterator[Driver]:
    """A client process, kept for all tests; each begins a session of its own."""
    yield driver
    # Where the session has ended already, the client says so.
    with suppress(ClientError):
        driver.close()


def connect(client: Driver, balancer: Balancer) -> None:
    client.connect(balancer.url(EVERYTHING), f"client-{uuid.uuid4().hex[:12]}")
    balancer.wait_for("standalone", 1)


@contextmanager
def down(servers: list[Server], visit: Visit, end: Literal["kill", "terminate"]) -> Iterator[list[Server]]:
    """The other servers, while the one that a request went to is down."""
    (gone,) = [server for server in servers if server.port == visit.port]
    getattr(gone, end)()
    try:
        yield [server for server in servers if server is not gone]
    finally:
        gone.start()


def may_repeat(kind: str, how: How) -> bool:
    return kind.startswith("python") and how == "cut"


def has_heard(client: Driver, times: int) -> bool:
    """Whether that is all that the client heard: so many times that the tools changed."""
    return bool(client.ask("seen") == [LIST_CHANGED] * times)


def progress(*steps: int) -> list[list[Any]]:
    return [["progress", step] for step in steps]


@contextmanager
def calling(client: Driver, *, steps: int, seconds: float, patience: float = 60) -> Iterator[Future[Any]]:
    """A call of slow_progress that runs while the test does something else."""
    arguments = {"steps": steps, "seconds": seconds}
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(client.ask, "call", name="slow_progress", arguments=arguments, seconds=patience)


def changed_places(connections: list[Visit]) -> bool:
    return all(one.port != other.port for one, other in pairwise(connections))


@pytest.mark.parametrize("how", get_args(How))
def test_a_call_whose_stream_breaks_twice_is_heard_to_its_end(
    client: Driver, kind: str, balancer: Balancer, how: How
) -> None:
    connect(client, balancer)
    balancer.will_break("call", how, 3, 3)

    assert client.call("slow_progress", steps=9, seconds=1.2) == {"steps": 9}

    once = progress(*range(1, 10))
    # A Python client asks for what came after step 3 at both times.
    repeated = progress(1, 2, 3, 4, 5, 6, 4, 5, 6, 7, 8, 9)
    assert client.ask("seen") in ([once, repeated] if may_repeat(kind, how) else [once])
    connections = balancer.of("call")
    assert [each.method for each in connections] == ["POST", "GET", "GET"]
    assert [each.broken for each in connections] == [how, how, None]
    assert changed_places(connections)


@pytest.mark.parametrize("how", one_by_default(get_args(How)))
def test_a_question_is_heard_and_answered_over_a_stream_that_breaks_before_and_after_it(
    client: Driver, kind: str, balancer: Balancer, how: How
) -> None:
    connect(client, balancer)
    balancer.will_break("call", how, 0, 1)

    assert client.call("ask_name") == {"action": "accept", "name": "Ada"}

    # A Python client hears the question again, and answers again; the second answer changes nothing.
    assert client.ask("seen") in ([[ASKED], [ASKED, ASKED]] if may_repeat(kind, how) else [[ASKED]])
    connections = balancer.of("call")
    assert [each.broken for each in connections] == [how, how, None]
    assert changed_places(connections)


def test_a_stream_that_the_server_closes_is_polled_for_its_end(client: Driver, balancer: Balancer) -> None:
    connect(client, balancer)
    result = client.ask("call", name="test_reconnection", arguments={})
    assert result["content"][0]["text"] == "Reconnection test completed"
    assert client.ask("seen") == progress(0)
    connections = balancer.of("call")
    assert [each.method for each in connections] == ["POST", "GET"]
    assert changed_places(connections)


@pytest.mark.parametrize("how", one_by_default(get_args(How)))
def test_a_standalone_stream_that_breaks_is_resumed_and_hears_what_was_said_meanwhile(
    client: Driver, kind: str, balancer: Balancer, servers: list[Server], how: How
) -> None:
    """Twice; once for a Python client whose connection is cut, since at the second time it gives up."""
    breaks = 1 if may_repeat(kind, how) else 2
    balancer.will_break("standalone", how, *[1] * breaks)
    connect(client, balancer)
    other = wire.Client(servers[0]).initialize()

    for number in range(1, breaks + 1):
        other.call("toggle_tool")
        assert balancer.wait_for("standalone", number).over.wait(10)
    # Nobody listens at this moment.
    other.call("toggle_tool")
    wait_until(partial(has_heard, client, breaks + 1), "What was said meanwhile is heard")
    other.call("toggle_tool")
    wait_until(partial(has_heard, client, breaks + 2), "What is said now is heard")

    connections = balancer.of("standalone")
    assert [each.broken for each in connections] == [how] * breaks + [None]
    assert changed_places(connections)


@pytest.mark.parametrize("kind", ["python-2", "python-1"], indirect=True)
def test_a_python_client_that_was_cut_off_twice_goes_on_calling(
    client: Driver, balancer: Balancer, servers: list[Server]
) -> None:
    """It does not listen any more (the second limit above), and does not try for ever."""
    balancer.will_break("standalone", "cut", 1, 1)
    connect(client, balancer)
    other = wire.Client(servers[0]).initialize()
    for number in (1, 2):
        other.call("toggle_tool")
        assert balancer.wait_for("standalone", number).over.wait(10)
    balancer.wait_for_silence(SILENCE, at_most=len(balancer.visits) + TRIES)
    assert client.call("count") == {"value": 1}


def test_a_client_whose_session_was_ended_does_not_come_back_for_ever(
    client: Driver, balancer: Balancer, servers: list[Server]
) -> None:
    """The Python client 2.x is told that its call is lost; the others wait until their own patience ends."""
    connect(client, balancer)
    with calling(client, steps=300, seconds=30, patience=2) as call:
        balancer.wait_for("call", 1, messages=1)
        until_then = len(balancer.visits)
        owner = wire.Client(servers[0])
        owner.session_id = balancer.session_id
        assert owner.delete().status_code == 204
        with pytest.raises(ClientError):
            call.result()
    # The two streams, and the cancellation of a call that nobody waits for any more.
    visits = balancer.wait_for_silence(SILENCE, at_most=until_then + 2 * TRIES + 1)
    assert {visit.status for visit in visits[until_then:]} == {404}


def test_a_client_that_was_answered_with_an_error_does_not_come_back_for_ever(
    client: Driver, kind: str, balancer: Balancer
) -> None:
    """The TypeScript client 1.x takes a stream that ends with an error for one that broke (`_handleSseStream` looks
    for a result), and asks for what comes after the error."""
    connect(client, balancer)
    assert "always fails" in client.refused("call", name="fail_loudly", arguments={})
    balancer.wait_for_silence(SILENCE, at_most=len(balancer.visits) + TRIES)
    statuses = [visit.status for visit in balancer.visits if visit.last_event_id]
    assert set(statuses) <= ({400} if kind == "typescript-1" else set())


@pytest.mark.long
def test_a_call_whose_stream_breaks_at_every_event_is_heard_to_its_end(client: Driver, balancer: Balancer) -> None:
    connect(client, balancer)
    # Each second connection ends before it has brought anything.
    balancer.will_break("call", "ended", *[1, 0] * 12)
    assert client.call("slow_progress", steps=12, seconds=3) == {"steps": 12}
    assert client.ask("seen") == progress(*range(1, 13))
    connections = balancer.of("call")
    assert len(connections) == 25
    assert changed_places(connections)


@pytest.mark.long
@pytest.mark.parametrize("end", ["kill", "terminate"])
def test_a_call_goes_on_when_the_process_that_only_carried_its_stream_ends(
    client: Driver, kind: str, balancer: Balancer, servers: list[Server], end: Literal["kill", "terminate"]
) -> None:
    connect(client, balancer)
    balancer.will_break("call", "ended", 2)
    with calling(client, steps=30, seconds=6) as call, down(servers, balancer.wait_for("call", 2, messages=2), end):
        assert call.result()["structuredContent"] == {"steps": 30}
    steps = [step for _, step in client.ask("seen")]
    assert sorted(set(steps)) == list(range(1, 31))
    assert len(steps) == 30 or may_repeat(kind, "cut" if end == "kill" else "ended")


@pytest.mark.long
@pytest.mark.parametrize("end", ["kill", "terminate"])
def test_a_client_is_told_that_its_call_died_with_its_process(
    client: Driver, balancer: Balancer, servers: list[Server], end: Literal["kill", "terminate"]
) -> None:
    connect(client, balancer)
    balancer.will_break("call", "ended", 2)
    with calling(client, steps=600, seconds=60) as call:
        balancer.wait_for("call", 2, messages=1)
        with down(servers, balancer.of("call")[0], end), pytest.raises(ClientError, match="process"):
            call.result()


@pytest.mark.long
def test_a_client_listens_on_through_a_deploy(client: Driver, balancer: Balancer, servers: list[Server]) -> None:
    connect(client, balancer)
    for number in range(1, len(servers) + 1):
        with down(servers, balancer.of("standalone")[-1], "terminate") as others:
            balancer.wait_for("standalone", number + 1)
            wire.Client(others[0]).initialize().call("toggle_tool")
            wait_until(partial(has_heard, client, number), "What others say is heard")
