"""A session that this process does not have in memory: brought back once, whole, and with a marker that says how."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from mcp.shared.exceptions import MCPError

from mcp_django import RestoreMarker, signals
from mcp_django.models import Process, digest_of
from mcp_django.models import Session as Row
from mcp_django.store import session_store
from tests.protocol.client import Client, together
from tests.protocol.processes import Processes
from tests.protocol.servers import First
from tests.protocol.stage import Stage, until, until_async

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.anyio

CROWD = 64
REPLAY = ["made", "on_initialize", "second on_initialize", "on_initialized", "second on_initialized"]
RESTORE = [*REPLAY, "on_restore", "second on_restore"]


@contextmanager
def listening(signal: Any) -> Iterator[list[tuple[Any, dict[str, Any]]]]:
    """What a signal says, with its sender."""
    heard: list[tuple[Any, dict[str, Any]]] = []

    def listen(sender: Any, signal: Any, **arguments: Any) -> None:
        heard.append((sender, arguments))

    signal.connect(listen)
    try:
        yield heard
    finally:
        signal.disconnect(listen)


# What comes back


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
async def test_after_a_restart_the_next_request_just_works(
    client: Client, server_processes: Processes, version: str
) -> None:
    session = await client.open(version, name="the client")
    await session.request("logging/setLevel", {"level": "warning"})
    assert (await session.call_tool("count"))["content"][0]["text"]
    await server_processes.restart()
    assert (await session.request("ping")).result == {}
    facts = json.loads((await session.call_tool("facts"))["content"][0]["text"])
    assert facts["version"] == version
    assert facts["client"] == "the client"
    assert facts["log_level"] == "warning"
    assert facts["restored"] == {"reason": "restart", "count": 1}
    row = await Row.objects.aget()
    assert row.state == {"count": 1}
    assert (row.status, row.restore_count, row.last_process) == ("active", 1, server_processes.current)


async def test_the_owner_survives_and_the_user_is_looked_up_anew(
    alice: Client, bob: Client, server_processes: Processes
) -> None:
    user = await User.objects.acreate(username="alice")
    session = await alice.open()
    await server_processes.restart()
    assert (await session.of(bob).request("ping")).status == 404
    facts = await session.call("facts")
    assert (facts["user"], facts["user_on_request"]) == ("alice", "alice")
    assert (await Row.objects.aget()).owner_id == user.pk


async def test_the_state_survives_any_number_of_restarts(client: Client, server_processes: Processes) -> None:
    session = await client.open()
    for value in range(1, 5):
        assert await session.call("count") == {"value": value}
        await server_processes.restart()
    assert (await session.call("facts"))["restored"]["count"] == 4


async def test_a_server_that_speaks_other_versions_today_keeps_to_what_the_client_was_told(
    client: Client, server_processes: Processes
) -> None:
    session = await client.open("2025-06-18")
    params = json.dumps({**(await Row.objects.aget()).initialize_params, "protocolVersion": "2099-01-01"})
    await Row.objects.aupdate(initialize_params_json=params)
    await server_processes.restart()
    assert (await session.call("facts"))["version"] == "2025-06-18"


# The replay


async def test_the_handshake_is_replayed_to_a_new_instance_and_then_on_restore_runs(
    client: Client, server_processes: Processes, stage: Stage
) -> None:
    session = await client.open(name="the client")
    await session.call("count")
    stage.events.clear()
    await server_processes.restart()
    await session.call("add", a=1, b=1)
    assert stage.names() == RESTORE
    ((name, marker),) = stage.details("on_initialize")
    assert name == "the client"
    assert isinstance(marker, RestoreMarker)
    assert stage.details("on_initialized") == [marker]
    assert stage.details("on_restore") == [marker]
    assert stage.details("second on_restore") == [1], "A sync hook reads the durable state."
    stage.events.clear()
    await session.call("add", a=1, b=1)
    assert stage.names() == [], "Once restored, the session lives."


async def test_what_never_came_is_not_replayed(client: Client, server_processes: Processes, stage: Stage) -> None:
    session = await client.open(initialized=False)
    stage.events.clear()
    await server_processes.restart()
    await session.request("ping")
    assert "on_initialized" not in stage.names()
    assert stage.details("on_restore")[0].initialized_at is None
    # It comes now, for the first time.
    await session.notify("notifications/initialized")
    assert stage.details("on_initialized") == [None]
    await server_processes.restart()
    await session.request("ping")
    assert stage.count("on_initialized") == 2


async def test_initialized_may_come_to_a_process_that_has_to_restore_first(
    client: Client, server_processes: Processes, stage: Stage
) -> None:
    session = await client.open(initialized=False)
    stage.events.clear()
    await server_processes.another()
    assert (await session.notify("notifications/initialized")).status == 202
    assert stage.count("on_initialized") == 1
    assert (await Row.objects.aget()).initialized_at is not None


async def test_a_live_session_learns_that_initialized_came_to_another_process(
    client: Client, server_processes: Processes, stage: Stage
) -> None:
    session = await client.open(initialized=False)
    first = await server_processes.another()
    await session.notify("notifications/initialized")
    server_processes.become(first)
    stage.events.clear()
    await session.notify("notifications/initialized")
    assert "on_initialized" not in stage.names(), "It had come already."


@pytest.mark.parametrize("method", ["request", "notification", "batch", "delete"])
async def test_any_message_may_be_the_first(
    client: Client, server_processes: Processes, stage: Stage, method: str
) -> None:
    session = await client.open("2025-03-26")
    stage.events.clear()
    await server_processes.restart()
    match method:
        case "request":
            assert (await session.request("ping")).result == {}
        case "notification":
            assert (await session.notify("notifications/cancelled", {"requestId": 1})).status == 202
        case "batch":
            (answer,) = (await session.post([client.message("ping")])).json
            assert answer["result"] == {}
        case _:
            assert (await session.delete()).status == 204
            assert stage.names() == [], "What is to end need not be brought back."
            return
    assert stage.names() == RESTORE


async def test_without_a_durable_store_a_restart_is_a_404_and_a_new_initialize_works(
    client: Client, settings: Settings
) -> None:
    settings.MCP_DJANGO_SESSION_STORE = "mcp_django.memory.MemoryStore"
    session = await client.open()
    for value in (1, 2):
        assert await session.call("count") == {"value": value}
    session_store.cache_clear()
    assert (await session.request("ping")).status == 404
    assert await (await client.open()).call("count") == {"value": 1}
    assert not await Row.objects.aexists()


async def test_in_memory_too_a_session_that_was_evicted_comes_back(client: Client, settings: Settings) -> None:
    settings.MCP_DJANGO_SESSION_STORE = "mcp_django.memory.MemoryStore"
    settings.MCP_DJANGO_LIVE_SESSIONS = 1
    session = await client.open()
    await session.request("logging/setLevel", {"level": "error"})
    assert await session.call("count") == {"value": 1}
    await client.open()
    facts = await session.call("facts")
    assert (facts["restored"], facts["log_level"]) == ({"reason": "evicted", "count": 1}, "error")
    assert await session.call("count") == {"value": 2}
    assert (await session.delete()).status == 204
    assert (await session.request("ping")).status == 404


# The marker


async def test_the_marker_tells_of_a_restart(client: Client, server_processes: Processes, stage: Stage) -> None:
    session = await client.open()
    initialized_at = (await Row.objects.aget()).initialized_at
    before = await server_processes.restart()
    await Row.objects.aupdate(last_seen_at=timezone.now() - timedelta(hours=2))
    await session.request("ping")
    (marker,) = stage.details("on_restore")
    assert marker.session_id == session.id
    assert marker.reason == "restart"
    assert marker.previous_process == str(before)
    assert timedelta(hours=2) <= marker.idle_for < timedelta(hours=2, minutes=1)
    assert (marker.restore_count, marker.process_restore_count) == (1, 1)
    assert marker.initialized_at == initialized_at
    assert session.id not in repr(marker)


async def test_the_marker_tells_of_another_process(client: Client, server_processes: Processes, stage: Stage) -> None:
    session = await client.open()
    before = await server_processes.another()
    await session.request("ping")
    (marker,) = stage.details("on_restore")
    assert (marker.reason, marker.previous_process) == ("other_process", str(before))


async def test_the_marker_tells_of_an_eviction(client: Client, server_processes: Processes, stage: Stage) -> None:
    session = await client.open()
    server_processes.sessions.live.drop(digest_of(session.id))
    await session.request("ping")
    (marker,) = stage.details("on_restore")
    assert (marker.reason, marker.previous_process) == ("evicted", str(server_processes.current))


async def test_a_process_whose_pid_is_gone_counts_as_restarted_even_while_its_lease_runs(
    client: Client, server_processes: Processes, stage: Stage
) -> None:
    session = await client.open()
    before = await server_processes.another()
    finished = await asyncio.create_subprocess_exec("true")
    await finished.wait()
    await Process.objects.filter(pk=before).aupdate(pid=finished.pid)
    await session.request("ping")
    assert stage.details("on_restore")[0].reason == "restart"


async def test_the_marker_counts_the_restores_of_all_processes_and_of_this_one(
    client: Client, server_processes: Processes, stage: Stage
) -> None:
    session = await client.open()
    first = server_processes.current
    for _ in range(2):
        server_processes.sessions.live.drop(digest_of(session.id))
        await session.request("ping")
    await server_processes.another()
    await session.request("ping")
    server_processes.become(first)
    server_processes.sessions.live.drop(digest_of(session.id))
    await session.request("ping")
    counts = [(marker.restore_count, marker.process_restore_count) for marker in stage.details("on_restore")]
    assert counts == [(1, 1), (2, 2), (3, 1), (4, 3)]


async def test_the_marker_is_in_every_call_until_the_session_leaves_memory_again(
    client: Client, server_processes: Processes
) -> None:
    session = await client.open()
    assert (await session.call("facts"))["restored"] is None
    first = await server_processes.another()
    for tool in ("facts", "facts_in_thread", "facts"):
        assert (await session.call(tool))["restored"] == {"reason": "other_process", "count": 1}
    server_processes.become(first)
    assert (await session.call("facts"))["restored"] is None, "The first process has had it all the time."


# One at a time


@pytest.mark.parametrize("hold", ["on_initialize", "second on_restore"])
async def test_many_first_requests_restore_a_session_once(
    client: Client, server_processes: Processes, stage: Stage, hold: str
) -> None:
    session = await client.open()
    stage.events.clear()
    made = First.made
    await server_processes.restart()
    gate = stage.hold(hold)
    with listening(signals.session_restored) as heard:
        exchanges = [session.begin(session.tool("count")) for _ in range(CROWD)]
        await gate.reached()
        gate.open()
        responses = await together(*exchanges)
    values = sorted(response.result["structuredContent"]["value"] for response in responses)
    assert values == list(range(1, CROWD + 1))
    assert stage.names() == RESTORE
    assert First.made == made + 1
    assert gate.arrivals == 1
    assert len(heard) == 1
    assert (await Row.objects.aget()).restore_count == 1


@pytest.mark.parametrize("place", ["on_initialize", "on_initialized", "on_restore", "second on_restore"])
async def test_nothing_of_a_session_can_be_seen_before_its_replay_is_through(
    client: Client, server_processes: Processes, stage: Stage, place: str
) -> None:
    session = await client.open()
    await server_processes.restart()
    gate = stage.hold(place)
    first = session.begin(session.tool("pause", place="first"))
    await gate.reached()
    second = session.begin(session.tool("pause", place="second"))
    # A whole other session goes by meanwhile: this one's restore holds up nobody else. Its own hooks are let be.
    assert (await Client(client.application, "/other/mcp").open()).id
    assert digest_of(session.id) not in server_processes.sessions.live._sessions
    assert not first.task.done()
    assert not second.task.done()
    assert not {"first", "second"} & set(stage.names())
    gate.open()
    assert [response.status for response in await together(first, second)] == [200, 200]
    names = stage.names()
    assert max(index for index, name in enumerate(names) if name in RESTORE) < names.index("first")


async def test_different_sessions_are_restored_side_by_side(
    client: Client, server_processes: Processes, stage: Stage
) -> None:
    sessions = [await client.open() for _ in range(8)]
    await server_processes.restart()
    gate = stage.hold("on_restore")
    exchanges = [session.begin(session.tool("add", a=1, b=1)) for session in sessions]
    await until(lambda: gate.arrivals == len(sessions))
    gate.open()
    assert [response.status for response in await together(*exchanges)] == [200] * len(sessions)


@pytest.mark.parametrize("how", ["disconnect", "abort"])
async def test_a_waiter_that_goes_away_hurts_no_other(
    client: Client, server_processes: Processes, stage: Stage, how: str
) -> None:
    session = await client.open()
    stage.events.clear()
    await server_processes.restart()
    gate = stage.hold("on_restore")
    exchanges = [session.begin(session.tool("count")) for _ in range(3)]
    await gate.reached()
    # The first began the restore, the second waits for it.
    for exchange in exchanges[:2]:
        if how == "abort":
            await exchange.abort()
        else:
            exchange.disconnect()
    gate.open()
    assert (await exchanges[2].response()).status == 200
    assert stage.names() == RESTORE
    assert (await session.request("ping")).result == {}


# Hooks that fail


@pytest.mark.parametrize("hook", ["on_initialize", "second on_initialized", "on_restore", "second on_restore"])
@pytest.mark.parametrize("error", [RuntimeError("the secret reason"), MCPError(-32050, "No room.")], ids=type)
async def test_a_failing_hook_fails_the_request_and_the_next_one_tries_again(
    client: Client, server_processes: Processes, stage: Stage, hook: str, error: Exception
) -> None:
    session = await client.open()
    await session.call("count")
    stage.events.clear()
    await server_processes.restart()
    stage.fail(hook, error)
    message = session.tool("count")
    response = await session.post(message)
    assert response.status == 200
    assert response.json["id"] == message["id"]
    assert response.error["code"] == (-32050 if isinstance(error, MCPError) else -32603)
    assert "secret" not in response.body.decode()
    assert digest_of(session.id) not in server_processes.sessions.live._sessions
    stage.events.clear()
    assert await session.call("count") == {"value": 2}
    assert stage.names() == RESTORE
    row = await Row.objects.aget()
    assert (row.status, row.restore_count) == ("active", 1)


async def test_a_failing_hook_fails_all_who_wait_for_it_each_with_its_own_id(
    client: Client, server_processes: Processes, stage: Stage
) -> None:
    session = await client.open()
    await server_processes.restart()
    gate = stage.hold("on_restore")
    stage.fail("on_restore", RuntimeError("The hook has a bug."))
    messages = [session.tool("count") for _ in range(8)]
    exchanges = [session.begin(message) for message in messages]
    await gate.reached()
    gate.open()
    responses = await together(*exchanges)
    # Who came after the failure was settled has tried again, and been served.
    failed = [response for response in responses if "error" in response.json]
    assert failed
    assert {response.status for response in responses} == {200}
    assert [response.json["id"] for response in responses] == [message["id"] for message in messages]
    assert {response.error["code"] for response in failed} == {-32603}
    assert await session.call("count") == {"value": len(responses) - len(failed) + 1}


async def test_a_failing_hook_is_logged_with_its_cause(
    client: Client, server_processes: Processes, stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    session = await client.open()
    await server_processes.restart()
    stage.fail("on_restore", RuntimeError("The hook has a bug."))
    await session.request("ping")
    assert "The hook has a bug." in caplog.text


async def test_each_request_of_a_batch_hears_of_a_failing_hook(
    client: Client, server_processes: Processes, stage: Stage
) -> None:
    session = await client.open("2025-03-26")
    await server_processes.restart()
    stage.fail("on_restore", RuntimeError("The hook has a bug."))
    messages = [client.message("ping"), {"jsonrpc": "2.0", "method": "notifications/x"}, client.message("ping")]
    response = await session.post(messages)
    assert response.status == 200
    assert [(answer["id"], answer["error"]["code"]) for answer in response.json] == [
        (messages[0]["id"], -32603),
        (messages[2]["id"], -32603),
    ]


@pytest.mark.parametrize("params", ["{}", '{"protocolVersion": 5}', '{"clientInfo": {}}', "[]", "not JSON"])
async def test_params_that_no_longer_parse_end_the_session_and_the_reason_is_kept(
    client: Client, server_processes: Processes, params: str
) -> None:
    session = await client.open()
    await server_processes.restart()
    await Row.objects.aupdate(initialize_params_json=params)
    expected = await client.post(client.message("ping"), session="nobody's")
    assert await session.post(client.message("ping")) == expected
    row = await Row.objects.aget()
    assert row.status == "terminated"
    assert "params" in row.end_reason


# Memory is bounded


async def test_the_least_recently_used_session_makes_room_and_comes_back(client: Client, settings: Settings) -> None:
    settings.MCP_DJANGO_LIVE_SESSIONS = 2
    one, two = await client.open(name="one"), await client.open(name="two")
    await one.request("ping")
    await client.open(name="three")
    assert (await one.call("facts"))["restored"] is None
    assert (await two.call("facts"))["restored"] == {"reason": "evicted", "count": 1}
    # Now the first had to go.
    assert (await two.call("facts"))["restored"]["count"] == 1


async def test_at_most_so_many_sessions_are_held_in_memory(
    client: Client, server_processes: Processes, settings: Settings
) -> None:
    settings.MCP_DJANGO_LIVE_SESSIONS = 3
    sessions = [await client.open() for _ in range(10)]
    assert len(server_processes.sessions.live) == 3
    for session in sessions:
        assert (await session.request("ping")).result == {}
        assert len(server_processes.sessions.live) <= 3


async def test_sessions_that_push_each_other_out_of_memory_are_all_served(client: Client, settings: Settings) -> None:
    settings.MCP_DJANGO_LIVE_SESSIONS = 1
    sessions = [await client.open() for _ in range(8)]
    exchanges = [session.begin(session.tool("count")) for _ in range(4) for session in sessions]
    assert [response.status for response in await together(*exchanges)] == [200] * 32
    for session in sessions:
        assert await session.call("count") == {"value": 5}


async def test_a_session_with_a_running_call_is_not_evicted(client: Client, stage: Stage, settings: Settings) -> None:
    settings.MCP_DJANGO_LIVE_SESSIONS = 1
    session = await client.open()
    instance = await session.call("handled")
    gate = stage.hold("here")
    exchange = session.begin(session.tool("pause", place="here"))
    await gate.reached()
    for _ in range(3):
        await client.open()
    assert await session.call("handled") == instance
    assert (await session.call("facts"))["restored"] is None
    gate.open()
    assert (await exchange.response()).status == 200
    await client.open()
    assert (await session.call("facts"))["restored"]["reason"] == "evicted"


async def test_an_idle_session_leaves_memory_when_another_comes_in(
    client: Client, server_processes: Processes, settings: Settings
) -> None:
    session, busy = await client.open(), await client.open()
    settings.MCP_DJANGO_LIVE_IDLE = timedelta(minutes=10)
    server_processes.sessions.live._sessions[digest_of(session.id)].used -= 601
    await client.open()
    live = server_processes.sessions.live._sessions
    assert digest_of(session.id) not in live
    assert digest_of(busy.id) in live
    assert (await session.call("facts"))["restored"]["reason"] == "evicted"


# The end of a session that is being restored


@pytest.mark.parametrize("place", ["on_initialize", "on_restore"])
async def test_a_session_that_is_deleted_while_it_is_being_restored_stays_dead(
    client: Client, server_processes: Processes, stage: Stage, place: str
) -> None:
    session = await client.open()
    await server_processes.restart()
    gate = stage.hold(place)
    exchange = session.begin(session.tool("count"))
    await gate.reached()
    assert (await session.delete()).status == 204
    gate.open()
    assert (await exchange.response()).status == 404
    assert (await session.request("ping")).status == 404
    assert len(server_processes.sessions.live) == 0
    row = await Row.objects.aget()
    assert (row.status, row.restore_count, row.state) == ("terminated", 0, {})


@pytest.mark.parametrize("attempt", range(5))
async def test_whatever_the_interleaving_nothing_succeeds_after_a_delete(
    client: Client, server_processes: Processes, attempt: int
) -> None:
    session = await client.open()
    await server_processes.restart()
    before = [session.begin(session.tool("count")) for _ in range(attempt * 2)]
    delete = client.exchange("DELETE", headers=client.headers(session.id))
    after = [session.begin(session.tool("count")) for _ in range(attempt * 2)]
    assert (await delete.response()).status == 204
    assert (await session.request("ping")).status == 404
    for response in await together(*before, *after):
        assert response.status in (200, 404)
    assert (await session.request("ping")).status == 404
    assert (await Row.objects.aget()).status == "terminated"


# Signals


async def test_signals_tell_of_the_beginning_the_restore_and_the_end(
    client: Client, server_processes: Processes, stage: Stage
) -> None:
    with (
        listening(signals.session_opened) as opened,
        listening(signals.session_restored) as restored,
        listening(signals.session_ended) as ended,
    ):
        session = await client.open(name="the client")
        await server_processes.restart()
        await session.request("ping")
        await session.request("ping")
        await session.delete()
        await session.delete()
    ((sender, arguments),) = opened
    assert sender.name == "protocol"
    assert arguments["session"].digest == digest_of(session.id)
    ((sender, arguments),) = restored
    assert sender.name == "protocol"
    assert arguments["session"].digest == digest_of(session.id)
    assert [arguments["marker"]] == stage.details("on_restore")
    ((sender, arguments),) = ended
    assert sender.name == "protocol"
    assert arguments["session"] == digest_of(session.id)
    assert arguments["reason"] == (await Row.objects.aget()).end_reason


async def test_a_listener_may_use_the_orm(client: Client) -> None:
    def listen(**kwargs: Any) -> None:
        User.objects.create(username="made by a listener")

    signals.session_opened.connect(listen)
    try:
        await client.open()
    finally:
        signals.session_opened.disconnect(listen)
    assert await User.objects.filter(username="made by a listener").aexists()


async def test_idle_time_shrinks_once_the_session_is_used_again(
    client: Client, server_processes: Processes, stage: Stage
) -> None:
    session = await client.open()
    long_ago = timezone.now() - timedelta(days=3)
    await Row.objects.aupdate(last_seen_at=long_ago, expires_at=long_ago + timedelta(days=14))
    await session.request("ping")
    await until_async(Row.objects.filter(last_seen_at__gt=long_ago).aexists)
    await server_processes.restart()
    await session.request("ping")
    assert stage.details("on_restore")[0].idle_for < timedelta(minutes=1)
