"""Calls whose answer is an event stream: when it is one, what is on it, and that it needs no connection."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import django
import pytest
from mcp.shared.exceptions import MCPError

from mcp_django.feeds import TAIL_CHARACTERS, TAIL_EVENTS
from mcp_django.models import Event, Stream, digest_of
from mcp_django.sessions import sessions
from mcp_django.stream_batches import Append
from tests.protocol import servers
from tests.protocol.client import Client, progress_of, text_of, with_progress
from tests.protocol.entries import Entry, application_now
from tests.protocol.outage import commits_unheard, refusing
from tests.protocol.stage import Stage, until, until_async

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.anyio

LATEST = "2025-11-25"
OLDER = ["2024-11-05", "2025-03-26", "2025-06-18"]


async def payloads() -> list[Any]:
    """What the log of the only stream holds."""
    return [
        json.loads(payload) async for payload in Event.objects.order_by("sequence").values_list("payload", flat=True)
    ]


async def finished() -> None:
    """Wait until every stream is over."""
    await until_async(Stream.objects.exclude(finished_at=None).aexists)
    await until_async(Stream.objects.filter(finished_at=None).aexists, outcome=False)


# One piece or a stream


@pytest.mark.parametrize("tool", ["add", "multiply"])
async def test_a_quick_and_quiet_call_is_answered_in_one_piece_and_writes_nothing(client: Client, tool: str) -> None:
    session = await client.open()
    response = await session.post(with_progress(session.tool(tool, a=2, b=2)))
    assert response.header("content-type") == "application/json"
    assert response.result["structuredContent"] == {"result": 4}
    assert not await Stream.objects.aexists()
    assert not await Event.objects.aexists()


async def test_the_first_notification_makes_a_stream_and_it_arrives_while_the_call_still_runs(
    client: Client, stage: Stage
) -> None:
    session = await client.open()
    gate = stage.hold("end")
    message = with_progress(session.tool("steps", steps=2), token="my token")
    stream = await session.begin(message).stream()
    first, second = await stream.messages(2)
    assert first == {
        "jsonrpc": "2.0",
        "method": "notifications/progress",
        "params": {"progressToken": "my token", "progress": 1, "total": 2},
    }
    assert second["params"]["progress"] == 2
    gate.open()
    (answer,) = await stream.rest()
    assert answer["id"] == message["id"]
    assert answer["result"]["structuredContent"] == {"value": 2}


@pytest.mark.parametrize("tool", ["pause", "pause_in_thread"])
async def test_a_call_that_takes_long_is_answered_by_a_stream_although_it_says_nothing(
    client: Client, stage: Stage, settings: Settings, tool: str
) -> None:
    settings.MCP_DJANGO_STREAM_AFTER = 0.02
    session = await client.open()
    gate = stage.hold("here")
    stream = await session.begin(session.tool(tool, place="here")).stream()
    assert (await Stream.objects.aget()).finished_at is None
    gate.open()
    (answer,) = await stream.rest()
    assert answer["result"]["structuredContent"] == {"value": 1}
    assert await payloads() == [answer]


async def test_a_call_that_takes_long_in_a_list_or_a_prompt_is_answered_by_a_stream_too(
    client: Client, stage: Stage, settings: Settings
) -> None:
    settings.MCP_DJANGO_STREAM_AFTER = 0.02
    settings.MCP_DJANGO_MAX_CONCURRENT_CALLS = 1
    session = await client.open()
    gate = stage.hold("here")
    running = await session.begin(session.tool("pause", place="here")).stream()
    waiting = await session.begin(client.message("prompts/list")).stream()
    gate.open()
    assert (await running.message())["result"]["structuredContent"] == {"value": 1}
    assert (await waiting.message())["result"]["prompts"]


async def test_every_message_is_committed_before_it_is_sent(client: Client) -> None:
    session = await client.open()
    stream = await session.stream("steps", steps=5)
    seen = []
    while (frame := await stream.frame()) is not None:
        if frame.has_message:
            seen.append(frame.message)
            assert (await payloads())[: len(seen)] == seen
    assert len(seen) == 6
    assert await payloads() == seen


async def test_the_stream_s_row_says_what_it_answers(client: Client, stage: Stage) -> None:
    session = await client.open()
    gate = stage.hold("end")
    message = with_progress(session.tool("steps", steps=1)) | {"id": "seven"}
    stream = await session.begin(message).stream()
    row = await Stream.objects.aget()
    assert (row.method, row.name, row.request_ids, row.standalone) == ("tools/call", "steps", ["seven"], False)
    assert row.process == sessions().streams.process
    assert row.finished_at is None
    gate.open()
    await stream.rest()
    await row.arefresh_from_db()
    assert row.finished_at is not None


@pytest.mark.parametrize("how", ["mcp", "plain"])
async def test_a_call_that_fails_on_its_stream_ends_it_with_the_error(client: Client, stage: Stage, how: str) -> None:
    session = await client.open()
    stage.fail("step 2", {"mcp": MCPError(-32050, "On fire."), "plain": RuntimeError("A secret.")}[how])
    progress, answer = await (await session.stream("steps", steps=5)).rest()
    assert progress["params"]["progress"] == 1
    assert "secret" not in json.dumps(answer)
    if how == "mcp":
        assert answer["error"] == {"code": -32050, "message": "On fire."}
    else:
        assert answer["result"]["isError"]
    assert await payloads() == [progress, answer]


# Frames


async def test_a_stream_begins_with_a_priming_event_and_every_event_has_an_id_of_its_own(client: Client) -> None:
    session = await client.open(LATEST)
    stream = await session.stream("steps", steps=3)
    messages = await stream.rest()
    priming, *events = stream.frames
    assert (priming.data, priming.event, priming.retry) == ("", None, 3000)
    assert len({frame.id for frame in stream.frames}) == len(stream.frames) == 5
    for event in events:
        assert event.event == "message"
        assert event.id
        assert event.retry is None
    assert [event.message for event in events] == messages


async def test_the_priming_event_comes_at_once_even_if_there_is_nothing_to_say(
    client: Client, stage: Stage, settings: Settings
) -> None:
    settings.MCP_DJANGO_STREAM_AFTER = 0.02
    settings.MCP_DJANGO_STREAM_RETRY = 4.5
    session = await client.open(LATEST)
    gate = stage.hold("here")
    stream = await session.begin(session.tool("pause", place="here")).stream()
    priming = await stream.frame()
    assert priming is not None
    assert (priming.data, priming.retry, bool(priming.id)) == ("", 4500, True)
    gate.open()
    assert len(await stream.rest()) == 1


@pytest.mark.parametrize("version", OLDER)
async def test_older_revisions_get_neither_a_priming_event_nor_a_retry_but_ids_to_resume_with(
    client: Client, version: str
) -> None:
    session = await client.open(version)
    stream = await session.stream("steps", steps=3)
    assert len(await stream.rest()) == 4
    events = [frame for frame in stream.frames if frame.comment is None]
    assert len(events) == 4
    assert all(event.data and event.id and event.retry is None for event in events)


@pytest.mark.parametrize("version", ["2025-03-26", LATEST])
async def test_an_open_stream_is_kept_alive_by_comments(
    client: Client, stage: Stage, settings: Settings, version: str
) -> None:
    settings.MCP_DJANGO_KEEP_ALIVE = 0.03
    session = await client.open(version)
    gate = stage.hold("step 2")
    stream = await session.stream("steps", steps=2)
    assert progress_of([await stream.message()]) == [1]
    for _ in range(3):
        frame = await stream.frame()
        assert frame is not None
        assert frame.comment
        assert frame.data is None
    gate.open()
    assert progress_of(await stream.rest()) == [2]


async def test_rule_7_an_event_stream_says_that_it_is_not_to_be_held_back(client: Client) -> None:
    session = await client.open()
    stream = await session.stream("steps", steps=1)
    assert stream.header("content-type") == "text/event-stream"
    assert stream.header("cache-control") == "no-cache, no-transform"
    assert stream.header("x-accel-buffering") == "no"
    assert stream.header("content-length") is None
    assert stream.header("mcp-session-id") is None
    await stream.rest()


async def test_rule_7_gzip_middleware_leaves_event_streams_alone(entry: Entry, settings: Settings) -> None:
    settings.MIDDLEWARE = ["django.middleware.gzip.GZipMiddleware", *settings.MIDDLEWARE]
    session = await Client(application_now(entry)).open()
    message = with_progress(session.tool("steps", steps=3, size=1000))
    stream = await session.begin(message, {"Accept-Encoding": "gzip"}).stream()
    assert stream.header("content-encoding") in (None, "identity")
    # What is compressed would not be parsed.
    assert progress_of(await stream.rest()) == [1, 2, 3]


async def test_event_streams_pass_sync_middleware_as_they_come(stage: Stage, settings: Settings) -> None:
    settings.MIDDLEWARE = ["tests.protocol.middleware.is_sync", *settings.MIDDLEWARE]
    session = await Client(application_now("view")).open()
    gate = stage.hold("step 2")
    stream = await session.stream("steps", steps=2)
    assert progress_of([await stream.message()]) == [1]
    gate.open()
    assert progress_of(await stream.rest()) == [2]


@pytest.mark.filterwarnings("ignore:The logging capability is deprecated")
async def test_log_messages_ride_the_stream_from_the_level_on_that_the_client_chose(client: Client) -> None:
    session = await client.open()
    message = session.tool("talk")
    for level, heard in (("debug", True), ("info", True), ("notice", False), ("emergency", False)):
        await session.request("logging/setLevel", {"level": level})
        messages = await (await session.begin(with_progress(message)).stream()).rest()
        assert progress_of(messages) == [1, 2]
        logged = [m["params"] for m in messages if m.get("method") == "notifications/message"]
        assert logged == ([{"level": "info", "data": "halfway"}] if heard else [])


# Connections that break, and slow readers


@pytest.mark.parametrize("how", ["disconnect", "abort"])
async def test_a_broken_connection_neither_stops_nor_loses_a_call_that_streams(
    client: Client, entry: Entry, stage: Stage, how: str
) -> None:
    session = await client.open()
    gate = stage.hold("step 2")
    stream = await session.stream("steps", steps=3)
    await stream.message()
    await (stream.exchange.abort() if how == "abort" else stream.disconnect())
    # Before 6.1 what Django runs goes on when Django itself is cancelled; servers tell it of the disconnect first.
    assert not sessions().streams.cursors or (entry == "view" and how == "abort" and django.VERSION < (6, 1))
    gate.open()
    await finished()
    messages = await payloads()
    assert progress_of(messages) == [1, 2, 3]
    assert messages[-1]["result"]["structuredContent"] == {"value": 3}


@pytest.mark.parametrize("how", ["disconnect", "abort"])
async def test_a_client_that_is_gone_before_the_first_message_loses_nothing_either(
    client: Client, stage: Stage, how: str
) -> None:
    session = await client.open()
    gate = stage.hold("step 1")
    exchange = session.begin(with_progress(session.tool("steps", steps=2)))
    await gate.reached()
    if how == "abort":
        await exchange.abort()
    else:
        exchange.disconnect()
    gate.open()
    await finished()
    assert len(await payloads()) == 3


async def test_nothing_of_a_stream_stays_in_memory_when_it_is_over(client: Client, stage: Stage) -> None:
    session = await client.open()
    streams = sessions().streams
    await (await session.stream("steps", steps=3)).rest()
    gate = stage.hold("end")
    broken = await session.stream("steps", steps=3)
    await broken.message()
    await broken.disconnect()
    gate.open()
    await finished()
    await until(lambda: not streams.calls)
    assert not streams.feeds
    assert not streams.cursors
    assert not streams.questions
    assert not streams._by_session
    live = sessions().live.get(digest_of(session.id))
    assert live is not None
    assert (live.streams, live.calls) == (0, set())


async def test_a_slow_reader_holds_up_nobody_and_costs_bounded_memory(client: Client) -> None:
    session, steps = await client.open(), 3 * TAIL_EVENTS
    exchange = session.begin(with_progress(session.tool("steps", steps=steps, size=1000)), slow=True)
    stream = await exchange.stream()
    await finished()
    (feed,) = sessions().streams.feeds.values()
    assert len(feed._tail) <= TAIL_EVENTS
    assert feed._size <= TAIL_CHARACTERS
    assert progress_of(await stream.rest()) == list(range(1, steps + 1))


async def test_a_slow_reader_that_goes_away_leaves_nothing_behind(client: Client) -> None:
    session = await client.open()
    exchange = session.begin(with_progress(session.tool("steps", steps=2 * TAIL_EVENTS)), slow=True)
    stream = await exchange.stream()
    await finished()
    await stream.disconnect()
    assert not sessions().streams.cursors
    assert not sessions().streams.feeds


# Batches


async def test_one_loud_member_of_a_batch_makes_one_stream_with_all_answers(client: Client) -> None:
    session = await client.open("2025-03-26")
    loud, quiet = with_progress(session.tool("steps", steps=2)), session.tool("add", a=1, b=2)
    notification = {"jsonrpc": "2.0", "method": "notifications/roots/list_changed"}
    broken = {"jsonrpc": "2.0", "id": "broken", "method": 5}
    stream = await session.begin([loud, notification, broken, quiet]).stream()
    messages = await stream.rest()
    assert progress_of(messages) == [1, 2]
    answers = {message["id"]: message for message in messages if "id" in message}
    assert set(answers) == {loud["id"], quiet["id"], "broken"}
    assert len(messages) == 5
    assert answers["broken"]["error"]["code"] == -32600
    assert answers[quiet["id"]]["result"]["content"][0]["text"] == "3"
    row = await Stream.objects.aget()
    assert sorted(row.request_ids) == sorted([loud["id"], quiet["id"]])
    assert row.finished_at is not None
    assert await payloads() == messages


async def test_what_a_batch_has_answered_before_it_becomes_loud_is_on_the_stream(client: Client, stage: Stage) -> None:
    session = await client.open("2025-03-26")
    gate = stage.hold("step 1")
    loud = with_progress(session.tool("steps", steps=1))
    quiet = [session.tool("pause", place="quiet") for _ in range(3)]
    exchange = session.begin([*quiet, loud])
    await gate.reached()
    await until(lambda: stage.count("left quiet") == 3)
    assert (await session.request("ping")).result == {}
    gate.open()
    messages = await (await exchange.stream()).rest()
    assert [message["id"] for message in messages if "id" in message][-1] == loud["id"]
    assert {message.get("id") for message in messages} >= {message["id"] for message in quiet}
    assert len(messages) == 5
    assert await payloads() == messages


async def test_members_of_a_batch_that_end_at_once_are_all_answered_before_the_stream_ends(
    client: Client, stage: Stage
) -> None:
    session = await client.open("2025-03-26")
    gate = stage.hold("end")
    messages = [with_progress(session.tool("steps", steps=1)) for _ in range(8)]
    stream = await session.begin(messages).stream()
    await until(lambda: gate.arrivals == 8)
    gate.open()
    answers = [message["id"] for message in await stream.rest() if "id" in message]
    assert sorted(answers) == sorted(message["id"] for message in messages)
    assert stream.frames[-1].message in await payloads()
    assert len(await payloads()) == 16


async def test_an_early_answer_of_a_batch_that_is_too_large_for_a_stream_fails_alone(
    client: Client, stage: Stage, settings: Settings
) -> None:
    settings.MCP_DJANGO_MAX_EVENT_BYTES = 5000
    session = await client.open("2025-03-26")
    gate = stage.hold("step 1")
    large, small = session.tool("return_odd_text", kind="large"), session.tool("add", a=1, b=2)
    loud = with_progress(session.tool("steps", steps=1))
    exchange = session.begin([large, small, loud])
    await gate.reached()
    assert (await session.request("ping")).result == {}
    gate.open()
    messages = await (await exchange.stream()).rest()
    answers = {message["id"]: message for message in messages if "id" in message}
    assert "MCP_DJANGO_MAX_EVENT_BYTES" in answers[large["id"]]["error"]["message"]
    assert answers[small["id"]]["result"]["content"][0]["text"] == "3"
    assert "result" in answers[loud["id"]]
    assert progress_of(messages) == [1]


async def test_the_whole_batch_streams_if_one_member_takes_long(
    client: Client, stage: Stage, settings: Settings
) -> None:
    settings.MCP_DJANGO_STREAM_AFTER = 0.02
    session = await client.open("2025-03-26")
    gate = stage.hold("here")
    slow, quick = session.tool("pause", place="here"), session.tool("add", a=1, b=2)
    stream = await session.begin([slow, quick]).stream()
    assert (await stream.message())["id"] == quick["id"]
    gate.open()
    assert [message["id"] for message in await stream.rest()] == [slow["id"]]


# The end of a call


@pytest.mark.parametrize("loud", [False, True])
async def test_after_its_result_a_context_is_dead(client: Client, stage: Stage, loud: bool) -> None:
    session = await client.open(capabilities={"elicitation": {}})
    gate = stage.hold("afterwards")
    exchange = session.begin(with_progress(session.tool("outlive", loud=loud)))
    if loud:
        assert len(await (await exchange.stream()).rest()) == 2
    else:
        assert (await exchange.response()).result["structuredContent"] == {"value": "done"}
    before = await payloads()
    gate.open()
    (task,) = stage.tasks
    await task
    assert "over" in stage.details("could not ask")[0]
    assert await payloads() == before
    assert len(before) == (2 if loud else 0)


async def test_a_question_that_a_call_leaves_behind_writes_nothing_after_the_answer(
    client: Client, stage: Stage
) -> None:
    session = await client.open()
    gate = stage.hold("asked")
    stream = await session.stream("leave_question")
    question = await stream.question()
    gate.open()
    (answer,) = await stream.rest()
    (task,) = stage.tasks
    assert "did not answer" in await task
    assert await payloads() == [question, answer]
    assert await Stream.objects.exclude(finished_at=None).acount() == 1


async def test_a_result_that_is_too_large_for_a_stream_is_an_error_in_its_place(
    client: Client, settings: Settings
) -> None:
    settings.MCP_DJANGO_MAX_EVENT_BYTES = 5000
    session = await client.open()
    message = with_progress(session.tool("return_odd_text", kind="large"))
    progress, answer = await (await session.begin(message).stream()).rest()
    assert progress_of([progress]) == [1]
    assert (answer["id"], answer["error"]["code"]) == (message["id"], -32603)
    assert "MCP_DJANGO_MAX_EVENT_BYTES" in answer["error"]["message"]
    assert await payloads() == [progress, answer]


async def test_a_result_that_is_no_json_is_an_error_in_its_place(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def spoil(ctx: Any, call_next: Any) -> Any:
        return await call_next(ctx) | {"_meta": {"value": float("nan")}}

    session = await client.open()
    middleware = servers.main.kernel._lowlevel_server.middleware
    monkeypatch.setattr(servers.main.kernel._lowlevel_server, "middleware", [*middleware, spoil])
    message = with_progress(session.tool("steps", steps=1))
    progress, answer = await (await session.begin(message).stream()).rest()
    assert (answer["id"], answer["error"]["code"]) == (message["id"], -32603)
    assert "JSON does not have" in answer["error"]["message"]
    assert await payloads() == [progress, answer]


@pytest.mark.parametrize("kind", ["nul", "surrogate"])
async def test_what_databases_and_utf8_cannot_hold_goes_over_a_stream_as_it_is(client: Client, kind: str) -> None:
    session = await client.open()
    progress, _answer = await (await session.stream("tell_odd_text", kind=kind)).rest()
    assert progress["params"]["message"] == servers.ODD[kind]


async def test_a_result_with_a_nul_goes_over_a_stream_as_it_is(client: Client) -> None:
    session = await client.open()
    _progress, answer = await (await session.stream("return_odd_text", kind="nul")).rest()
    assert answer["result"]["structuredContent"] == {"value": "a\x00b"}


@pytest.mark.parametrize(("kind", "error"), [("nan", "ValueError"), ("large", "EventTooLarge")])
async def test_progress_that_cannot_be_told_is_an_error_in_the_tool_and_the_stream_goes_on(
    client: Client, settings: Settings, kind: str, error: str
) -> None:
    settings.MCP_DJANGO_MAX_EVENT_BYTES = 5000
    session = await client.open()
    progress, answer = await (await session.stream("report_odd_progress", kind=kind)).rest()
    assert progress_of([progress]) == [2]
    assert answer["result"]["structuredContent"] == {"value": error}


async def test_an_event_that_some_clients_refuse_for_its_size_is_logged(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    session = await client.open()
    messages = await (await session.stream("steps", steps=1, size=1024 * 1024 + 1)).rest()
    assert len(messages) == 2
    assert "some clients refuse" in caplog.text


# The database is away


async def test_a_database_that_is_away_for_a_while_kills_no_call(client: Client, stage: Stage) -> None:
    session = await client.open()
    second, end = stage.hold("step 2"), stage.hold("end")
    stream = await session.stream("steps", steps=3)
    assert progress_of([await stream.message()]) == [1]
    with refusing() as refused:
        second.open()
        await until(lambda: refused() > 0)
    assert progress_of(await stream.messages(2)) == [2, 3]
    with refusing() as refused:
        end.open()
        await until(lambda: refused() > 0)
    (answer,) = await stream.rest()
    assert answer["result"]["structuredContent"] == {"value": 3}
    assert len(await payloads()) == 4


@pytest.mark.parametrize("place", ["step 1", "step 2", "end"])
async def test_a_commit_of_which_nothing_was_heard_is_neither_lost_nor_made_twice(
    client: Client, stage: Stage, place: str
) -> None:
    session = await client.open()
    gate = stage.hold(place)
    exchange = session.begin(with_progress(session.tool("steps", steps=2)))
    await gate.reached()
    with commits_unheard(Append) as unheard:
        gate.open()
        messages = await (await exchange.stream()).rest()
    assert unheard() == 1
    assert progress_of(messages) == [1, 2]
    assert messages[-1]["result"]["structuredContent"] == {"value": 2}
    assert await payloads() == messages


async def test_a_call_that_gets_no_stream_since_the_database_is_away_is_answered_in_one_piece(
    client: Client, stage: Stage, settings: Settings
) -> None:
    settings.MCP_DJANGO_STREAM_AFTER = 0.02
    settings.MCP_DJANGO_STREAM_PATIENCE = 0.01
    session = await client.open()
    gate = stage.hold("step 1")
    with refusing("writes") as refused:
        exchange = session.begin(session.tool("steps", steps=1))
        await gate.reached()
        await until(lambda: refused() > 0)
        gate.open()
        response = await exchange.response()
    assert response.result["structuredContent"] == {"value": 1}
    assert not await Stream.objects.aexists()


async def test_a_database_that_stays_away_is_an_error_that_the_model_can_read(
    client: Client, stage: Stage, settings: Settings
) -> None:
    settings.MCP_DJANGO_STREAM_PATIENCE = 0.01
    session = await client.open()
    gate = stage.hold("step 1")
    exchange = session.begin(with_progress(session.tool("steps", steps=1)))
    await gate.reached()
    with refusing("writes"):
        gate.open()
        response = await exchange.response()
    assert response.result["isError"]
    assert "not available" in text_of(response.result)
