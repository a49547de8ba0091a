"""/everything/mcp offers what benchmarks, acceptance tests and the conformance suite count on."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.db import connection

from demo_project.everything.conformance import contents
from demo_project.everything.features import HIDDEN_TOOL
from demo_project.everything.models import Visibility
from tests.protocol.client import LATEST, Client, Session, progress_of, text_of

pytestmark = pytest.mark.anyio

CAPABILITIES: dict[str, Any] = {"elicitation": {}, "sampling": {}}


async def listed(session: Session, kind: str) -> dict[str, Any]:
    return {item["name"]: item for item in (await session.request(f"{kind}/list")).result[kind]}


# The contract


TOOLS: dict[str, tuple[set[str], set[str]]] = {
    "add": ({"a", "b"}, {"result"}),
    "session_info": (
        set(),
        {"session_id", "pid", "restored", "restore_count", "protocol_version", "client_name", "user"},
    ),
    "count": (set(), {"value"}),
    "slow_progress": ({"steps", "seconds"}, {"steps"}),
    "ask_name": (set(), {"action", "name"}),
    "toggle_tool": (set(), {"visible"}),
    "orm_roundtrip": (set(), {"rows"}),
}


@pytest.mark.parametrize("name", TOOLS)
async def test_a_tool_of_the_contract_takes_and_returns_exactly_this(everything: Client, name: str) -> None:
    tool = (await listed(await everything.open(), "tools"))[name]
    arguments, results = TOOLS[name]
    assert set(tool["inputSchema"]["properties"]) == arguments
    assert set(tool["outputSchema"]["properties"]) == results


async def test_the_first_tool_can_be_called_without_arguments(everything: Client) -> None:
    first = next(iter((await listed(await everything.open(), "tools")).values()))
    assert first["name"] == "test_simple_text"
    assert not first["inputSchema"]["properties"]


async def test_everything_is_described(everything: Client) -> None:
    session = await everything.open()
    await session.call("toggle_tool")
    for kind in ("tools", "prompts", "resources"):
        items = await listed(session, kind)
        assert items
        assert [name for name, item in items.items() if not item["description"]] == []


async def test_a_schema_that_no_signature_can_say_reaches_the_list_untouched(everything: Client) -> None:
    tools = await listed(await everything.open(), "tools")
    assert tools["json_schema_2020_12_tool"]["inputSchema"] == contents.JSON_SCHEMA


async def test_progress_is_told_in_as_many_steps_as_were_asked_for(everything: Client) -> None:
    session = await everything.open()
    messages = await (await session.stream("slow_progress", steps=3, seconds=0.03)).rest()
    assert progress_of(messages) == [1, 2, 3]
    assert messages[-1]["result"]["structuredContent"] == {"steps": 3}


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        ({"action": "accept", "content": {"name": "Ada"}}, {"action": "accept", "name": "Ada"}),
        ({"action": "decline"}, {"action": "decline", "name": None}),
        ({"action": "cancel"}, {"action": "cancel", "name": None}),
    ],
)
async def test_a_name_is_asked_for(everything: Client, answer: Any, result: Any) -> None:
    session = await everything.open(capabilities=CAPABILITIES)
    stream = await session.stream("ask_name")
    question = await stream.question()
    assert question["params"]["requestedSchema"]["properties"]["name"]["type"] == "string"
    assert (await session.answer(question, answer)).status == 202
    assert (await stream.message())["result"]["structuredContent"] == result


# The tool that is not always there


async def test_toggling_shows_a_tool_to_everybody_and_hides_it_again(everything: Client) -> None:
    one, two = await everything.open(), await everything.open("2025-03-26")
    for visible in (True, False, True):
        assert await one.call("toggle_tool") == {"visible": visible}
        assert (HIDDEN_TOOL in await listed(two, "tools")) is visible
        if visible:
            assert await two.call(HIDDEN_TOOL) == {"seen": True}
        else:
            assert (await two.post(two.tool(HIDDEN_TOOL))).error["code"] == -32602


async def test_toggling_is_told_to_everybody_who_listens(everything: Client) -> None:
    one, two = await everything.open(), await everything.open()
    async with one.listening() as first, two.listening() as second:
        assert await first.frame() is not None
        assert await second.frame() is not None
        for _time in range(2):
            await one.call("toggle_tool")
            for stream in (first, second):
                assert (await stream.message())["method"] == "notifications/tools/list_changed"


def toggle(_number: int) -> bool:
    try:
        return Visibility.objects.get_or_create(tool=HIDDEN_TOOL)[0].toggle()
    finally:
        connection.close()


def test_of_many_who_toggle_at_once_each_has_a_turn(transactional_db: None) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(toggle, range(40)))
    assert found.count(True) == found.count(False) == 20
    assert Visibility.objects.get().visible is False


# What the conformance suite only glances at


async def test_a_client_that_was_sent_away_finds_its_answer_when_it_comes_back(everything: Client) -> None:
    session = await everything.open(LATEST)
    stream = await session.stream("test_reconnection")
    assert "result" not in str(await stream.rest())
    resumed = await session.listen(stream.last_id)
    (answer,) = [message for message in await resumed.rest() if "result" in message]
    assert text_of(answer["result"]) == "Reconnection test completed"
