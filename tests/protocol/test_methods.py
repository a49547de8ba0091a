"""The methods of a session, and what their results look like on the wire."""

from __future__ import annotations

import base64
from typing import Any

import pytest

from mcp_django.models import Session as Row
from tests.protocol.client import Client, case, text_of
from tests.protocol.processes import Processes
from tests.protocol.servers import SCHEMA, SECRET
from tests.protocol.stage import Stage

pytestmark = pytest.mark.anyio


async def test_ping_is_answered_with_an_empty_result(client: Client) -> None:
    session = await client.open()
    assert (await session.request("ping")).result == {}
    assert (await session.request("ping", {})).result == {}


# Tools


async def test_tools_are_listed_with_their_schemas(client: Client) -> None:
    session = await client.open()
    tools = {tool["name"]: tool for tool in (await session.request("tools/list")).result["tools"]}
    assert tools["add"]["title"] == "Add"
    assert tools["add"]["description"] == "Add two numbers."
    assert tools["add"]["inputSchema"]["required"] == ["a", "b"]
    assert tools["add"]["outputSchema"]["properties"]["result"]["type"] == "integer"
    assert all(tool["description"] and tool["inputSchema"]["type"] == "object" for tool in tools.values())


WITH_MORE_THAN_THE_CLIENT_SENDS = ["facts", "facts_in_thread", "count", "handled", "second", "discount"]


async def test_a_schema_shows_what_the_client_sends_and_nothing_of_ours(client: Client) -> None:
    session = await client.open()
    for tool in WITH_MORE_THAN_THE_CLIENT_SENDS:
        with case(tool):
            tools = {tool["name"]: tool for tool in (await session.request("tools/list")).result["tools"]}
            assert set(tools[tool]["inputSchema"].get("properties", {})) == ({"price"} if tool == "discount" else set())


async def test_a_schema_of_the_tool_s_own_is_shown_untouched_and_arguments_reach_the_function(client: Client) -> None:
    session = await client.open()
    tools = {tool["name"]: tool for tool in (await session.request("tools/list")).result["tools"]}
    assert tools["with_schema"]["inputSchema"] == SCHEMA
    assert await session.call("with_schema", shelf="A1") == {"result": "A1"}


@pytest.mark.parametrize("name", ["add", "multiply"])
async def test_a_result_is_structured_and_the_same_as_text(client: Client, name: str) -> None:
    session = await client.open()
    result = await session.call_tool(name, a=20, b=2)
    value = 22 if name == "add" else 40
    assert result["structuredContent"] == {"result": value}
    assert result["content"] == [{"type": "text", "text": str(value)}]
    assert not result["isError"]


async def test_a_tool_without_arguments_may_be_called_without_any(client: Client) -> None:
    session = await client.open()
    assert (await session.request("tools/call", {"name": "second"})).result["structuredContent"] == {"result": "second"}


@pytest.mark.filterwarnings("ignore:The logging capability is deprecated")
async def test_progress_and_log_messages_that_nobody_wants_are_not_sent_and_the_answer_stays_in_one_piece(
    client: Client,
) -> None:
    session = await client.open()
    await session.request("logging/setLevel", {"level": "warning"})
    assert await session.call("talk") == {"value": "done"}


@pytest.mark.parametrize("tool", ["fail", "fail_in_thread"])
@pytest.mark.parametrize(
    ("how", "text"), [("tool", "The shelf is full."), ("handler", "The shelf is locked.")], ids=["tool", "handler"]
)
async def test_an_error_that_is_meant_for_the_model_reaches_it(client: Client, tool: str, how: str, text: str) -> None:
    session = await client.open()
    result = await session.call_tool(tool, how=how)
    assert result["isError"]
    assert text in text_of(result)
    assert "structuredContent" not in result


@pytest.mark.parametrize("tool", ["fail", "fail_in_thread"])
async def test_any_other_exception_is_hidden_from_the_model_and_logged(
    client: Client, tool: str, caplog: pytest.LogCaptureFixture
) -> None:
    session = await client.open()
    response = await session.post(session.tool(tool, how="plain"))
    assert response.result["isError"]
    assert SECRET not in response.body.decode()
    assert SECRET in caplog.text


@pytest.mark.parametrize("tool", ["fail", "fail_in_thread"])
async def test_a_protocol_error_of_a_tool_is_the_request_s_error(client: Client, tool: str) -> None:
    session = await client.open()
    error = (await session.post(session.tool(tool, how="mcp"))).error
    assert error == {"code": -32050, "message": "The shelf is on fire.", "data": {"where": "aisle 3"}}


async def test_an_unknown_tool_is_an_error_whatever_its_arguments(client: Client) -> None:
    session = await client.open()
    for arguments in ({}, {"a": 1}):
        response = await session.post(session.tool("no_such_tool", **arguments))
        assert response.error["code"] == -32602
        assert "no_such_tool" in response.error["message"]


@pytest.mark.parametrize(("price", "paid"), [(50, 50), (200, 180)])
async def test_a_sync_resolver_fills_a_parameter_and_may_use_the_orm(client: Client, price: int, paid: int) -> None:
    session = await client.open()
    assert await session.call("discount", price=price) == {"result": paid}
    # Nobody can send it instead.
    assert await session.call("discount", price=price, rate=99) == {"result": paid}


async def test_methods_of_a_handler_share_one_instance_per_session(client: Client, stage: Stage) -> None:
    one, two = await client.open(), await client.open()
    first, second = await one.call("handled"), await two.call("handled")
    assert first["session_is_mine"]
    assert second["session_is_mine"]
    assert first["instance"] != second["instance"]
    assert await one.call("handled_in_thread") == first
    assert stage.count("made") == 2


# Prompts


async def test_prompts_are_listed_with_their_arguments(client: Client) -> None:
    session = await client.open()
    prompts = {prompt["name"]: prompt for prompt in (await session.request("prompts/list")).result["prompts"]}
    assert prompts["greet"]["title"] == "Greeting"
    assert prompts["greet"]["description"] == "Greet somebody."
    arguments = {argument["name"]: argument.get("required", False) for argument in prompts["greet"]["arguments"]}
    assert arguments == {"name": True, "style": False}


async def test_a_prompt_is_rendered(client: Client) -> None:
    session = await client.open()
    result = (await session.request("prompts/get", {"name": "greet", "arguments": {"name": "Ada"}})).result
    (message,) = result["messages"]
    assert message == {"role": "user", "content": {"type": "text", "text": "Greet Ada, plain."}}
    result = (await session.request("prompts/get", {"name": "repeat", "arguments": {"times": "2"}})).result
    assert result["messages"][0]["content"]["text"] == "again again "


UNRENDERABLE = [
    ({"name": "no_such_prompt"}, "no_such_prompt"),
    ({"name": "greet"}, "name"),
    ({"name": "greet", "arguments": {}}, "name"),
    ({"name": "greet", "arguments": {"style": "polite"}}, "name"),
    ({"name": "repeat", "arguments": {"times": "often"}}, "times"),
]


async def test_a_prompt_that_cannot_be_rendered_is_invalid_params_and_says_why(client: Client) -> None:
    session = await client.open()
    for params, told in UNRENDERABLE:
        with case((params, told)):
            error = (await session.request("prompts/get", params)).error
            assert error["code"] == -32602
            assert told in error["message"]


async def test_a_prompt_with_a_bug_is_an_internal_error_that_tells_nothing(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    session = await client.open()
    response = await session.request("prompts/get", {"name": "broken_prompt"})
    assert response.error["code"] == -32603
    assert SECRET not in response.body.decode()
    assert SECRET in caplog.text


# Resources


async def test_resources_and_templates_are_listed_apart(client: Client) -> None:
    session = await client.open()
    resources = (await session.request("resources/list")).result["resources"]
    templates = (await session.request("resources/templates/list")).result["resourceTemplates"]
    assert {resource["uri"] for resource in resources} == {
        "test://session",
        "test://users",
        "test://bytes",
        "test://broken",
    }
    assert {template["uriTemplate"] for template in templates} == {"test://books/{isbn}", "test://handled/{name}"}


@pytest.mark.parametrize(
    ("uri", "content"),
    [
        ("test://session", {"mimeType": "text/plain", "text": "a client reads"}),
        ("test://books/978-3", {"mimeType": "text/plain", "text": "book 978-3 for a client"}),
        ("test://bytes", {"mimeType": "application/octet-stream", "blob": base64.b64encode(b"\x00\x01\xff").decode()}),
    ],
)
async def test_a_resource_is_read(client: Client, uri: str, content: dict[str, str]) -> None:
    session = await client.open()
    result = (await session.request("resources/read", {"uri": uri})).result
    assert result["contents"] == [{"uri": uri, **content}]


async def test_a_sync_resource_may_use_the_orm(client: Client) -> None:
    session = await client.open()
    (content,) = (await session.request("resources/read", {"uri": "test://users"})).result["contents"]
    assert content["text"].replace(" ", "").replace("\n", "") == '{"users":0}'


async def test_a_template_may_be_a_method_of_a_handler(client: Client) -> None:
    session = await client.open()
    instance = (await session.call("handled"))["instance"]
    (content,) = (await session.request("resources/read", {"uri": "test://handled/me"})).result["contents"]
    assert content["text"] == f"me from {instance}"


async def test_a_static_resource_with_a_context_knows_each_reader(client: Client) -> None:
    one, two = await client.open(name="one"), await client.open(name="two")
    for session, name in ((one, "one"), (two, "two"), (one, "one")):
        result = (await session.request("resources/read", {"uri": "test://session"})).result
        assert result["contents"][0]["text"] == f"{name} reads"


UNKNOWN_URIS = ["test://nothing", "test://books", "other://books/1", "test://books/1/2"]


async def test_a_tool_may_read_resources_of_its_server_and_go_without_those_that_do_not_exist(client: Client) -> None:
    session = await client.open()
    assert await session.call("excerpt", uri="no://such") == {"value": "went without"}


async def test_an_unknown_resource_is_32002_and_names_the_uri(client: Client) -> None:
    session = await client.open()
    for uri in UNKNOWN_URIS:
        with case(uri):
            error = (await session.request("resources/read", {"uri": uri})).error
            assert error["code"] == -32002
            assert error["data"] == {"uri": uri}


async def test_a_resource_with_a_bug_is_an_internal_error_that_tells_nothing(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    session = await client.open()
    response = await session.request("resources/read", {"uri": "test://broken"})
    assert response.error["code"] == -32603
    assert SECRET not in response.body.decode()
    assert SECRET in caplog.text


# Completions


def question(argument: str, value: str = "", **context: Any) -> dict[str, Any]:
    ref = {"type": "ref/prompt", "name": "greet"}
    return {"ref": ref, "argument": {"name": argument, "value": value}} | context


async def test_at_most_a_hundred_completions_leave_and_it_is_said_that_there_are_more(client: Client) -> None:
    session = await client.open()
    completion = (await session.request("completion/complete", question("name", "Ada"))).result["completion"]
    assert completion["values"] == [f"Ada{number:03}" for number in range(100)]
    assert completion["hasMore"] is True
    assert completion["total"] == 150


async def test_completions_know_what_has_been_filled_in_and_sync_ones_are_asked_too(client: Client) -> None:
    session = await client.open()
    asked = question("style", "po", context={"arguments": {"name": "Ada"}})
    completion = (await session.request("completion/complete", asked)).result["completion"]
    assert completion["values"] == ["polite", "pompous", "Ada"]
    assert not completion.get("hasMore")


async def test_a_completion_with_a_context_answers_for_templates(client: Client) -> None:
    session = await client.open(name="the reader")
    params = {
        "ref": {"type": "ref/resource", "uri": "test://books/{isbn}"},
        "argument": {"name": "isbn", "value": "9"},
    }
    completion = (await session.request("completion/complete", params)).result["completion"]
    assert completion == {"values": ["test://books/{isbn} the reader"], "total": 7, "hasMore": True}


async def test_a_question_that_nobody_can_answer_has_no_completions(client: Client) -> None:
    session = await client.open()
    completion = (await session.request("completion/complete", question("unheard_of"))).result["completion"]
    assert completion["values"] == []


# Logging


LEVELS = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"]


async def test_a_log_level_is_kept(client: Client) -> None:
    session = await client.open()
    for level in LEVELS:
        with case(level):
            assert (await session.request("logging/setLevel", {"level": level})).result == {}
            assert (await session.call("facts"))["log_level"] == level
            assert (await Row.objects.aget()).log_level == level


async def test_processes_that_alternate_see_each_other_s_log_level_and_state_at_once(
    client: Client, server_processes: Processes
) -> None:
    session = await client.open()
    first = server_processes.current
    await server_processes.another()
    second = server_processes.current
    assert await session.call("count") == {"value": 1}
    value = 1
    for level in ("debug", "error", "info", "alert"):
        for here, there in ((first, second), (second, first)):
            server_processes.become(here)
            await session.request("logging/setLevel", {"level": level})
            value += 1
            assert await session.call("count") == {"value": value}
            server_processes.become(there)
            assert (await session.call("facts"))["log_level"] == level
            assert await session.call("state") == {"value": {"count": value}}
    assert (await session.call("facts"))["restored"] is None, "The last of them is the first, which never lost it."


async def test_a_bad_log_level_changes_nothing(client: Client) -> None:
    session = await client.open()
    await session.request("logging/setLevel", {"level": "info"})
    assert (await session.request("logging/setLevel", {"level": "loud"})).error["code"] == -32602
    assert (await Row.objects.aget()).log_level == "info"


# Others


NOT_THERE = [
    "no/such/method",
    "server/discover",
    "subscriptions/listen",
    "sampling/createMessage",
    "elicitation/create",
    "roots/list",
    "tasks/list",
    "Ping",
    "__init__",
    "rpc.discover",
]


async def test_a_method_that_is_not_there_is_32601(client: Client) -> None:
    session = await client.open()
    for method in NOT_THERE:
        with case(method):
            assert (await session.request(method, {"uri": "test://session"})).error["code"] == -32601


@pytest.mark.parametrize("method", ["prompts/list", "resources/list", "completion/complete", "resources/subscribe"])
async def test_a_server_without_tools_answers_only_for_what_it_has(client: Client, method: str) -> None:
    client.path = "/empty/mcp"
    session = await client.open()
    assert (await session.request("ping")).result == {}
    if method not in ("prompts/list", "resources/list"):
        assert (await session.request(method, question("name") | {"uri": "test://a"})).error["code"] == -32601
    else:
        assert (await session.request(method)).result[method.partition("/")[0]] == []


async def test_a_second_initialize_in_a_session_by_request_is_a_new_session(client: Client) -> None:
    session = await client.open()
    again = await session.request("initialize", {"protocolVersion": "2025-06-18"})
    assert again.error["code"] == -32602
    assert (await session.call("facts"))["version"] == "2025-11-25"
