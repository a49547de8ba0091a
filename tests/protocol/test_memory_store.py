"""Streams, questions and notices over a session store that only this process sees: all of it but other processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import sync_to_async

from mcp_django.models import Event, Stream, digest_of
from mcp_django.sessions import sessions
from tests.protocol import processes, servers
from tests.protocol.client import Client, progress_of, with_progress
from tests.protocol.stage import Stage, until

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.anyio

TOOLS = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}
COMPLETE = "notifications/elicitation/complete"


@pytest.fixture(autouse=True)
def in_memory(settings: Settings) -> Iterator[None]:
    settings.MCP_DJANGO_SESSION_STORE = "mcp_django.memory.MemoryStore"
    settings.MCP_DJANGO_POLL_INTERVAL = 0.03
    yield
    assert not Stream.objects.exists()
    assert not Event.objects.exists()
    processes.forget()


async def test_a_broken_stream_is_resumed_after_any_event(client: Client) -> None:
    session = await client.open()
    for events in range(1, 4):
        stream = await session.stream("steps", steps=3)
        heard = await stream.messages(events)
        await stream.disconnect()
        heard += await (await session.listen(stream.last_id)).rest()
        assert progress_of(heard) == [1, 2, 3]
        assert heard[-1]["result"]["structuredContent"] == {"value": 3}
    assert (await session.get("nonsense").response()).status == 400


async def test_a_slow_reader_gets_everything(client: Client) -> None:
    session = await client.open()
    stream = await session.begin(with_progress(session.tool("steps", steps=300)), slow=True).stream()
    await until(lambda: not sessions().streams.calls)
    assert progress_of(await stream.rest()) == list(range(1, 301))


async def test_questions_are_answered_once_and_by_nobody_else(client: Client, alice: Client) -> None:
    session, other = [await each.open(capabilities={"elicitation": {}}) for each in (alice, client)]
    stream = await session.begin(session.tool("ask")).stream()
    question = await stream.question()
    assert (await other.answer(question, {"action": "decline"})).status == 202
    for mood in ("fine", "foul"):
        assert (await session.answer(question, {"action": "accept", "content": {"mood": mood}})).status == 202
    (answer,) = await stream.rest()
    assert answer["result"]["structuredContent"] == {"value": "fine"}


async def test_a_call_is_cancelled_with_its_question(client: Client) -> None:
    session = await client.open(capabilities={"elicitation": {}})
    message = session.tool("ask")
    stream = await session.begin(message).stream()
    question = await stream.question()
    await session.cancel(message["id"])
    cancelled, answer = await stream.rest()
    assert cancelled["params"]["requestId"] == question["id"]
    assert answer["error"]["code"] == -32800


async def test_notices_and_messages_are_heard_and_kept_for_who_comes_back(client: Client) -> None:
    session = await client.open()
    assert (await session.request("resources/subscribe", {"uri": "test://users"})).result == {}
    stream = await session.listen()
    assert await stream.frame()
    await sync_to_async(servers.main.notify_tools_changed)()
    assert await stream.message() == TOOLS
    await servers.main.anotify_resource_updated("test://books/1")
    await servers.main.anotify_resource_updated("test://users")
    assert (await stream.message())["params"] == {"uri": "test://users"}
    await stream.disconnect()
    await servers.main.anotify_tools_changed()
    await servers.main.anotify_session(digest_of(session.id), COMPLETE, {"elicitationId": "1"})
    stream = await session.listen()
    heard = await stream.messages(2)
    assert TOOLS in heard
    assert {"jsonrpc": "2.0", "method": COMPLETE, "params": {"elicitationId": "1"}} in heard


async def test_two_get_streams(client: Client, alice: Client) -> None:
    for each, newest_wins in ((client, False), (alice, True)):
        session = await each.open()
        first = await session.listen()
        assert await first.frame()
        second = await session.listen()
        assert await second.frame()
        await servers.main.anotify_session(digest_of(session.id), COMPLETE)
        reader, other = (second, first) if newest_wins else (first, second)
        assert (await reader.message())["method"] == COMPLETE
        await reader.disconnect()
        if newest_wins:
            assert await other.rest() == []
        else:
            await servers.main.anotify_session(digest_of(session.id), COMPLETE)
            assert (await other.message())["method"] == COMPLETE


async def test_the_end_of_a_session_ends_its_streams(client: Client, stage: Stage) -> None:
    session = await client.open()
    gate = stage.hold("step 2")
    call, listening = await session.stream("steps", steps=3), await session.listen()
    await gate.reached()
    assert await listening.frame()
    assert (await session.delete()).status == 204
    assert await listening.rest() == []
    messages: list[Any] = await call.rest()
    assert messages[-1]["error"]["code"] == -32000
    assert (await session.get().response()).status == 404
