"""Notices raised in a management command, and anywhere else, reach the listeners of every process."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.live.databases import Database
from tests.live.fixtures import serving
from tests.live.measuring import QUIET, report
from tests.live.servers import Server, manage
from tests.live.streams import Stream
from tests.live.wire import LIVE, Client

pytestmark = pytest.mark.live

WATCHED = "test://watched-resource"
TOOLS = "notifications/tools/list_changed"
UPDATED = "notifications/resources/updated"
EVERYTHING_SERVER = "from demo_project.everything.server import everything; import time; "
LIVE_SERVER = "from tests.live.app.server import live; "
ROUNDS = 3


@pytest.fixture(scope="module")
def servers(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    with serving(database, tmp_path_factory.mktemp("servers")) as start:
        yield [start(**QUIET), start(**QUIET), start(entry="view", **QUIET)]


@pytest.fixture
def listening() -> Iterator[ExitStack]:
    """Streams that end with the test."""
    with ExitStack() as stack:
        yield stack


def listen(client: Client, listening: ExitStack) -> Stream:
    """A GET stream that reads: it has an event id."""
    stream = listening.enter_context(client.listen())
    frame = stream.frame()
    assert frame is not None
    assert frame.id
    return stream


def shell(database: Database, code: str) -> str:
    """Run code in a management command: a process that is no server."""
    return manage(database.url, "shell", "--verbosity", "0", "-c", code)


def test_a_changed_list_raised_in_a_management_command_reaches_the_listeners_of_every_process(
    servers: list[Server], database: Database, listening: ExitStack
) -> None:
    clients = [Client(server).initialize() for server in servers for _ in range(2)]
    streams = [listen(client, listening) for client in clients]
    times = []
    for _turn in range(ROUNDS):
        raised = float(
            shell(database, EVERYTHING_SERVER + "everything.notify_tools_changed(); print(time.monotonic())")
        )
        for stream in streams:
            assert stream.next()["method"] == TOOLS
        times.append(time.monotonic() - raised)
    report("raised in a command to the last of 6 listeners on 3 processes", times, database)
    # Each heard each of them once.
    assert [stream.arrived() for stream in streams] == [[]] * len(streams)


def test_a_notice_is_for_the_sessions_of_its_server(
    servers: list[Server], database: Database, listening: ExitStack
) -> None:
    own = [listen(Client(server).initialize(), listening) for server in servers]
    others = [listen(Client(server, path=LIVE).initialize(), listening) for server in servers]
    shell(database, EVERYTHING_SERVER + "everything.notify_prompts_changed()")
    assert {stream.next()["method"] for stream in own} == {"notifications/prompts/list_changed"}
    shell(database, LIVE_SERVER + "live.notify_tools_changed()")
    # Had they heard of the other server, then before this.
    assert {stream.next()["method"] for stream in others} == {TOOLS}


def test_a_resource_subscribed_to_on_one_process_is_heard_of_on_another(
    servers: list[Server], database: Database, listening: ExitStack
) -> None:
    clients = [Client(server).initialize() for server in servers]
    for client in clients[:2]:
        client.at(servers[2]).request("resources/subscribe", {"uri": WATCHED})
    streams = [listen(client, listening) for client in clients]
    updated = f"everything.notify_resource_updated({WATCHED!r}); "
    shell(database, EVERYTHING_SERVER + updated + "everything.notify_tools_changed()")
    heard = [[stream.next()["method"]] for stream in streams]
    for stream, methods in zip(streams, heard, strict=True):
        if methods != [TOOLS]:
            methods.append(stream.next()["method"])
    assert heard == [[UPDATED, TOOLS], [UPDATED, TOOLS], [TOOLS]]


def test_a_subscription_made_while_the_stream_is_open_elsewhere_counts(
    servers: list[Server], database: Database, listening: ExitStack
) -> None:
    client = Client(servers[0]).initialize()
    stream = listen(client, listening)
    client.at(servers[1]).request("resources/subscribe", {"uri": WATCHED})
    shell(database, EVERYTHING_SERVER + f"everything.notify_resource_updated({WATCHED!r})")
    message = stream.next()
    assert (message["method"], message["params"]) == (UPDATED, {"uri": WATCHED})
    client.at(servers[2]).request("resources/unsubscribe", {"uri": WATCHED})
    shell(database, EVERYTHING_SERVER + f"everything.notify_resource_updated({WATCHED!r})")
    shell(database, EVERYTHING_SERVER + "everything.notify_tools_changed()")
    assert stream.next()["method"] == TOOLS


def test_one_sessions_notification_from_a_command_reaches_that_session_alone_and_waits_for_it(
    servers: list[Server], database: Database, listening: ExitStack
) -> None:
    client, other = Client(servers[0], path=LIVE).initialize(), Client(servers[0], path=LIVE).initialize()
    key = client.call("session_key")["result"]
    elicitation = uuid.uuid4().hex
    post = f"live.notify_session({key!r}, 'notifications/elicitation/complete', {{'elicitationId': {elicitation!r}}})"
    # Nobody listens yet.
    shell(database, LIVE_SERVER + post)
    streams = [listen(client.at(servers[1]), listening), listen(other, listening)]
    assert streams[0].next()["params"] == {"elicitationId": elicitation}
    shell(database, LIVE_SERVER + post)
    assert streams[0].next()["params"] == {"elicitationId": elicitation}
    shell(database, LIVE_SERVER + "live.notify_tools_changed()")
    assert [stream.next()["method"] for stream in streams] == [TOOLS, TOOLS]


def test_a_listener_that_was_away_is_told_on_another_process_that_something_changed(
    servers: list[Server], database: Database, listening: ExitStack
) -> None:
    client = Client(servers[0]).initialize()
    stream = listen(client, listening)
    stream.close()
    shell(database, EVERYTHING_SERVER + "everything.notify_tools_changed(); everything.notify_tools_changed()")
    resumed = listening.enter_context(client.at(servers[1]).resume(stream))
    assert resumed.next()["method"] == TOOLS
    shell(database, EVERYTHING_SERVER + "everything.notify_prompts_changed()")
    assert resumed.next()["method"] == "notifications/prompts/list_changed"


def test_a_notice_in_a_transaction_that_is_rolled_back_is_never_raised(
    servers: list[Server], database: Database, listening: ExitStack
) -> None:
    stream = listen(Client(servers[0]).initialize(), listening)
    code = """
from django.db import transaction
from demo_project.everything.server import everything
try:
    with transaction.atomic():
        everything.notify_tools_changed()
        raise KeyError
except KeyError:
    pass
with transaction.atomic():
    everything.notify_prompts_changed()
"""
    shell(database, code)
    assert stream.next()["method"] == "notifications/prompts/list_changed"
