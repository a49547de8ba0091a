"""The fixtures of the conformance suite do what they say, for clients of either era: the suite itself hardly looks."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest

from demo_project.everything.conformance.contents import PNG, WAV
from tests.demo.eras import REVISIONS, Caller, caller, plain
from tests.protocol.client import Client, case, progress_of, text_of
from tests.protocol.stateless import ASKABLE, MODERN, Stateless

pytestmark = [
    pytest.mark.anyio,
    # Sampling, roots and log messages are on their way out of the protocol; sessions have them.
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]

revisions = pytest.mark.parametrize("revision", REVISIONS)

IMAGE = {"type": "image", "data": b64encode(PNG).decode(), "mimeType": "image/png"}
AUDIO = {"type": "audio", "data": b64encode(WAV).decode(), "mimeType": "audio/wav"}
FAILURE = "Error executing tool test_error_handling: This tool intentionally returns an error for testing"


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def embedded(uri: str, mime_type: str, value: str) -> dict[str, Any]:
    return {"type": "resource", "resource": {"uri": uri, "mimeType": mime_type, "text": value}}


def message(content: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": content}


# What is answered without a question


CONTENTS: dict[str, tuple[dict[str, Any], list[dict[str, Any]]]] = {
    "test_simple_text": ({}, [text("This is a simple text response for testing.")]),
    "test_image_content": ({}, [IMAGE]),
    "test_audio_content": ({}, [AUDIO]),
    "test_embedded_resource": (
        {},
        [embedded("test://embedded-resource", "text/plain", "This is an embedded resource content.")],
    ),
    "test_multiple_content_types": (
        {},
        [
            text("Multiple content types test:"),
            IMAGE,
            embedded("test://mixed-content-resource", "application/json", '{"test":"data","value":123}'),
        ],
    ),
    "json_schema_2020_12_tool": ({"name": "Ada", "email": "a@example.com"}, [text("Reach Ada at a@example.com.")]),
    "test_tool_with_progress": ({}, [text("Progress token: None")]),
    "test_trigger_tool_change": ({}, [text("The tool list changed.")]),
    "test_trigger_prompt_change": ({}, [text("The prompt list changed.")]),
    "test_missing_capability": ({}, [text("This client lends its model.")]),
}

RESOURCES: dict[str, dict[str, Any]] = {
    "test://static-text": {"mimeType": "text/plain", "text": "This is the content of the static text resource."},
    "test://static-binary": {"mimeType": "image/png", "blob": IMAGE["data"]},
    "test://watched-resource": {"mimeType": "text/plain", "text": "Watched resource content."},
    "test://template/123/data": {
        "mimeType": "application/json",
        "text": json.dumps({"id": "123", "templateTest": True, "data": "Data for ID: 123"}),
    },
}

PROMPTS: dict[str, tuple[dict[str, str], list[dict[str, Any]]]] = {
    "test_simple_prompt": ({}, [message(text("This is a simple prompt for testing."))]),
    "test_prompt_with_arguments": (
        {"arg1": "one", "arg2": "two"},
        [message(text("Prompt with arguments: arg1='one', arg2='two'"))],
    ),
    "test_prompt_with_embedded_resource": (
        {"resourceUri": "test://example"},
        [
            message(embedded("test://example", "text/plain", "Embedded resource content for testing.")),
            message(text("Please process the embedded resource above.")),
        ],
    ),
    "test_prompt_with_image": ({}, [message(IMAGE), message(text("Please analyze the image above."))]),
}


@revisions
async def test_a_tool_answers_with_exactly_this_content(everything: Client, revision: str) -> None:
    client = await caller(everything, revision)
    for name, (arguments, content) in CONTENTS.items():
        with case(name):
            result = await client.request("tools/call", {"name": name, "arguments": arguments})
            assert plain(result) == {"content": content, "isError": False}


@revisions
async def test_a_failing_tool_answers_with_its_own_words(everything: Client, revision: str) -> None:
    client = await caller(everything, revision)
    result = await client.request("tools/call", {"name": "test_error_handling"})
    assert plain(result) == {"content": [text(FAILURE)], "isError": True}


@revisions
async def test_a_resource_is_read_as_it_is_listed(everything: Client, revision: str) -> None:
    client = await caller(everything, revision)
    listed = {item["uri"]: item for item in (await client.request("resources/list"))["resources"]}
    for uri, content in RESOURCES.items():
        with case(uri):
            result = await client.request("resources/read", {"uri": uri})
            assert plain(result) == {"contents": [{"uri": uri, **content}]}
            assert listed.get(uri, content)["mimeType"] == content["mimeType"]


@revisions
async def test_a_prompt_says_exactly_this(everything: Client, revision: str) -> None:
    client = await caller(everything, revision)
    for name, (arguments, messages) in PROMPTS.items():
        with case(name):
            result = await client.request("prompts/get", {"name": name, "arguments": arguments})
            assert result["messages"] == messages


@revisions
async def test_an_argument_is_completed_by_what_fits(everything: Client, revision: str) -> None:
    client = await caller(everything, revision)
    cases = [
        ({"type": "ref/prompt", "name": "test_prompt_with_arguments"}, "arg1", "test", ["test-one", "test-two"]),
        ({"type": "ref/resource", "uri": "test://template/{id}/data"}, "id", "1", ["1", "123"]),
    ]
    for reference, name, begun, values in cases:
        argument = {"name": name, "value": begun}
        result = await client.request("completion/complete", {"ref": reference, "argument": argument})
        assert result["completion"]["values"] == values


@revisions
async def test_structured_output_is_of_the_schema_that_is_listed(everything: Client, revision: str) -> None:
    client = await caller(everything, revision)
    listed = {tool["name"]: tool for tool in (await client.request("tools/list"))["tools"]}
    calls = {"add": {"a": 2, "b": 3}, "session_info": {}, "slow_progress": {"steps": 1, "seconds": 0}}
    for name, arguments in calls.items():
        result = await client.request("tools/call", {"name": name, "arguments": arguments})
        jsonschema.validate(result["structuredContent"], listed[name]["outputSchema"])
    assert [name for name in CONTENTS if "outputSchema" in listed[name]] == []


@pytest.mark.parametrize(
    ("value", "header"), [("eu-west", "eu-west"), ("Zürich", "=?base64?WsO8cmljaA==?="), ("", None)]
)
async def test_an_argument_that_a_header_repeats_arrives(everything: Client, value: str, header: str | None) -> None:
    arguments = {"region": value} if value else {}
    stateless = Stateless(everything)
    headers = {"Mcp-Param-Region": header}
    response = await stateless.post(stateless.tool("test_x_mcp_header", arguments), headers)
    assert text_of(response.result) == f"region={value}"
    assert text_of(await (await everything.open()).call_tool("test_x_mcp_header", **arguments)) == f"region={value}"


# What is asked on the way


def accept(**content: Any) -> dict[str, Any]:
    return {"elicitation/create": {"action": "accept", "content": content}}


def sampled(words: str) -> dict[str, Any]:
    content = {"type": "text", "text": words}
    return {"sampling/createMessage": {"role": "assistant", "content": content, "model": "m", "stopReason": "endTurn"}}


ROOTS = {"roots/list": {"roots": [{"uri": "file:///home", "name": "home"}, {"uri": "file:///work"}]}}
DEFAULTS = {"name": "Jane", "age": 25, "score": 88.5, "status": "inactive", "verified": False}
CHOICES = {
    "untitledSingle": "option1",
    "titledSingle": "value1",
    "legacyEnum": "opt1",
    "untitledMulti": ["option1", "option2"],
    "titledMulti": ["value1", "value2"],
}
ROUNDS = "test_input_required_result_"

CONVERSATIONS: dict[str, tuple[dict[str, str], list[dict[str, Any]], str]] = {
    "test_sampling": ({"prompt": "Say it."}, [sampled("It.")], "LLM response: It."),
    "test_elicitation": (
        {"message": "Who are you?"},
        [accept(username="ada", email="ada@example.com")],
        'User response: action=accept, content={"username":"ada","email":"ada@example.com"}',
    ),
    "test_streaming_elicitation": (
        {},
        [accept(username="ada", email="ada@example.com")],
        'User response: action=accept, content={"username":"ada","email":"ada@example.com"}',
    ),
    "test_elicitation_sep1034_defaults": (
        {},
        [accept(**DEFAULTS)],
        f"User response: action=accept, content={json.dumps(DEFAULTS, separators=(',', ':'))}",
    ),
    "test_elicitation_sep1330_enums": (
        {},
        [accept(**CHOICES)],
        f"User response: action=accept, content={json.dumps(CHOICES, separators=(',', ':'))}",
    ),
    f"{ROUNDS}elicitation": ({}, [accept(name="Alice")], "Hello, Alice!"),
    f"{ROUNDS}sampling": ({}, [sampled("Paris.")], "The model said: Paris."),
    f"{ROUNDS}list_roots": ({}, [ROOTS], "Roots: file:///home, file:///work"),
    f"{ROUNDS}request_state": ({}, [accept(ok=True)], "state-ok: what the first round knows, confirmed: True"),
    f"{ROUNDS}multiple_inputs": (
        {},
        [accept(name="Alice") | sampled("Good day") | ROOTS],
        "Good day, Alice! Roots: file:///home, file:///work",
    ),
    f"{ROUNDS}multi_round": ({}, [accept(name="Alice"), accept(color="blue")], "Alice likes blue."),
    f"{ROUNDS}tampered_state": (
        {},
        [accept(ok=False)],
        "The state came back as it was: what the first round knows",
    ),
    f"{ROUNDS}capabilities": (
        {},
        [accept(name="Alice") | sampled("Good day") | ROOTS],
        "Answered: client_roots, greeting, user_name",
    ),
}


async def converse(client: Caller, tool: str) -> str:
    arguments, rounds, _answer = CONVERSATIONS[tool]
    result = await client.request("tools/call", {"name": tool, "arguments": arguments}, *rounds)
    assert not result["isError"]
    return text_of(result)


@pytest.mark.parametrize("tool", CONVERSATIONS)
async def test_a_tool_asks_clients_of_both_eras_the_same_and_makes_the_same_of_their_answers(
    everything: Client, tool: str
) -> None:
    of_session, stateless = await caller(everything, "2025-11-25"), await caller(everything, MODERN)
    answer = CONVERSATIONS[tool][2]
    assert [await converse(client, tool) for client in (of_session, stateless)] == [answer, answer]
    assert [sorted(asked, key=str) for asked in of_session.asked] == [
        sorted(asked, key=str) for asked in stateless.asked
    ]


@revisions
async def test_a_prompt_asks_first(everything: Client, revision: str) -> None:
    client = await caller(everything, revision)
    rounds = [accept(context="a trip")]
    result = await client.request("prompts/get", {"name": f"{ROUNDS}prompt"}, *rounds)
    assert result["messages"] == [message(text("Help me with this: a trip"))]


@revisions
@pytest.mark.parametrize("action", ["decline", "cancel"])
async def test_a_tool_is_told_what_the_user_does_not_want(everything: Client, revision: str, action: str) -> None:
    client = await caller(everything, revision)
    call = {"name": "test_elicitation_sep1034_defaults"}
    result = await client.request("tools/call", call, {"elicitation/create": {"action": action}})
    assert text_of(result) == f"User response: action={action}, content={{}}"


@revisions
@pytest.mark.parametrize("tool", [f"{ROUNDS}elicitation", f"{ROUNDS}multi_round"])
async def test_a_user_who_does_not_want_to_say_is_not_asked_again(everything: Client, revision: str, tool: str) -> None:
    client = await caller(everything, revision)
    result = await client.request("tools/call", {"name": tool}, {"elicitation/create": {"action": "decline"}})
    assert result["isError"]
    assert text_of(result).endswith("decline.")


@pytest.mark.parametrize("revision", ["2025-11-25", MODERN])
async def test_an_answer_that_is_no_use_is_asked_for_again(everything: Client, revision: str) -> None:
    client = await caller(everything, revision)
    rounds = [accept(nickname="Al"), accept(name=["Al"]), accept(name="Alice")]
    result = await client.request("tools/call", {"name": f"{ROUNDS}elicitation"}, *rounds)
    assert text_of(result) == "Hello, Alice!"
    assert client.asked[0] == client.asked[1] == client.asked[2]


CAPABILITIES: list[tuple[dict[str, Any], set[str]]] = [
    ({"sampling": {}}, {"sampling/createMessage"}),
    ({"elicitation": {}}, {"elicitation/create"}),
    ({"roots": {}, "sampling": {}}, {"roots/list", "sampling/createMessage"}),
    ({"elicitation": {"url": {}}, "roots": {}}, {"roots/list"}),
]


@pytest.mark.parametrize("revision", ["2025-11-25", MODERN])
@pytest.mark.parametrize(("capabilities", "methods"), CAPABILITIES, ids=[str(declared) for declared, _ in CAPABILITIES])
async def test_nothing_is_asked_but_what_was_declared(
    everything: Client, revision: str, capabilities: dict[str, Any], methods: set[str]
) -> None:
    client = await caller(everything, revision, capabilities)
    answers = accept(name="Alice") | sampled("Good day") | ROOTS
    rounds = [{method: answers[method] for method in methods}]
    await client.request("tools/call", {"name": f"{ROUNDS}capabilities"}, *rounds)
    assert {method for method, _params in client.asked[0]} == methods


@revisions
async def test_a_client_that_takes_no_questions_gets_none(everything: Client, revision: str) -> None:
    client = await caller(everything, revision, {})
    result = await client.request("tools/call", {"name": f"{ROUNDS}capabilities"})
    assert text_of(result) == "Answered: nothing, since nothing can be asked"


async def test_what_a_client_lacks_is_a_code_for_stateless_ones_and_words_for_sessions(everything: Client) -> None:
    stateless = Stateless(everything, {"elicitation": {}})
    for tool in ("test_missing_capability", f"{ROUNDS}sampling"):
        response = await stateless.post(stateless.tool(tool))
        assert response.status == 400
        assert response.error["code"] == -32021
        assert response.error["data"] == {"requiredCapabilities": {"sampling": {}}}
        result = await (await everything.open()).call_tool(tool)
        assert result["isError"]
        assert "`sampling`" in text_of(result)


async def test_a_state_that_was_tampered_with_is_refused(everything: Client) -> None:
    stateless = Stateless(everything, ASKABLE)
    for tool in ("tampered_state", "request_state", "multi_round"):
        call = stateless.tool(f"{ROUNDS}{tool}")
        asked = (await stateless.post(call)).result
        (key,) = asked["inputRequests"]
        answers = {key: accept(ok=True, name="Alice")["elicitation/create"]}
        tampered = {**asked, "requestState": asked["requestState"] + "-TAMPERED"}
        response = await stateless.again(call, tampered, answers)
        assert (response.status, response.error["code"]) == (400, -32602)
        assert (await stateless.again(call, asked, answers)).status == 200


async def test_each_round_has_a_state_of_its_own(everything: Client) -> None:
    stateless = Stateless(everything, ASKABLE)
    call = stateless.tool(f"{ROUNDS}multi_round")
    first = (await stateless.post(call)).result
    answers = {"step1": accept(name="Alice")["elicitation/create"]}
    second = (await stateless.again(call, first, answers)).result
    assert second["requestState"] not in ("", first["requestState"])
    assert "Alice" not in second["requestState"]


# What is said meanwhile


LOGGED = ["Tool execution started", "Tool processing data", "Tool execution completed"]


@revisions
@pytest.mark.parametrize("token", ["a token", 7, 0])
async def test_progress_is_told_under_its_token(everything: Client, revision: str, token: Any) -> None:
    client = await caller(everything, revision)
    *told, last = await client.heard("test_tool_with_progress", token)
    assert progress_of(told) == [0, 50, 100]
    assert {(note["params"]["total"], note["params"]["progressToken"]) for note in told} == {(100, token)}
    assert text_of(last["result"]) == f"Progress token: {token}"


async def test_a_session_hears_log_messages_from_its_level_on(everything: Client) -> None:
    session = await everything.open()
    call = session.tool("test_tool_with_logging")
    *told, _result = await (await session.begin(call).stream()).rest()
    assert [note["params"] for note in told] == [{"level": "info", "data": data} for data in LOGGED]
    assert (await session.request("logging/setLevel", {"level": "warning"})).result == {}
    assert text_of(await session.call_tool("test_tool_with_logging")) == "Logged three messages."
    assert (await session.request("logging/setLevel", {"level": "info"})).result == {}
    assert len(await (await session.begin(call).stream()).rest()) == 4


@pytest.mark.parametrize(("tool", "count"), [("test_tool_with_logging", 3), ("test_logging_tool", 1)])
async def test_a_stateless_client_hears_log_messages_if_the_request_asks_for_them(
    everything: Client, tool: str, count: int
) -> None:
    stateless = Stateless(everything)
    quiet = [{}, {"io.modelcontextprotocol/logLevel": "warning"}]
    for meta in quiet:
        response = await stateless.request("tools/call", {"name": tool}, **meta)
        assert response.header("content-type") == "application/json"
        assert text_of(response.result).startswith("Logged")
    asking = stateless.message("tools/call", {"name": tool}, **{"io.modelcontextprotocol/logLevel": "info"})
    *told, _result = await (await stateless.stream(asking)).rest()
    assert [note["method"] for note in told] == ["notifications/message"] * count


@pytest.mark.parametrize("kind", ["tool", "prompt"])
async def test_a_change_is_told_to_those_of_both_eras_who_listen_for_it(everything: Client, kind: str) -> None:
    session, stateless = await everything.open(), Stateless(everything)
    other = {"tool": "prompts", "prompt": "tools"}[kind]
    listener = await stateless.listen(**{f"{kind}sListChanged": True})
    deaf = await stateless.listen(**{f"{other}ListChanged": True})
    async with session.listening() as stream:
        assert await stream.frame() is not None
        for listening in (listener, deaf):
            acknowledged = await listening.message()
            assert acknowledged["method"] == "notifications/subscriptions/acknowledged"
        assert text_of(await stateless.call_tool(f"test_trigger_{kind}_change")) == f"The {kind} list changed."
        for heard in (stream, listener):
            assert (await heard.message())["method"] == f"notifications/{kind}s/list_changed"
        assert text_of(await session.call_tool(f"test_trigger_{'tool' if kind == 'prompt' else 'prompt'}_change"))
        assert (await deaf.message())["method"] == f"notifications/{other}/list_changed"
    for listening in (listener, deaf):
        await listening.disconnect()


async def test_nobody_is_sent_away_who_could_not_come_back(everything: Client) -> None:
    for revision in ("2025-06-18", MODERN):
        client = await caller(everything, revision)
        *told, last = await client.heard("test_reconnection", "token")
        assert progress_of(told) == [0]
        assert text_of(last["result"]) == "Reconnection test completed"
