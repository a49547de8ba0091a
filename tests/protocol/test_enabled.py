"""What is offered only at times: hidden from every list, and unknown to whoever asks for it all the same."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest
from django.contrib.auth.models import User

from tests.protocol.client import Client, Session, case
from tests.protocol.processes import Processes
from tests.protocol.servers import SECRET
from tests.protocol.stage import Stage

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.anyio

LISTS = [
    ("tools/list", "tools", "name", {"sync_tool", "async_tool", "method_tool"}),
    ("prompts/list", "prompts", "name", {"sync_prompt", "async_prompt", "method_prompt"}),
    ("resources/list", "resources", "uri", {"test://sync/static", "test://async/static", "test://method/static"}),
    (
        "resources/templates/list",
        "resourceTemplates",
        "uriTemplate",
        {"test://sync/made/{name}", "test://async/made/{name}"},
    ),
]
lists = pytest.mark.parametrize(("method", "key", "name", "hidden"), LISTS, ids=[entry[0] for entry in LISTS])

TOOLS = ["sync_tool", "async_tool", "method_tool"]
PROMPTS = ["sync_prompt", "async_prompt", "method_prompt"]
URIS = ["test://sync/static", "test://async/static", "test://method/static"]


@pytest.fixture
def client(client: Client) -> Client:
    client.path = "/switching/mcp"
    return client


async def show() -> None:
    await User.objects.acreate(username="open")


async def hide() -> None:
    await User.objects.filter(username="open").adelete()


async def listed(session: Session, method: str, key: str, name: str) -> list[str]:
    return [item[name] for item in (await session.request(method)).result[key]]


@lists
async def test_what_is_hidden_is_in_no_list_and_what_is_shown_again_is_at_its_place(
    client: Client, method: str, key: str, name: str, hidden: set[str]
) -> None:
    session = await client.open()
    without = await listed(session, method, key, name)
    assert not hidden & set(without)
    await show()
    everything = await listed(session, method, key, name)
    assert hidden <= set(everything)
    assert [item for item in everything if item not in hidden] == without
    await hide()
    assert await listed(session, method, key, name) == without
    await show()
    assert await listed(session, method, key, name) == everything


async def test_what_cannot_be_hidden_is_always_there(client: Client) -> None:
    session = await client.open()
    assert await listed(session, "tools/list", "tools", "name") == ["always", "read"]
    assert await session.call("always") == {"result": "always"}


async def answers_like_unknown(
    names: list[str], unknown: str, ask: Callable[[str], Awaitable[Any]], worked: Callable[[Any], object]
) -> None:
    """What is hidden answers exactly like ``unknown``, but for its name; once it is shown it works."""
    expected = (await ask(unknown)).json["error"]
    for name in names:
        with case(name):
            response = await ask(name)
            assert response.status == 200
            error = response.json["error"]
            assert error["code"] == expected["code"]
            assert error["message"] == expected["message"].replace(unknown, name)
            assert error.get("data") == ({"uri": name} if "data" in expected else None)
    await show()
    for name in names:
        with case(name):
            assert worked((await ask(name)).result)


async def test_a_hidden_tool_answers_like_an_unknown_one(client: Client) -> None:
    session = await client.open()
    await answers_like_unknown(
        TOOLS,
        "no_such_tool",
        lambda name: session.post(session.tool(name)),
        lambda result: not result["isError"] and result["structuredContent"],
    )
    await hide()
    assert (await session.post(session.tool("sync_tool"))).error["code"] == -32602


async def test_a_hidden_prompt_answers_like_an_unknown_one(client: Client) -> None:
    session = await client.open()
    await answers_like_unknown(
        PROMPTS,
        "no_such_prompt",
        lambda name: session.request("prompts/get", {"name": name}),
        lambda result: result["messages"],
    )


@pytest.mark.parametrize("method", ["resources/read", "resources/subscribe"])
async def test_a_hidden_resource_answers_like_an_unknown_one(client: Client, method: str) -> None:
    session = await client.open()
    await answers_like_unknown(
        URIS,
        "test://no/such/thing",
        lambda uri: session.request(method, {"uri": uri}),
        lambda result: result == {} if method == "resources/subscribe" else result["contents"],
    )


async def test_a_hidden_resource_is_unknown_to_other_handlers_too(client: Client) -> None:
    session = await client.open()
    hidden, unknown = [
        str((await session.post(session.tool("read", uri=uri))).json | {"id": None}).replace(uri, "URI")
        for uri in ("test://sync/static", "test://no/such/thing")
    ]
    assert hidden == unknown
    assert "Unknown resource" in hidden
    await show()
    assert await session.call("read", uri="test://sync/static") == {"result": "a resource"}


@pytest.mark.parametrize("how", ["sync", "async"])
async def test_a_hidden_template_leaves_its_uris_to_the_next_that_makes_them(client: Client, how: str) -> None:
    session = await client.open()
    uri = f"test://{how}/made/ada"
    for expected, change in (("a stand-in for ada", show), ("made for ada", hide), ("a stand-in for ada", show)):
        (content,) = (await session.request("resources/read", {"uri": uri})).result["contents"]
        assert (content["text"], content["uri"]) == (expected, uri)
        assert (await session.request("resources/subscribe", {"uri": uri})).result == {}
        await change()


async def test_a_variable_that_one_template_refuses_is_not_for_the_next(client: Client) -> None:
    session = await client.open()
    uri = "test://sync/made/.."
    for change in (show, hide):
        for method in ("resources/read", "resources/subscribe"):
            error = (await session.request(method, {"uri": uri})).error
            assert error["code"] == -32002
        await change()


async def test_everybody_is_offered_the_same(client: Client, alice: Client, server_processes: Processes) -> None:
    alice.path = client.path
    sessions = [await client.open("2025-03-26"), await alice.open()]
    for change in (show, hide):
        await change()
        found = [await listed(session, "tools/list", "tools", "name") for session in sessions]
        await server_processes.another()
        found += [await listed(session, "tools/list", "tools", "name") for session in sessions]
        assert found == [found[0]] * 4
        assert ("sync_tool" in found[0]) is (change is show)


async def test_hidden_things_leave_no_gaps_in_pages(client: Client, settings: Settings) -> None:
    settings.MCP_DJANGO_PAGE_SIZE = 2
    session = await client.open()
    result = (await session.request("tools/list")).result
    assert [tool["name"] for tool in result["tools"]] == ["always", "read"]
    assert "nextCursor" not in result
    await show()
    result = (await session.request("tools/list")).result
    assert [tool["name"] for tool in result["tools"]] == ["always", "read"]
    rest = (await session.request("tools/list", {"cursor": result["nextCursor"]})).result
    assert [tool["name"] for tool in rest["tools"]] == ["sync_tool", "async_tool"]


async def test_what_a_server_can_do_is_told_whether_it_is_offered_now_or_not(client: Client) -> None:
    hidden = (await client.handshake()).result["capabilities"]
    await show()
    assert (await client.handshake()).result["capabilities"] == hidden
    assert {"tools", "prompts", "resources"} <= set(hidden)


async def test_sync_functions_are_asked_in_threads_of_the_pool_and_async_ones_in_the_loop(
    client: Client, stage: Stage
) -> None:
    session = await client.open()
    await session.request("tools/list")
    (sync,), (asynchronous,) = stage.details("asked sync"), stage.details("asked async")
    assert sync.startswith("mcp-django-call")
    assert not asynchronous.startswith("mcp-django-call")


async def test_a_function_is_asked_once_for_a_list_and_not_at_all_for_what_it_does_not_decide(
    client: Client, stage: Stage
) -> None:
    session = await client.open()
    for method, _key, _name, _hidden in LISTS:
        with case(method):
            stage.reset()
            await session.request(method)
            assert (stage.count("asked sync"), stage.count("asked async")) == (1, 1)
    stage.reset()
    await session.call("always")
    await session.request("resources/read", {"uri": "test://other/made/thing"})
    await session.post(session.tool("no_such_tool"))
    assert stage.events == []


@pytest.mark.parametrize("how", ["sync", "async"])
async def test_a_function_that_fails_fails_the_request_and_hides_nothing(
    client: Client, stage: Stage, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    session = await client.open()
    await show()
    requests = [
        ("tools/list", None),
        ("tools/call", {"name": f"{how}_tool"}),
        ("prompts/get", {"name": f"{how}_prompt"}),
        ("resources/read", {"uri": f"test://{how}/static"}),
        ("resources/subscribe", {"uri": f"test://{how}/static"}),
    ]
    for method, params in requests:
        with case(method):
            caplog.clear()
            stage.fail(f"asked {how}", RuntimeError(SECRET))
            response = await session.request(method, params)
            assert response.error["code"] == -32603
            assert SECRET not in response.body.decode()
            assert SECRET in caplog.text
            stage.reset()
            assert "result" in (await session.request(method, params)).json
