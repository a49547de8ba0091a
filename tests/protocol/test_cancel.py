"""Cancelled calls, and clients that go away in the middle."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from mcp_django.models import Session as Row
from mcp_django.models import Stream
from mcp_django.stream_batches import Append
from mcp_django.stream_store import ORMStreams
from mcp_django.watcher import EVERYTHING
from tests.protocol.client import Client, case, progress_of, together, with_progress
from tests.protocol.layers import Broker
from tests.protocol.processes import Processes
from tests.protocol.stage import Stage, until, until_async

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.anyio

CANCEL = {"jsonrpc": "2.0", "method": "notifications/cancelled"}


@pytest.mark.parametrize("tool", ["pause", "pause_in_thread"])
async def test_a_cancelled_call_is_answered_with_32800_and_http_200(client: Client, stage: Stage, tool: str) -> None:
    session = await client.open()
    gate = stage.hold("here")
    message = session.tool(tool, place="here")
    exchange = session.begin(message)
    await gate.reached()
    response = await session.cancel(message["id"])
    assert (response.status, response.body) == (202, b"")
    response = await exchange.response()
    assert response.status == 200
    assert response.json["id"] == message["id"]
    assert response.error["code"] == -32800
    gate.open()
    await until(lambda: stage.count("left here") == 1)
    assert (await session.request("ping")).result == {}


async def test_a_cancelled_async_call_stops_where_it_stands(client: Client, stage: Stage) -> None:
    session = await client.open()
    gate = stage.hold("here")
    message = session.tool("pause", place="here")
    exchange = session.begin(message)
    await gate.reached()
    await session.cancel(message["id"])
    await exchange.response()
    assert stage.count("left here") == 1, "It was told, and could clean up."
    gate.open()
    assert (await Row.objects.aget()).state == {}


@pytest.mark.parametrize(("sent", "cancelled"), [(7, "7"), ("7", 7), ("seven", "seven"), (0, 0)], ids=repr)
async def test_clients_mix_numbers_and_strings_and_mean_one_id(
    client: Client, stage: Stage, sent: Any, cancelled: Any
) -> None:
    session = await client.open()
    gate = stage.hold("here")
    exchange = session.begin(session.tool("pause", place="here") | {"id": sent})
    await gate.reached()
    await session.cancel(cancelled)
    response = await exchange.response()
    assert response.json["id"] == sent
    assert response.error["code"] == -32800


async def test_only_the_named_call_is_cancelled(client: Client, stage: Stage) -> None:
    session = await client.open()
    one, two = stage.hold("one"), stage.hold("two")
    first, second = session.tool("pause", place="one"), session.tool("pause", place="two")
    exchanges = [session.begin(first), session.begin(second)]
    await one.reached()
    await two.reached()
    nobodies: list[Any] = [999, "nobody", None, {}, [first["id"]], True, float(first["id"])]
    for nobody in nobodies:
        assert (await session.cancel(nobody)).status == 202
    await session.cancel(second["id"])
    assert (await exchanges[1].response()).error["code"] == -32800
    one.open()
    assert (await exchanges[0].response()).result["structuredContent"] == {"value": 1}


async def test_nobody_else_can_cancel_a_call(client: Client, alice: Client, bob: Client, stage: Stage) -> None:
    session = await alice.open()
    gate = stage.hold("here")
    message = session.tool("pause", place="here") | {"id": 7}
    exchange = session.begin(message)
    await gate.reached()
    for stranger in (client, alice, bob):
        assert (await (await stranger.open()).cancel(7)).status == 202
    assert (await session.of(bob).cancel(7)).status == 404
    gate.open()
    assert (await exchange.response()).result["structuredContent"] == {"value": 1}


async def test_a_call_that_is_over_is_not_cancelled_any_more(client: Client) -> None:
    session = await client.open()
    message = session.tool("count")
    assert (await session.post(message)).result["structuredContent"] == {"value": 1}
    assert (await session.cancel(message["id"])).status == 202
    assert await session.call("count") == {"value": 2}


@pytest.mark.parametrize("end", ["cancel", "delete"])
async def test_a_call_that_is_cancelled_again_while_its_query_runs_holds_up_nobody(
    client: Client, stage: Stage, end: str
) -> None:
    session, other = await client.open(), await client.open()
    gate = stage.hold("here")
    message = session.tool("pause_in_query", place="here")
    exchange = session.begin(message)
    await gate.reached()
    await session.cancel(message["id"])
    if end == "cancel":
        await session.cancel(message["id"])
    else:
        await session.delete()
    assert await other.call("add", a=1, b=2) == {"result": 3}
    assert stage.count("left here") == 0, "The query must still be running."
    gate.open()
    assert (await exchange.response()).error["code"] == -32800
    await until(lambda: stage.count("left here") == 1)


async def test_a_call_that_waits_for_its_turn_can_be_cancelled_and_never_runs(
    client: Client, stage: Stage, settings: Settings
) -> None:
    settings.MCP_DJANGO_MAX_CONCURRENT_CALLS = 1
    session = await client.open()
    gate = stage.hold("here")
    running = session.begin(session.tool("pause", place="here"))
    await gate.reached()
    message = session.tool("pause", place="there")
    waiting = session.begin(message)
    # The cancel goes after the call, and may still be the first to arrive: so it is sent until it has found it.
    while not waiting.task.done():
        await session.cancel(message["id"])
    assert (await waiting.response()).error["code"] == -32800
    gate.open()
    assert (await running.response()).status == 200
    assert "there" not in stage.names()


# Streams, and calls of other processes


@pytest.mark.parametrize("version", ["2025-03-26", "2025-11-25"])
@pytest.mark.parametrize("where", ["same process", "another process"])
async def test_a_cancelled_call_s_stream_ends_with_32800(
    client: Client, stage: Stage, server_processes: Processes, settings: Settings, where: str, version: str
) -> None:
    settings.MCP_DJANGO_POLL_INTERVAL = 0.03
    session = await client.open(version)
    gate = stage.hold("step 2")
    message = with_progress(session.tool("steps", steps=3))
    stream = await session.begin(message).stream()
    assert progress_of([await stream.message()]) == [1]
    await gate.reached()
    if where == "another process":
        await server_processes.another()
    assert (await session.cancel(message["id"])).status == 202
    (answer,) = await stream.rest()
    assert (answer["id"], answer["error"]["code"]) == (message["id"], -32800)
    row = await Stream.objects.aget()
    assert row.finished_at is not None
    assert await row.events.acount() == 2


@pytest.mark.parametrize(
    ("step", "when", "told"), [(1, "before", [1]), (1, "after", [1]), (2, "before", [1]), (2, "after", [1, 2])]
)
async def test_a_call_that_is_cancelled_while_an_event_is_written_ends_its_stream_all_the_same(
    client: Client, monkeypatch: pytest.MonkeyPatch, stage: Stage, step: int, when: str, told: list[int]
) -> None:
    append = ORMStreams.append
    gate = stage.hold("writing")

    async def slow_append(self: ORMStreams, item: Append) -> None:
        if f'"progress":{step},' not in item.payload:
            await append(self, item)
        elif when == "before":
            await stage.visit("writing")
            await append(self, item)
        else:
            await append(self, item)
            await stage.visit("writing")

    monkeypatch.setattr(ORMStreams, "append", slow_append)
    session = await client.open()
    message = with_progress(session.tool("steps", steps=3))
    exchange = session.begin(message)
    await gate.reached()
    assert (await session.cancel(message["id"])).status == 202
    gate.open()
    *events, answer = await (await exchange.stream()).rest()
    assert (answer["id"], answer["error"]["code"]) == (message["id"], -32800)
    assert progress_of(events) == told


@pytest.mark.parametrize("tool", ["pause", "pause_in_thread", "pause_in_query"])
@pytest.mark.parametrize("connected", [True, False], ids=["connected", "broken"])
async def test_a_quiet_call_is_cancelled_through_another_process(
    client: Client, stage: Stage, server_processes: Processes, settings: Settings, tool: str, connected: bool
) -> None:
    settings.MCP_DJANGO_POLL_INTERVAL = 0.03
    session = await client.open()
    gate = stage.hold("here")
    message = session.tool(tool, place="here")
    exchange = session.begin(message)
    await gate.reached()
    running = server_processes.streams
    if not connected:
        exchange.disconnect()
    await server_processes.another()
    assert (await session.cancel(message["id"])).status == 202
    if connected:
        assert (await exchange.response()).error["code"] == -32800
    await until(lambda: not running.calls)
    gate.open()
    await until(lambda: stage.count("left here") == 1)
    if tool == "pause":
        assert (await Row.objects.aget()).state == {}


@pytest.mark.parametrize(
    ("sent", "cancelled"),
    [(7, "7"), ("7", 7), ("x" * 500, "x" * 500), ("ünï", "ünï")],
    ids=["7", "text", "long", "not ASCII"],
)
async def test_another_process_knows_ids_as_this_one_does(
    client: Client, stage: Stage, server_processes: Processes, settings: Settings, sent: Any, cancelled: Any
) -> None:
    settings.MCP_DJANGO_POLL_INTERVAL = 0.03
    session = await client.open()
    gates = [stage.hold("this"), stage.hold("that")]
    exchange = session.begin(session.tool("pause", place="this") | {"id": sent})
    bystander = session.begin(session.tool("pause", place="that") | {"id": "another"})
    for gate in gates:
        await gate.reached()
    await server_processes.another()
    await session.cancel(cancelled)
    response = await exchange.response()
    assert response.json["id"] == sent
    assert response.error["code"] == -32800
    gates[1].open()
    assert (await bystander.response()).result["structuredContent"] == {"value": 1}


@pytest.mark.parametrize("ids", [("a", "A"), ("a", "a "), ("e", "é")], ids=repr)
async def test_ids_that_some_collations_take_for_one_are_two(
    client: Client, stage: Stage, server_processes: Processes, settings: Settings, ids: tuple[str, str]
) -> None:
    settings.MCP_DJANGO_POLL_INTERVAL = 0.03
    session = await client.open()
    gate = stage.hold("here")
    exchanges = [session.begin(session.tool("pause", place="here") | {"id": id}) for id in ids]
    await until(lambda: gate.arrivals == 2)
    await server_processes.another()
    for exchange, id in zip(exchanges, ids, strict=True):
        await session.cancel(id)
        response = await exchange.response()
        assert (response.json["id"], response.error["code"]) == (id, -32800)


async def test_a_cancel_of_nothing_is_202_and_stops_nothing(
    client: Client, stage: Stage, server_processes: Processes, settings: Settings
) -> None:
    settings.MCP_DJANGO_POLL_INTERVAL = 0.03
    session, other = await client.open(), await client.open()
    gate = stage.hold("here")
    exchange = session.begin(session.tool("pause", place="here") | {"id": 7})
    await gate.reached()
    running = server_processes.streams
    await server_processes.another()
    for nobody in (8, "seven", "", "x" * 100_000, "a\x00b", -1, 10**300):
        with case(nobody):
            response = await session.cancel(nobody)
            assert (response.status, response.body) == (202, b"")
    # The same id in another session.
    assert (await other.cancel(7)).status == 202
    await running.watcher.look({EVERYTHING})
    gate.open()
    assert (await exchange.response()).result["structuredContent"] == {"value": 1}


@pytest.mark.parametrize("sky", ["prompt", "doubled", "delayed"], indirect=True)
async def test_with_a_broker_a_cancel_needs_no_poll(
    client: Client, stage: Stage, server_processes: Processes, settings: Settings, sky: Broker
) -> None:
    settings.MCP_DJANGO_POLL_INTERVAL = 1000
    session = await client.open()
    gate = stage.hold("here")
    message = session.tool("pause", place="here")
    exchange = session.begin(message)
    await gate.reached()
    await until(lambda: server_processes.streams.wakeups.connected)
    await server_processes.another()
    await session.cancel(message["id"])
    assert (await exchange.response()).error["code"] == -32800


async def test_one_member_of_a_streaming_batch_is_cancelled_and_the_others_are_answered(
    client: Client, stage: Stage, server_processes: Processes, settings: Settings
) -> None:
    settings.MCP_DJANGO_POLL_INTERVAL = 0.03
    session = await client.open("2025-03-26")
    end, here = stage.hold("end"), stage.hold("here")
    messages = [with_progress(session.tool("steps", steps=1)), session.tool("pause", place="here")]
    stream = await session.begin(messages).stream()
    assert progress_of([await stream.message()]) == [1]
    await here.reached()
    await server_processes.another()
    await session.cancel(messages[1]["id"])
    cancelled = await stream.message()
    assert (cancelled["id"], cancelled["error"]["code"]) == (messages[1]["id"], -32800)
    end.open()
    (answer,) = await stream.rest()
    assert answer["id"] == messages[0]["id"]
    assert "result" in answer


async def test_a_call_that_is_cancelled_and_ended_at_once_is_answered_once(
    client: Client, stage: Stage, server_processes: Processes
) -> None:
    session = await client.open()
    for _ in range(10):
        gate = stage.hold("end")
        message = with_progress(session.tool("steps", steps=1))
        stream = await session.begin(message).stream()
        await stream.message()
        await gate.reached()
        gate.open()
        cancelling = [session.begin(CANCEL | {"params": {"requestId": message["id"]}}) for _ in range(3)]
        (answer,) = await stream.rest()
        assert answer["id"] == message["id"]
        assert "result" in answer or answer["error"]["code"] == -32800
        assert [response.status for response in await together(*cancelling)] == [202] * 3
        stream_row = await Stream.objects.order_by("-created_at").afirst()
        assert stream_row is not None
        assert await stream_row.events.acount() == 2


async def test_an_id_may_be_used_again_after_a_cancel(client: Client, stage: Stage) -> None:
    session = await client.open()
    gate = stage.hold("here")
    message = session.tool("pause", place="here")
    exchange = session.begin(message)
    await gate.reached()
    await session.cancel(message["id"])
    await exchange.response()
    gate.open()
    assert (await session.post(message)).result["structuredContent"] == {"value": 1}


@pytest.mark.parametrize("tool", ["pause", "pause_in_thread"])
@pytest.mark.parametrize("how", ["disconnect", "abort"])
async def test_a_broken_connection_neither_stops_a_call_nor_loses_what_it_does(
    client: Client, stage: Stage, tool: str, how: str
) -> None:
    session = await client.open()
    gate = stage.hold("here")
    exchange = session.begin(session.tool(tool, place="here"))
    await gate.reached()
    if how == "abort":
        await exchange.abort()
    else:
        exchange.disconnect()
    # The next request goes all the way through before the call goes on.
    assert (await session.request("ping")).result == {}
    assert stage.count("left here") == 0
    gate.open()
    await until_async(Row.objects.filter(state_json='{"paused":1}').aexists)


async def test_a_client_that_goes_away_before_its_body_is_there_leaves_nothing_behind(client: Client) -> None:
    session = await client.open()

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError(f"Nobody listens, and this was sent: {message}")

    exchange = session.begin(session.tool("count"))
    await exchange.response()
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": client.path,
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"testserver"), (b"mcp-session-id", session.id.encode())],
    }
    await client.application(scope, receive, send)
    assert await session.call("count") == {"value": 2}


async def test_many_calls_of_many_sessions_with_one_id_get_their_own_answers(client: Client) -> None:
    sessions = [await client.open() for _ in range(10)]
    exchanges = [
        session.begin(session.tool("add" if times % 2 else "multiply", a=number, b=times) | {"id": 1})
        for times in range(5)
        for number, session in enumerate(sessions)
    ]
    responses = await together(*exchanges)
    results = [response.result["structuredContent"]["result"] for response in responses]
    assert results == [
        number + times if times % 2 else number * times for times in range(5) for number in range(len(sessions))
    ]
