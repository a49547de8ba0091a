"""Questions in rounds: one text of a handler asks clients of both eras, and what travels between rounds is sealed."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.utils import timezone

from mcp_django import rounds
from mcp_django.asgi import Application
from tests.protocol import round_servers
from tests.protocol.client import Client, Response, case, text_of
from tests.protocol.stage import Stage
from tests.protocol.stateless import ASKABLE, Stateless

pytestmark = [
    pytest.mark.anyio,
    # Sampling and roots are on their way out of the protocol; sessions have them.
    pytest.mark.filterwarnings("ignore::mcp.shared.exceptions.MCPDeprecationWarning"),
]

ANN = {"name": "Ann"}
BLUE = {"colour": "blue"}


@pytest.fixture
def asker(application: Application) -> Stateless:
    """A stateless client that can be asked everything."""
    return Stateless(Client(application, "/asking/mcp"), ASKABLE)


def accept(content: dict[str, Any]) -> dict[str, Any]:
    return {"action": "accept", "content": content}


async def in_rounds(asker: Stateless, message: dict[str, Any], *rounds: dict[str, Any]) -> Any:
    """Send a request until it is complete: in each round it must ask for just what is given as answers then."""
    response = await asker.post(message)
    for answers in rounds:
        result = response.result
        assert result["resultType"] == "input_required", result
        assert set(result["inputRequests"]) == set(answers)
        response = await asker.again(message, result, answers)
    assert response.result["resultType"] == "complete", response.result
    return response.result


async def value(asker: Stateless, tool: str, *rounds: dict[str, Any], **arguments: Any) -> Any:
    """A tool's value after so many rounds of questions."""
    result = await in_rounds(asker, asker.tool(tool, arguments), *rounds)
    assert not result.get("isError"), result
    return result["structuredContent"]["value"]


ONE = {"question-1": accept(ANN)}
TWO = {"question-2": accept(BLUE)}

WAYS: list[tuple[str, list[dict[str, Any]], Any]] = [
    ("ask_name", [ONE], "Hello, Ann"),
    ("ask_name", [{"question-1": {"action": "decline"}}], "Hello, decline"),
    ("ask_name", [{"question-1": {"action": "cancel"}}], "Hello, cancel"),
    ("ask_twice", [ONE, TWO], "Ann likes blue."),
    ("ask_together", [ONE | TWO], ["Ann", "blue"]),
    ("ask_in_group", [ONE | TWO], ["Ann", "blue"]),
    ("ask_in_thread", [ONE], "Ann"),
    ("ask_in_spite", [ONE], "Ann"),
    ("ask_for_url", [{"question-1": {"action": "accept"}}], "accept"),
    ("ask_model", [{"question-1": {"role": "assistant", "content": {"type": "text", "text": "4"}, "model": "m"}}], "4"),
    ("ask_roots", [{"question-1": {"roots": [{"uri": "file:///a"}]}}], ["file:///a"]),
    ("by_hand", [{"name": accept(ANN)}, {"colour": accept(BLUE)}], "Ann likes blue."),
    ("by_hand_and_context", [{"name": accept(ANN)}, {"question-1": accept(BLUE)}], "Ann likes blue."),
    ("resolve_name", [{"tests.protocol.round_servers:name_of_user": accept(ANN)}], "Ann"),
    (
        "resolve_and_ask",
        [
            {"tests.protocol.round_servers:name_of_user": accept(ANN)},
            {"question-1": accept(BLUE)},
            {"question-2": accept({"colour": "red"})},
        ],
        "Ann likes blue and red.",
    ),
    ("ask_by_reading", [ONE, {"question-2": accept({"name": "Bea"})}], ["Ann", "Bea on books"]),
]


@pytest.mark.parametrize(("tool", "rounds", "expected"), WAYS)
async def test_a_tool_asks_a_stateless_client_by_what_it_answers(
    asker: Stateless, tool: str, rounds: list[dict[str, Any]], expected: Any
) -> None:
    assert await value(asker, tool, *rounds) == expected


@pytest.mark.parametrize(("tool", "rounds", "expected"), WAYS)
async def test_the_same_tool_asks_a_session_by_requests_on_its_stream(
    application: Application, tool: str, rounds: list[dict[str, Any]], expected: Any
) -> None:
    client = Client(application, "/asking/mcp")
    session = await client.open(capabilities=ASKABLE)
    stream = await session.begin(session.tool(tool)).stream()
    for answers in rounds:
        for answer in answers.values():
            await session.answer(await stream.question(), answer)
    result = (await stream.message())["result"]
    assert not result.get("isError"), result
    assert result["structuredContent"]["value"] == expected


async def test_prompts_and_resources_ask_too(asker: Stateless) -> None:
    prompt = await in_rounds(asker, asker.message("prompts/get", {"name": "ask_in_prompt"}), ONE)
    assert prompt["messages"][0]["content"]["text"] == "Greet Ann."
    resource = await in_rounds(asker, asker.message("resources/read", {"uri": "ask://tea"}), ONE)
    assert resource["contents"][0]["text"] == "Ann on tea"


async def test_what_stands_above_a_question_runs_once_for_each_round(asker: Stateless, stage: Stage) -> None:
    await value(asker, "ask_name", ONE)
    assert stage.count("run") == 2


async def test_a_question_that_was_answered_is_not_asked_again(asker: Stateless) -> None:
    message = asker.tool("ask_twice")
    second = (await asker.again(message, await asker.call_tool("ask_twice"), ONE)).result
    assert list(second["inputRequests"]) == ["question-2"]
    assert second["inputRequests"]["question-2"]["params"]["message"] == "Which colour do you like, Ann?"


async def test_an_answer_counts_for_the_question_that_was_asked_and_for_no_other(asker: Stateless) -> None:
    message = asker.tool("ask_anew")
    first = await asker.call_tool("ask_anew")
    second = (await asker.again(message, first, ONE)).result
    assert second["inputRequests"]["question-1"]["params"]["message"] == "Question 2?"


async def test_half_of_the_answers_leave_the_other_half_to_be_asked(asker: Stateless) -> None:
    message = asker.tool("ask_together")
    second = (await asker.again(message, await asker.call_tool("ask_together"), ONE)).result
    assert list(second["inputRequests"]) == ["question-2"]
    assert (await asker.again(message, second, TWO)).result["structuredContent"] == {"value": ["Ann", "blue"]}


UNUSABLE: list[dict[str, Any]] = [{}, {"wrong": accept(ANN)}, {"question-2": accept(ANN)}]


async def test_answers_to_what_was_not_asked_are_passed_over(asker: Stateless) -> None:
    message = asker.tool("ask_name")
    for answers in UNUSABLE:
        with case(answers):
            again = (await asker.again(message, await asker.call_tool("ask_name"), answers)).result
            assert list(again["inputRequests"]) == ["question-1"]
    result = await asker.again(message, await asker.call_tool("ask_name"), ONE | {"more": accept(BLUE)})
    assert result.result["structuredContent"] == {"value": "Hello, Ann"}


async def test_an_answer_of_another_kind_is_an_error(asker: Stateless) -> None:
    message = asker.tool("ask_name")
    for answer in [{"roots": []}, {"action": "perhaps"}, 12345]:
        with case(answer):
            first = await asker.call_tool("ask_name")
            response = await asker.again(message, first, {"question-1": answer})
            assert response.status == 400
            assert response.error["code"] == -32602


async def test_answers_without_their_state_are_answers_to_nothing(asker: Stateless) -> None:
    again = (await asker.again(asker.tool("ask_name"), {}, ONE)).result
    assert again["resultType"] == "input_required"


async def test_an_error_after_the_answer_is_the_tool_s_own(asker: Stateless) -> None:
    result = await in_rounds(asker, asker.tool("ask_and_fail"), ONE)
    assert result["isError"]
    assert "Ann" not in text_of(result)


async def test_a_handler_that_never_has_enough_ends_with_an_error_on_a_session(application: Application) -> None:
    session = await Client(application, "/asking/mcp").open(capabilities=ASKABLE)
    stream = await session.begin(session.tool("by_hand_for_ever")).stream()
    for _round in range(20):
        await session.answer(await stream.question(), accept(ANN))
    assert "20 rounds" in text_of((await stream.message())["result"])


# What travels between the rounds


async def test_what_was_answered_cannot_be_read_in_the_state(asker: Stateless) -> None:
    first = await asker.call_tool("ask_twice")
    second = (await asker.again(asker.tool("ask_twice"), first, ONE)).result
    assert "Ann" not in second["requestState"]
    assert first["requestState"] != second["requestState"]


async def test_a_process_that_knows_nothing_goes_on_where_another_was(asker: Stateless) -> None:
    message = asker.tool("ask_twice")
    first = await asker.call_tool("ask_twice")
    # All that a process has made for itself; everything else comes with the request.
    rounds._codec.cache_clear()
    round_servers.asking._kernel = None
    second = (await asker.again(message, first, ONE)).result
    assert (await asker.again(message, second, TWO)).result["structuredContent"] == {"value": "Ann likes blue."}


async def refused(response: Response) -> None:
    assert response.status == 400
    assert response.error["code"] == -32602
    assert response.error["message"] == "Invalid or expired requestState"


async def test_a_state_is_good_for_one_caller_server_tool_and_arguments(application: Application) -> None:
    async def first_of(asker: Stateless) -> Any:
        return await asker.call_tool("ask_name", {"greeting": "Hi"})

    def client(path: str = "/asking/mcp", token: str | None = "token-of-alice") -> Stateless:
        return Stateless(Client(application, path, token=token), ASKABLE)

    alice = client()
    message = alice.tool("ask_name", {"greeting": "Hi"})
    for name, other, foreign in [
        ("another caller", client(token="token-of-bob"), message),
        ("nobody", client(token=None), message),
        ("another tool", alice, alice.tool("ask_twice", {"greeting": "Hi"})),
        ("other arguments", alice, alice.tool("ask_name", {"greeting": "Ho"})),
        ("no arguments", alice, alice.tool("ask_name")),
        ("a prompt", alice, alice.message("prompts/get", {"name": "ask_name", "arguments": {"greeting": "Hi"}})),
        ("another server", client("/protocol/mcp"), message),
    ]:
        with case(name):
            await refused(await other.again(foreign, await first_of(alice), ONE))
    anonymous = client(token=None)
    with case("adopted from nobody"):
        await refused(await alice.again(message, await first_of(anonymous), ONE))
    assert (await alice.again(message, await first_of(alice), ONE)).result["structuredContent"] == {"value": "Hi, Ann"}


async def test_a_state_that_was_changed_is_refused(asker: Stateless) -> None:
    message = asker.tool("ask_name")
    state = (await asker.call_tool("ask_name"))["requestState"]
    for changed in [state + "-TAMPERED", state[:-1], state[:20] + "AAAA" + state[24:], "", "v1.", "x" * 10_000]:
        with case(changed):
            await refused(await asker.again(message, {"requestState": changed}, ONE))


async def test_a_state_expires(asker: Stateless, settings: Any) -> None:
    message = asker.tool("ask_name")
    first = await asker.call_tool("ask_name")
    with time_machine.travel(timezone.now() + timedelta(minutes=59), tick=True):
        assert (await asker.again(message, first, ONE)).status == 200
    with time_machine.travel(timezone.now() + timedelta(minutes=61), tick=True):
        await refused(await asker.again(message, first, ONE))


async def test_a_state_outlives_a_new_secret_key_by_the_fallbacks(asker: Stateless, settings: Any) -> None:
    message = asker.tool("ask_name")
    first = await asker.call_tool("ask_name")
    old, settings.SECRET_KEY = settings.SECRET_KEY, "a new secret key"
    await refused(await asker.again(message, first, ONE))
    settings.SECRET_KEY_FALLBACKS = [old]
    assert (await asker.again(message, first, ONE)).status == 200


# What a client did not declare


LACKING: list[tuple[dict[str, Any], str, dict[str, Any]]] = [
    ({}, "ask_name", {"elicitation": {"form": {}}}),
    ({"elicitation": {"url": {}}}, "ask_name", {"elicitation": {"form": {}}}),
    ({}, "resolve_name", {"elicitation": {"form": {}}}),
    ({"elicitation": {}}, "ask_for_url", {"elicitation": {"url": {}}}),
    ({"elicitation": {}}, "needs_page", {"elicitation": {"url": {}}}),
    ({"elicitation": {}}, "ask_model", {"sampling": {}}),
    ({"elicitation": {}}, "ask_roots", {"roots": {}}),
    ({"sampling": {}}, "by_hand", {"elicitation": {"form": {}}}),
    ({"elicitation": {}}, "by_hand_undeclared", {"sampling": {}}),
]


@pytest.mark.parametrize(("capabilities", "tool", "required"), LACKING)
async def test_nothing_is_asked_that_a_stateless_client_did_not_declare(
    application: Application, capabilities: dict[str, Any], tool: str, required: dict[str, Any]
) -> None:
    asker = Stateless(Client(application, "/asking/mcp"), capabilities)
    response = await asker.post(asker.tool(tool))
    assert response.status == 400
    assert response.error["code"] == -32021
    assert response.error["data"] == {"requiredCapabilities": required}
    assert "inputRequests" not in response.body.decode()


@pytest.mark.parametrize(("capabilities", "tool", "required"), LACKING)
async def test_nothing_is_asked_that_a_session_did_not_declare_and_the_model_reads_why(
    application: Application, capabilities: dict[str, Any], tool: str, required: dict[str, Any]
) -> None:
    session = await Client(application, "/asking/mcp").open(capabilities=capabilities)
    response = await session.begin(session.tool(tool)).response()
    assert response.result["isError"]
    assert "did not declare" in text_of(response.result) or "alone" in text_of(response.result)


async def test_a_bare_elicitation_capability_means_forms(application: Application) -> None:
    asker = Stateless(Client(application, "/asking/mcp"), {"elicitation": {}})
    assert await value(asker, "ask_name", ONE) == "Hello, Ann"


async def test_a_stateless_client_cannot_be_pinged(asker: Stateless) -> None:
    assert "cannot be pinged" in text_of(await asker.call_tool("ask_ping"))


# A page that the user must open


PAGE = {"mode": "url", "message": "Log in.", "url": "https://example.com/login"}


async def test_a_page_that_is_needed_is_asked_for_until_it_is_opened(asker: Stateless, stage: Stage) -> None:
    message = asker.tool("needs_page")
    first = await asker.call_tool("needs_page")
    assert first["inputRequests"]["url-1"]["params"] == PAGE
    still = (await asker.again(message, first, {"url-1": {"action": "accept"}})).result
    assert still["resultType"] == "input_required"
    stage.record("page opened")
    done = (await asker.again(message, still, {"url-1": {"action": "accept"}})).result
    assert done["structuredContent"] == {"value": "thank you"}


async def test_a_page_that_the_user_does_not_open_is_an_error_that_the_model_reads(asker: Stateless) -> None:
    message = asker.tool("needs_page")
    for action in ("decline", "cancel"):
        first = await asker.call_tool("needs_page")
        result = (await asker.again(message, first, {"url-1": {"action": action}})).result
        assert result["isError"]
        assert "has not opened the page" in text_of(result)


async def test_a_session_of_2025_11_25_hears_of_the_page_by_the_code_of_that_revision(application: Application) -> None:
    session = await Client(application, "/asking/mcp").open(capabilities=ASKABLE)
    error = (await session.post(session.tool("needs_page"))).error
    assert error["code"] == -32042
    assert error["data"]["elicitations"] == [PAGE | {"elicitationId": "e-1"}]


async def test_sessions_of_older_revisions_hear_of_the_page_in_words(application: Application) -> None:
    for version in ("2025-06-18", "2025-03-26"):
        session = await Client(application, "/asking/mcp").open(version, capabilities=ASKABLE)
        result = await session.call_tool("needs_page")
        assert result["isError"]
        assert "example.com" not in text_of(result)
