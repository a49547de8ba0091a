"""How much one caller may do: what it is told beyond that, and that nobody else notices."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from django.utils import timezone

from mcp_django import limits
from mcp_django.models import Session as SessionRow
from mcp_django.models import digest_of
from tests.protocol import processes
from tests.protocol.client import Client, progress_of
from tests.protocol.stage import Stage
from tests.protocol.stateless import Stateless

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def nobody_came_before() -> Iterator[None]:
    rates = (limits.initializes, limits.calls, limits.completions)
    for rate in rates:
        rate.clear()
    yield
    for rate in rates:
        rate.clear()


async def test_too_many_initializes_are_429_and_say_when_to_come_again(client: Client, settings: Settings) -> None:
    settings.MCP_DJANGO_MAX_INITIALIZES_PER_MINUTE = 2
    assert [(await client.handshake()).status for _ in range(2)] == [200, 200]
    refused = await client.handshake()
    assert refused.status == 429
    assert 0 < int(refused.header("retry-after") or 0) <= 30
    assert refused.header("mcp-session-id") is None
    assert "MCP_DJANGO_MAX_INITIALIZES_PER_MINUTE" in refused.error["message"]
    assert await SessionRow.objects.acount() == 2


async def test_they_are_counted_for_each_principal(
    client: Client, alice: Client, bob: Client, settings: Settings
) -> None:
    settings.MCP_DJANGO_MAX_INITIALIZES_PER_MINUTE = 1
    assert [(await who.handshake()).status for who in (client, alice, bob)] == [200] * 3
    assert [(await who.handshake()).status for who in (client, alice, bob)] == [429] * 3


@pytest.mark.parametrize("behind", [True, False])
async def test_anonymous_ones_are_counted_for_each_address_also_behind_a_proxy(
    client: Client, settings: Settings, behind: bool
) -> None:
    settings.MCP_DJANGO_MAX_INITIALIZES_PER_MINUTE = 1
    settings.MCP_DJANGO_TRUSTED_PROXIES = ["127.0.0.1"] if behind else []
    answers = [await client.handshake(headers={"X-Forwarded-For": f"192.0.2.{number}"}) for number in (1, 2, 1)]
    assert [answer.status for answer in answers] == ([200, 200, 429] if behind else [200, 429, 429])


async def test_too_many_calls_of_a_session_are_errors_in_200(client: Client, settings: Settings) -> None:
    settings.MCP_DJANGO_MAX_CALLS_PER_MINUTE = 2
    session = await client.open()
    assert [(await session.call("add", a=1, b=number))["result"] for number in range(2)] == [1, 2]
    refused = await session.post(session.tool("add", a=1, b=2))
    assert refused.status == 200
    assert refused.error["code"] == -32005
    assert refused.error["data"] == {"retryAfter": 30}
    assert "MCP_DJANGO_MAX_CALLS_PER_MINUTE" in refused.error["message"]
    assert (await session.request("ping")).result == {}
    assert (await session.request("tools/list")).result["tools"]


async def test_reading_resources_and_getting_prompts_are_calls_too(client: Client, settings: Settings) -> None:
    settings.MCP_DJANGO_MAX_CALLS_PER_MINUTE = 1
    session = await client.open()
    await session.call("add", a=1, b=1)
    for method, params in (("resources/read", {"uri": "protocol://any"}), ("prompts/get", {"name": "any"})):
        assert (await session.request(method, params)).error["code"] == -32005


async def test_too_many_completions_are_counted_by_themselves(client: Client, settings: Settings) -> None:
    settings.MCP_DJANGO_MAX_COMPLETIONS_PER_MINUTE = 1
    session = await client.open()
    asked = {"ref": {"type": "ref/prompt", "name": "greet"}, "argument": {"name": "name", "value": "a"}}
    first = await session.request("completion/complete", asked)
    assert first.json.get("error", {}).get("code") != -32005
    assert (await session.request("completion/complete", asked)).error["code"] == -32005
    assert (await session.call("add", a=1, b=1))["result"] == 2


async def test_a_principals_sessions_share_what_it_may_do(alice: Client, bob: Client, settings: Settings) -> None:
    settings.MCP_DJANGO_MAX_CALLS_PER_MINUTE = 1
    one, two, other = await alice.open(), await alice.open(), await bob.open()
    await one.call("add", a=1, b=1)
    assert (await two.post(two.tool("add", a=1, b=1))).error["code"] == -32005
    assert (await other.call("add", a=1, b=1))["result"] == 2


async def test_in_the_stateless_era_too_many_calls_are_429(client: Client, settings: Settings) -> None:
    settings.MCP_DJANGO_MAX_CALLS_PER_MINUTE = 1
    stateless = Stateless(client)
    assert (await stateless.post(stateless.tool("add", {"a": 1, "b": 2}))).status == 200
    refused = await stateless.post(stateless.tool("add", {"a": 1, "b": 2}))
    assert refused.status == 429
    assert refused.header("retry-after") == "60"
    assert refused.error["code"] == -32005


async def test_a_session_has_a_bounded_number_of_calls_running(
    client: Client, settings: Settings, stage: Stage
) -> None:
    settings.MCP_DJANGO_MAX_SESSION_CALLS = 1
    session, other = await client.open(), await client.open()
    gate = stage.hold("here")
    running = session.begin(session.tool("pause", place="here"))
    await gate.reached()
    refused = await session.post(session.tool("add", a=1, b=2))
    assert refused.status == 200
    assert refused.error["code"] == -32003
    assert "MCP_DJANGO_MAX_SESSION_CALLS" in refused.error["message"]
    assert (await other.call("add", a=1, b=2))["result"] == 3
    gate.open()
    assert (await running.response()).status == 200
    assert (await session.call("add", a=1, b=2))["result"] == 3


async def test_a_call_that_sends_too_much_is_told_so_and_still_answered(client: Client, settings: Settings) -> None:
    settings.MCP_DJANGO_MAX_STREAM_EVENTS = 5
    session = await client.open()
    messages = await (await session.stream("steps", steps=20)).rest()
    assert progress_of(messages) == [1, 2, 3, 4, 5]
    assert messages[-1]["result"]["isError"]
    assert "MCP_DJANGO_MAX_STREAM_EVENTS" in messages[-1]["result"]["content"][0]["text"]


async def test_of_too_many_sessions_the_idlest_ends_and_its_client_is_told_to_begin_anew(
    alice: Client, bob: Client, settings: Settings
) -> None:
    settings.MCP_DJANGO_MAX_PRINCIPAL_SESSIONS = 2
    other = await bob.open()
    sessions = [await alice.open() for _ in range(3)]
    assert [(await session.request("ping")).status for session in sessions] == [404, 200, 200]
    assert (await other.request("ping")).status == 200


async def test_where_none_is_idle_the_next_initialize_is_429(alice: Client, settings: Settings, stage: Stage) -> None:
    settings.MCP_DJANGO_MAX_PRINCIPAL_SESSIONS = 1
    session = await alice.open()
    gate = stage.hold("end")
    stream = await session.stream("steps", steps=1)
    await gate.reached()
    refused = await alice.handshake()
    assert refused.status == 429
    assert refused.header("retry-after") == "60"
    assert "MCP_DJANGO_MAX_PRINCIPAL_SESSIONS" in refused.error["message"]
    gate.open()
    assert "result" in (await stream.rest())[-1]
    assert (await alice.handshake()).status == 200


async def test_a_session_that_is_left_half_open_ends_soon_and_one_in_use_does_not(client: Client) -> None:
    left, used = await client.open(initialized=False), await client.open(initialized=False)
    await used.request("ping")
    await asyncio.to_thread(processes.write_all)
    soon = timezone.now() + timedelta(minutes=11)
    rows = {row.pk: row async for row in SessionRow.objects.all()}
    assert rows[digest_of(left.id)].expires_at < soon
    assert rows[digest_of(used.id)].expires_at > soon
