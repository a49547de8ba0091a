"""Handles: state from call to call for clients with sessions and without, for those whom it was made for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.test import override_settings
from django.utils import timezone

from mcp_django.asgi import Application
from mcp_django.models import Session as SessionRow
from mcp_django.models import StoredHandle
from tests.protocol import processes
from tests.protocol.client import Client, Session, text_of
from tests.protocol.handle_servers import ReadingList
from tests.protocol.processes import Processes
from tests.protocol.stage import Stage, until_async
from tests.protocol.stateless import Stateless

pytestmark = pytest.mark.anyio

Era = Literal["sessions", "stateless"]
FIRST, SECOND = "/handles/mcp", "/handles-second/mcp"


class Caller:
    """Calls tools as a client of one era: in a new session each time, or in none."""

    def __init__(self, era: Era, client: Client) -> None:
        self.era = era
        self.client = client

    async def _way(self) -> Session | Stateless:
        return await self.client.open() if self.era == "sessions" else Stateless(self.client)

    async def call_tool(self, name: str, **arguments: Any) -> Any:
        way = await self._way()
        if isinstance(way, Session):
            return await way.call_tool(name, **arguments)
        return await way.call_tool(name, arguments)

    async def call(self, name: str, **arguments: Any) -> Any:
        """A tool's result, which the SDK has wrapped if it is no object."""
        result = await self.call_tool(name, **arguments)
        assert not result.get("isError"), result
        found = result["structuredContent"]
        return found["result"] if set(found) == {"result"} else found

    async def refused(self, name: str, **arguments: Any) -> str:
        """What the model reads of a tool that failed."""
        result = await self.call_tool(name, **arguments)
        assert result.get("isError"), result
        return text_of(result)

    async def request(self, method: str, params: Any) -> Any:
        return await (await self._way()).request(method, params)


@pytest.fixture(params=["sessions", "stateless"])
def era(request: pytest.FixtureRequest) -> Era:
    found: Era = request.param
    return found


CallerOf = Callable[..., Caller]


@pytest.fixture
def caller_of(era: Era, application: Application) -> CallerOf:
    def make(token: str | None = None, path: str = FIRST) -> Caller:
        return Caller(era, Client(application, path, token=token))

    return make


@pytest.fixture
def alice_calls(caller_of: CallerOf) -> Caller:
    return caller_of("token-of-alice")


@pytest.fixture
def bob_calls(caller_of: CallerOf) -> Caller:
    return caller_of("token-of-bob")


async def row_of(text: str) -> StoredHandle:
    return await sync_to_async(StoredHandle.objects.for_text)(text)


# What a client sees


async def test_a_handle_that_a_tool_returns_is_a_plain_string_and_goes_on_in_other_calls(alice_calls: Caller) -> None:
    for tool in ("start", "astart"):
        result = await alice_calls.call_tool(tool)
        text = result["structuredContent"]["result"]
        assert result["content"] == [{"type": "text", "text": text}]
        assert text.startswith("reading_list-")
        assert text.removeprefix("reading_list-").isalnum()
        assert len(text) == len("reading_list-") + 22
        assert await alice_calls.call("add", reading_list=text, title="Emma") == ["Emma"]
        assert await alice_calls.call("add", reading_list=text, title="Persuasion") == ["Emma", "Persuasion"]


async def test_its_class_tells_the_model_what_it_is_in_the_schemas(alice_calls: Caller) -> None:
    tools = {tool["name"]: tool for tool in (await alice_calls.request("tools/list", {})).result["tools"]}
    about = {"type": "string", "description": "A reading list; start makes one."}
    assert tools["add"]["inputSchema"]["properties"]["reading_list"] == about | {"title": "Reading List"}
    assert tools["add"]["inputSchema"]["required"] == ["reading_list", "title"]
    assert tools["start"]["outputSchema"]["properties"]["result"] == about | {"title": "Result"}
    assert tools["start_or_go_on"]["inputSchema"]["properties"]["reading_list"]["anyOf"] == [about, {"type": "null"}]
    assert tools["count_in_all"]["inputSchema"]["properties"]["reading_lists"]["items"] == about
    assert tools["method"]["inputSchema"]["properties"] == {"reading_list": about | {"title": "Reading List"}}


async def test_one_handle_leads_on_from_sessions_to_calls_without_and_back(application: Application) -> None:
    client = Client(application, FIRST, token="token-of-alice")
    text = (await (await client.open()).call("start"))["result"]
    assert await Stateless(client).call("count", reading_list=text) == {"result": 1}
    assert await (await client.open()).call("count", reading_list=text) == {"result": 2}


async def test_handles_come_in_lists_models_and_dictionaries(alice_calls: Caller) -> None:
    several = await alice_calls.call("start_several", number=3)
    assert await alice_calls.call("count_in_all", reading_lists=several) == [1, 1, 1]
    assert await alice_calls.call("count_in_all", reading_lists=[*several[:1], *several]) == [2, 3, 2, 2]
    assert await alice_calls.call("count_in_all", reading_lists=[]) == []
    result = await alice_calls.call_tool("start_several", number=2)
    assert [content["text"] for content in result["content"]] == result["structuredContent"]["result"]
    for tool in ("start_with_view", "start_typed"):
        result = await alice_calls.call_tool(tool)
        text = result["structuredContent"]["reading_list"]
        assert f'"reading_list": "{text}"' in text_of(result)
        assert await alice_calls.call("count", reading_list=text) == 1


async def test_a_tool_that_does_not_say_what_it_returns_returns_plain_text_all_the_same(alice_calls: Caller) -> None:
    text = text_of(await alice_calls.call_tool("start_untold"))
    assert await alice_calls.call("count", reading_list=text) == 1


async def test_a_parameter_may_be_left_out_if_the_tool_says_so(alice_calls: Caller) -> None:
    text = await alice_calls.call("start_or_go_on")
    assert await alice_calls.call("start_or_go_on", reading_list=text) == text
    assert await alice_calls.call("start_or_go_on", reading_list=None) != text
    assert await alice_calls.call("count", reading_list=text) == 3


async def test_methods_of_handler_classes_take_and_give_them(alice_calls: Caller) -> None:
    text = await alice_calls.call("start")
    assert await alice_calls.call("method", reading_list=text) == 1
    assert await alice_calls.call("amethod", reading_list=text) == text


async def test_prompts_and_resources_take_them(alice_calls: Caller, bob_calls: Caller) -> None:
    text = await alice_calls.call("start")
    await alice_calls.call("add", reading_list=text, title="Emma")
    prompt = {"name": "advise", "arguments": {"reading_list": text}}
    response = await alice_calls.request("prompts/get", prompt)
    assert response.result["messages"][0]["content"]["text"] == "Advise on ['Emma']."
    resource = {"uri": f"lists://{text}"}
    contents = (await alice_calls.request("resources/read", resource)).result["contents"]
    assert "Emma" in contents[0]["text"]
    for method, params in (("prompts/get", prompt), ("resources/read", resource)):
        assert "There is no such reading_list" in (await bob_calls.request(method, params)).error["message"]
    broken = {"name": "advise", "arguments": {"reading_list": "Emma"}}
    assert "This is no reading_list" in (await alice_calls.request("prompts/get", broken)).error["message"]
    (listed,) = (await alice_calls.request("prompts/list", {})).result["prompts"]
    assert listed["arguments"][0]["description"] == "A reading list; start makes one."


# Whom it belongs to


async def test_for_everybody_else_there_is_no_such_handle(
    caller_of: CallerOf, alice_calls: Caller, stage: Stage
) -> None:
    text = await alice_calls.call("start")
    unknown = "reading_list-" + "x" * 22
    refusals = {
        await caller_of("token-of-bob").refused("ignore", reading_list=text),
        await caller_of(None).refused("ignore", reading_list=text),
        await caller_of("token-of-alice", SECOND).refused("ignore", reading_list=text),
        await alice_calls.refused("ignore", reading_list=unknown),
    }
    assert refusals == {
        "Error executing tool ignore: There is no such reading_list, or no longer: it has expired or was ended, or it "
        "is not this user's or this server's. Get another one from the tool that makes them. A reading list; start "
        "makes one."
    }
    assert stage.count("ignored") == 0
    assert await alice_calls.call("ignore", reading_list=text) is True


async def test_nobody_else_reads_changes_or_ends_it(caller_of: CallerOf, alice_calls: Caller) -> None:
    text = await alice_calls.call("start")
    before = await row_of(text)
    for stranger in (caller_of("token-of-bob"), caller_of(None), caller_of("token-of-alice", SECOND)):
        for tool in ("show", "count", "acount", "end", "method", "amethod", "start_or_go_on"):
            assert "There is no such reading_list" in await stranger.refused(tool, reading_list=text)
        assert "There is no such reading_list" in await stranger.refused("count_in_all", reading_lists=[text])
        assert "There is no such reading_list" in await stranger.refused("use_text", text=text)
        view = {"reading_list": text, "size": 1}
        assert "There is no such reading_list" in await stranger.refused("use_in_model", view=view)
    after = await row_of(text)
    assert (after.state_json, after.state_version, after.used_at) == (
        before.state_json,
        before.state_version,
        before.used_at,
    )


async def test_one_foreign_handle_in_a_list_refuses_the_whole_call(alice_calls: Caller, bob_calls: Caller) -> None:
    own, foreign = await alice_calls.call("start"), await bob_calls.call("start")
    assert "There is no such" in await alice_calls.refused("count_in_all", reading_lists=[own, foreign])
    assert await alice_calls.call("count", reading_list=own) == 1


async def test_an_object_that_a_handler_has_kept_opens_nothing_in_the_call_of_another(
    alice_calls: Caller, bob_calls: Caller
) -> None:
    text = await alice_calls.call("start")
    assert await alice_calls.call("keep", reading_list=text) == 1
    assert "There is no such reading_list" in await bob_calls.refused("use_kept")
    assert await alice_calls.call("use_kept") == 2


async def test_a_handle_of_an_anonymous_caller_belongs_to_whoever_has_its_text(
    caller_of: CallerOf, alice_calls: Caller
) -> None:
    text = await caller_of(None).call("start")
    assert await caller_of(None).call("count", reading_list=text) == 1
    assert "There is no such reading_list" in await alice_calls.refused("count", reading_list=text)


async def test_a_principal_that_some_collations_take_for_the_owner_is_not_the_owner(alice_calls: Caller) -> None:
    text = await alice_calls.call("start")
    for similar in ("Bearer:Alice", "bearer:alice "):
        await StoredHandle.objects.all().aupdate(principal=similar)
        assert "There is no such reading_list" in await alice_calls.refused("show", reading_list=text)


async def test_the_row_names_the_owner_and_holds_no_text(alice_calls: Caller) -> None:
    user = await User.objects.acreate_user("alice")
    text = await alice_calls.call("start")
    row = await row_of(text)
    assert (row.server, row.kind, row.principal, row.owner_id) == ("handles", "reading_list", "bearer:alice", user.pk)
    secret = text.removeprefix("reading_list-")
    async for values in StoredHandle.objects.values():
        assert secret not in repr(values)
    await user.adelete()
    assert not await StoredHandle.objects.aexists()


# What is no handle


@pytest.mark.parametrize(
    "argument",
    [
        "",
        "Emma",
        "reading_list",
        "reading_list-",
        "reading_list-short",
        "reading_list-" + "x" * 1000,
        "reading_list-" + "x" * 20 + "/ü",
        "Reading_List-" + "x" * 22,
        "cart-" + "x" * 22,
        " reading_list-" + "x" * 22,
        "reading_list-" + "x" * 22 + "\n",
        17,
        None,
        ["reading_list-" + "x" * 22],
        {"reading_list": "x"},
    ],
)
async def test_what_does_not_look_like_one_is_refused_with_what_one_looks_like(
    alice_calls: Caller, argument: Any, stage: Stage
) -> None:
    text = await alice_calls.refused("ignore", reading_list=argument)
    assert "This is no reading_list: their text begins with 'reading_list-'" in text
    assert "A reading list; start makes one." in text
    assert stage.count("ignored") == 0


async def test_a_handle_of_another_kind_is_refused(alice_calls: Caller) -> None:
    cart = await alice_calls.call("start_cart")
    assert "This is no reading_list" in await alice_calls.refused("ignore", reading_list=cart)
    assert await alice_calls.call("ignore_cart", cart=cart) is True
    await StoredHandle.objects.all().aupdate(kind="basket")
    assert "There is no such cart" in await alice_calls.refused("ignore_cart", cart=cart)


async def test_a_state_that_is_too_large_makes_none(alice_calls: Caller) -> None:
    assert "MCP_DJANGO_MAX_STATE_BYTES" in await alice_calls.refused("start_too_large")
    assert not await StoredHandle.objects.aexists()
    text = await alice_calls.call("start")
    with override_settings(MCP_DJANGO_MAX_STATE_BYTES=50):
        assert "MCP_DJANGO_MAX_STATE_BYTES" in await alice_calls.refused("add", reading_list=text, title="x" * 50)
    assert await alice_calls.call("add", reading_list=text, title="Emma") == ["Emma"]


# How long it lives


async def test_one_that_was_ended_is_gone_and_so_is_its_row(alice_calls: Caller) -> None:
    text = await alice_calls.call("start")
    assert await alice_calls.call("end", reading_list=text) is True
    assert "There is no such reading_list" in await alice_calls.refused("ignore", reading_list=text)
    assert not await StoredHandle.objects.aexists()


@pytest.mark.parametrize("tool", ["aend_twice", "end_and_use"])
async def test_a_tool_that_ends_one_cannot_go_on_with_it(alice_calls: Caller, tool: str) -> None:
    text = await alice_calls.call("start")
    assert "There is no such reading_list" in await alice_calls.refused(tool, reading_list=text)
    assert not await StoredHandle.objects.aexists()


async def test_one_that_nobody_has_used_for_its_time_has_expired(alice_calls: Caller) -> None:
    text = await alice_calls.call("start")
    await StoredHandle.objects.all().aupdate(expires_at=timezone.now())
    for tool in ("ignore", "show", "count", "end"):
        assert "There is no such reading_list" in await alice_calls.refused(tool, reading_list=text)
    processes.write_all()
    assert (await row_of(text)).expires_at <= timezone.now()


async def test_each_use_moves_its_expiry_by_the_time_that_its_class_says(alice_calls: Caller) -> None:
    now, hour = timezone.now(), timedelta(hours=1)
    for start, tool, parameter, ttl in (
        ("start", "ignore", "reading_list", timedelta(days=14)),
        ("start_cart", "ignore_cart", "cart", hour),
    ):
        text = await alice_calls.call(start)
        row = await row_of(text)
        assert row.expires_at - row.created_at == ttl
        assert row.used_at == row.created_at
        await StoredHandle.objects.filter(pk=row.pk).aupdate(used_at=now - hour, expires_at=now + hour / 2)
        await alice_calls.call(tool, **{parameter: text})
        await until_async(StoredHandle.objects.filter(pk=row.pk, used_at__gte=now).aexists)
        after = await row_of(text)
        assert after.expires_at - after.used_at == ttl


async def test_it_is_not_written_more_often_than_the_resolution_says(alice_calls: Caller) -> None:
    text = await alice_calls.call("start")
    for seconds, written in ((55, False), (65, True)):
        used_at = timezone.now() - timedelta(seconds=seconds)
        await StoredHandle.objects.all().aupdate(used_at=used_at)
        await alice_calls.call("ignore", reading_list=text)
        processes.write_all()
        assert ((await row_of(text)).used_at != used_at) is written


@override_settings(MCP_DJANGO_HANDLE_TTL=timedelta(days=3))
async def test_the_setting_says_how_long_those_live_whose_class_does_not(alice_calls: Caller) -> None:
    row = await row_of(await alice_calls.call("start"))
    assert row.expires_at - row.created_at == timedelta(days=3)


# Many at once, and processes that come and go


@pytest.mark.parametrize("tool", ["count", "acount"])
async def test_calls_that_come_at_once_lose_no_change(alice_calls: Caller, tool: str) -> None:
    text = await alice_calls.call("start")
    found = await asyncio.gather(*(alice_calls.call(tool, reading_list=text) for _ in range(30)))
    assert sorted(found) == list(range(1, 31))


async def test_modifications_that_come_at_once_lose_nothing(alice_calls: Caller) -> None:
    text = await alice_calls.call("start")
    titles = [f"Book {number}" for number in range(8)]
    await asyncio.gather(*(alice_calls.call("add", reading_list=text, title=title) for title in titles))
    assert sorted((await row_of(text)).state["books"]) == titles


async def test_it_outlives_the_process_that_made_it(alice_calls: Caller, server_processes: Processes) -> None:
    text = await alice_calls.call("start")
    assert await alice_calls.call("count", reading_list=text) == 1
    if alice_calls.era == "sessions":
        await server_processes.restart()
    else:
        server_processes.become(server_processes.current)
    assert await alice_calls.call("count", reading_list=text) == 2


async def test_without_a_session_nothing_is_written_but_the_handle(application: Application) -> None:
    stateless = Stateless(Client(application, FIRST))
    text = (await stateless.call("start"))["result"]
    await stateless.call("count", reading_list=text)
    assert await StoredHandle.objects.acount() == 1
    assert not await SessionRow.objects.aexists()


@override_settings(MCP_DJANGO_SESSION_STORE="mcp_django.memory.MemoryStore")
async def test_with_the_memory_store_they_live_in_this_process(caller_of: CallerOf) -> None:
    alice, bob = caller_of("token-of-alice"), caller_of("token-of-bob")
    text = await alice.call("start")
    assert await alice.call("add", reading_list=text, title="Emma") == ["Emma"]
    assert await alice.call("count", reading_list=text) == 1
    assert "There is no such reading_list" in await bob.refused("count", reading_list=text)
    assert await alice.call("end", reading_list=text) is True
    assert "There is no such reading_list" in await alice.refused("show", reading_list=text)
    assert not await StoredHandle.objects.aexists()
    processes.forget()


async def test_its_text_is_in_no_repr(alice_calls: Caller) -> None:
    text = await alice_calls.call("start")
    assert repr(ReadingList(text)) == f"<ReadingList {(await row_of(text)).short_id}>"
