"""Questions to the client: asked on the call's stream, answered through any process, and given up with the call."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from django.db.backends.signals import connection_created

from mcp_django.batches import Change
from mcp_django.models import ClientRequest, Event, Stream
from tests.protocol.client import Client, EventStream, Session, case, text_of
from tests.protocol.layers import Broker
from tests.protocol.outage import commits_unheard, refusing
from tests.protocol.processes import Processes
from tests.protocol.stage import Gate, Stage, until, until_async

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:The (sampling|roots) capability is deprecated"),
]

LATEST = "2025-11-25"
FORM: dict[str, Any] = {"elicitation": {}}
FINE = {"action": "accept", "content": {"mood": "fine"}}

everywhere = pytest.mark.parametrize("where", ["same process", "another process"])


@pytest.fixture(autouse=True)
def quick_looks(settings: Settings) -> None:
    settings.MCP_DJANGO_POLL_INTERVAL = 0.03


class Kind(NamedTuple):
    """One kind of question: the tool that asks it, what a client must declare, and what is answered."""

    tool: str
    arguments: dict[str, Any]
    capabilities: dict[str, Any]
    method: str
    answer: Any
    value: Any


KINDS = {
    "form": Kind("ask", {}, FORM, "elicitation/create", FINE, "fine"),
    "declared form": Kind(
        "ask", {}, {"elicitation": {"form": {}}}, "elicitation/create", {"action": "decline"}, "decline"
    ),
    "url": Kind("ask_by_url", {}, {"elicitation": {"url": {}}}, "elicitation/create", {"action": "accept"}, "accept"),
    "sampling": Kind(
        "ask_model",
        {},
        {"sampling": {}},
        "sampling/createMessage",
        {"role": "assistant", "model": "m", "content": {"type": "text", "text": "Well."}},
        "Well.",
    ),
    "sampling with tools": Kind(
        "ask_model",
        {"tools": True},
        {"sampling": {"tools": {}}},
        "sampling/createMessage",
        {"role": "assistant", "model": "m", "content": {"type": "text", "text": "Well."}},
        "Well.",
    ),
    "roots": Kind("ask_roots", {}, {"roots": {}}, "roots/list", {"roots": [{"uri": "file:///a"}]}, ["file:///a"]),
    "ping": Kind("ask_ping", {}, {}, "ping", {}, "alive"),
}
kinds = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())


async def asked(session: Session, tool: str = "ask", **arguments: Any) -> tuple[EventStream, Any]:
    """A call's stream and the question on it."""
    stream = await session.begin(session.tool(tool, **arguments)).stream()
    return stream, await stream.question()


async def value_of(stream: EventStream) -> Any:
    """What the call on this stream returns in the end."""
    (answer,) = await stream.rest()
    assert not answer["result"].get("isError"), answer
    return answer["result"]["structuredContent"]["value"]


async def assert_still_open(question: Any) -> None:
    row = await ClientRequest.objects.aget(pk=question["id"])
    assert (row.status, row.answer_json, row.settled_at) == ("asked", "", None)


# Asked and answered


@kinds
@everywhere
async def test_each_kind_of_question_is_asked_on_the_call_s_stream_and_answered_through_any_process(
    client: Client, server_processes: Processes, where: str, kind: Kind
) -> None:
    session = await client.open(capabilities=kind.capabilities)
    async with session.listening() as standalone:
        assert await standalone.frame()
        stream, question = await asked(session, kind.tool, **kind.arguments)
        assert question["method"] == kind.method
        row = await ClientRequest.objects.aget()
        assert (str(row.pk), row.status, row.method) == (question["id"], "asked", kind.method)
        assert row.stream_id == (await Stream.objects.aget(standalone=False)).pk
        assert uuid.UUID(question["id"]).version == 4
        if where == "another process":
            await server_processes.another()
        response = await session.answer(question, kind.answer)
        assert (response.status, response.body) == (202, b"")
        value = await value_of(stream)
        assert (value["text"] if isinstance(value, dict) else value) == kind.value
        assert [frame for frame in standalone.arrived() if frame.has_message] == []
    await row.arefresh_from_db()
    assert (row.status, row.settled_at is None) == ("answered", False)


async def test_the_questions_say_what_the_client_needs_to_know(client: Client) -> None:
    session = await client.open(capabilities={"elicitation": {"form": {}, "url": {}}})
    _stream, form = await asked(session)
    assert form["params"]["message"] == "How do you do?"
    assert form["params"]["requestedSchema"]["properties"]["mood"]["type"] == "string"
    _stream, url = await asked(session, "ask_by_url")
    assert url["params"] == {
        "mode": "url",
        "message": "Log in.",
        "url": "https://example.com/login",
        "elicitationId": "elicitation-1",
    }


async def test_several_questions_of_one_call_may_be_answered_in_any_order(client: Client) -> None:
    session = await client.open(capabilities=FORM)
    stream, first = await asked(session, "ask_together", count=3)
    questions = [first, await stream.question(), await stream.question()]
    assert len({question["id"] for question in questions}) == 3
    for question in reversed(questions):
        number = question["params"]["message"].removeprefix("Number ").removesuffix("?")
        await session.answer(question, {"action": "accept", "content": {"mood": number}})
    assert await value_of(stream) == ["0", "1", "2"]


async def test_calls_of_many_sessions_get_their_own_answers(client: Client, server_processes: Processes) -> None:
    sessions = [await client.open(capabilities=FORM) for _ in range(8)]
    calls = [await asked(session) for session in sessions]
    await server_processes.another()
    for number, (session, (_stream, question)) in enumerate(zip(sessions, calls, strict=True)):
        await session.answer(question, {"action": "accept", "content": {"mood": str(number)}})
    assert [await value_of(stream) for stream, _question in calls] == [str(number) for number in range(8)]


async def test_answers_may_come_in_a_batch(client: Client) -> None:
    session = await client.open("2025-03-26")
    stream, question = await asked(session, "ask_ping")
    response = await session.post([{"jsonrpc": "2.0", "id": question["id"], "result": {}}])
    assert (response.status, response.body) == (202, b"")
    assert await value_of(stream) == "alive"


async def test_a_question_reaches_a_client_that_was_gone_when_it_was_asked(
    client: Client, server_processes: Processes, stage: Stage, settings: Settings
) -> None:
    settings.MCP_DJANGO_STREAM_AFTER = 0.02
    session = await client.open(capabilities=FORM)
    gate = stage.hold("before the question")
    stream = await session.begin(session.tool("pause_and_ask")).stream()
    assert await stream.frame()
    await stream.disconnect()
    gate.open()
    await until_async(ClientRequest.objects.aexists)
    await server_processes.another()
    resumed = await session.listen(stream.last_id)
    question = await resumed.question()
    await resumed.disconnect()
    await server_processes.another()
    await session.answer(question, FINE)
    again = await session.listen(resumed.last_id)
    assert await value_of(again) == "fine"


@pytest.mark.parametrize("sky", ["prompt", "doubled", "delayed"], indirect=True)
async def test_with_a_broker_an_answer_needs_no_poll(
    client: Client, server_processes: Processes, settings: Settings, sky: Broker
) -> None:
    settings.MCP_DJANGO_POLL_INTERVAL = 1000
    session = await client.open(capabilities=FORM)
    stream, question = await asked(session)
    await until(lambda: server_processes.streams.wakeups.connected)
    await server_processes.another()
    await session.answer(question, FINE)
    assert await value_of(stream) == "fine"


async def test_no_database_connection_is_held_while_a_call_waits_for_its_client(
    client: Client, open_connections: list[Any]
) -> None:
    session = await client.open(capabilities=FORM)
    calls = [await asked(session, "query_and_ask") for _ in range(8)]
    assert len(open_connections) >= 8
    # A lane keeps its own: one for reads, one for writes.
    await until(lambda: len([made for made in open_connections if made.connection is not None]) <= 2)
    for _stream, question in calls:
        await session.answer(question, FINE)
    for stream, _question in calls:
        assert await value_of(stream) == [0, "accept", 0]


@pytest.fixture
def open_connections() -> Iterator[list[Any]]:
    """Every database connection that is made during the test."""
    made: list[Any] = []

    def note(connection: Any, **kwargs: Any) -> None:
        made.append(connection)

    connection_created.connect(note)
    yield made
    connection_created.disconnect(note)


# What the client did not declare


CANNOT: list[tuple[str, dict[str, Any], str, dict[str, Any], str]] = [
    (LATEST, {}, "ask", {}, "`elicitation`"),
    (LATEST, {"sampling": {}, "roots": {}}, "ask", {}, "`elicitation`"),
    (LATEST, {}, "ask_by_resolver", {}, "form elicitation"),
    (LATEST, {"elicitation": {"url": {}}}, "ask", {}, "`elicitation.url` alone"),
    (LATEST, {}, "ask_by_url", {}, "`elicitation`"),
    (LATEST, FORM, "ask_by_url", {}, "`elicitation.url`"),
    (LATEST, {"elicitation": {"form": {}}}, "ask_by_url", {}, "`elicitation.url`"),
    ("2025-06-18", {"elicitation": {"url": {}}}, "ask_by_url", {}, "`elicitation.url`"),
    ("2025-03-26", FORM, "ask", {}, "`elicitation`"),
    ("2024-11-05", FORM, "ask", {}, "`elicitation`"),
    (LATEST, FORM, "ask_model", {}, "`sampling`"),
    (LATEST, {"sampling": {}}, "ask_model", {"tools": True}, "sampling"),
    (LATEST, {"sampling": {}}, "ask_roots", {}, "`roots`"),
]


async def test_a_client_is_asked_nothing_that_it_did_not_declare_and_the_model_reads_why(client: Client) -> None:
    for row in CANNOT:
        version, capabilities, tool, arguments, told = row
        with case(row):
            session = await client.open(version, capabilities=capabilities)
            response = await session.begin(session.tool(tool, **arguments)).response()
            if "error" in response.json:
                assert told in response.error["message"]
            else:
                assert response.result["isError"]
                assert told in text_of(response.result)
    assert not await ClientRequest.objects.aexists()
    assert not await Event.objects.aexists()


async def test_any_elicitation_capability_of_2025_06_18_means_forms(client: Client) -> None:
    session = await client.open("2025-06-18", capabilities={"elicitation": {"url": {}}})
    stream, question = await asked(session)
    await session.answer(question, FINE)
    assert await value_of(stream) == "fine"


async def test_a_resolver_asks_too(client: Client) -> None:
    stream, question = await asked(session := await client.open(capabilities=FORM), "ask_by_resolver")
    await session.answer(question, FINE)
    assert await value_of(stream) == "fine"


async def test_what_keeps_a_resolver_from_asking_is_told(client: Client, settings: Settings) -> None:
    settings.MCP_DJANGO_MAX_EVENT_BYTES = 100
    session = await client.open(capabilities=FORM)
    response = await session.begin(session.tool("ask_by_resolver")).response()
    assert response.result["isError"]
    assert "MCP_DJANGO_MAX_EVENT_BYTES" in text_of(response.result)


async def test_a_refused_question_can_be_gone_without(client: Client) -> None:
    session = await client.open()
    assert await session.call("ask_if_possible") == {"value": "went without"}


# Answers that change nothing


async def test_an_answer_that_nobody_waits_for_is_202_and_changes_nothing(client: Client) -> None:
    session = await client.open(capabilities=FORM)
    stream, question = await asked(session)
    for stranger in (str(uuid.uuid4()), "nonsense", 7, "", question["id"][:-1], question["id"] + "0"):
        with case(stranger):
            response = await session.answer(stranger, FINE)
            assert (response.status, response.body) == (202, b"")
            await assert_still_open(question)
    await session.answer(question, FINE)
    assert await value_of(stream) == "fine"


@everywhere
async def test_only_the_first_answer_counts(client: Client, server_processes: Processes, where: str) -> None:
    session = await client.open(capabilities=FORM)
    stream, question = await asked(session)
    if where == "another process":
        await server_processes.another()
    await session.answer(question, FINE)
    for _ in range(2):
        response = await session.answer(question, {"action": "accept", "content": {"mood": "foul"}})
        assert (response.status, response.body) == (202, b"")
        assert (await session.refuse(question, -1, "No.")).status == 202
    assert await value_of(stream) == "fine"
    assert (await session.answer(question, {"action": "decline"})).status == 202
    row = await ClientRequest.objects.aget()
    assert row.answer_json == '{"result":{"action":"accept","content":{"mood":"fine"}}}'


async def test_many_answers_at_once_are_one_answer(client: Client) -> None:
    session = await client.open(capabilities=FORM)
    stream, question = await asked(session)
    contents = [{"action": "accept", "content": {"mood": str(number)}} for number in range(16)]
    message = {"jsonrpc": "2.0", "id": question["id"]}
    exchanges = [session.begin(message | {"result": content}) for content in contents]
    assert [(await exchange.response()).status for exchange in exchanges] == [202] * 16
    value = await value_of(stream)
    assert f'"{value}"' in (await ClientRequest.objects.aget()).answer_json


@everywhere
async def test_nobody_else_can_answer_a_question(
    alice: Client, bob: Client, client: Client, server_processes: Processes, where: str
) -> None:
    session = await alice.open(capabilities=FORM)
    stream, question = await asked(session)
    if where == "another process":
        await server_processes.another()
    for stranger in (bob, client, alice):
        other = await stranger.open(capabilities=FORM)
        assert (await other.answer(question, {"action": "decline"})).status == 202
        await assert_still_open(question)
    assert (await session.of(bob).answer(question, {"action": "decline"})).status == 404
    await session.answer(question, FINE)
    assert await value_of(stream) == "fine"


# Answers of odd shapes


ODD_RESULTS: list[Any] = [None, [], "text", 5, True, [{"action": "accept"}]]


async def test_an_answer_without_a_result_object_is_an_error_for_the_call_and_the_session_goes_on(
    client: Client,
) -> None:
    session = await client.open(capabilities=FORM)
    for result in ODD_RESULTS:
        with case(result):
            stream, question = await asked(session)
            assert (await session.answer(question, result)).status == 202
            (answer,) = await stream.rest()
            assert answer["error"]["code"] == -32600
            assert "no result object" in answer["error"]["message"]
    assert await session.call("add", a=1, b=2) == {"result": 3}


WRONG_RESULTS: list[Any] = [
    {},
    {"action": "fly"},
    {"action": None},
    {"action": "accept"},
    {"action": "accept", "content": {"mood": {"deep": []}}},
    {"action": "accept", "content": {"no mood": 1}},
    {"action": "accept", "content": []},
]


async def test_an_answer_of_the_wrong_shape_is_an_error_for_the_call_and_the_session_goes_on(client: Client) -> None:
    session = await client.open(capabilities=FORM)
    for result in WRONG_RESULTS:
        with case(result):
            stream, question = await asked(session)
            assert (await session.answer(question, result)).status == 202
            (answer,) = await stream.rest()
            assert "error" in answer or answer["result"]["isError"]
    assert await session.call("add", a=1, b=2) == {"result": 3}


@everywhere
async def test_a_client_may_answer_with_an_error(client: Client, server_processes: Processes, where: str) -> None:
    session = await client.open(capabilities=FORM)
    stream, question = await asked(session)
    if where == "another process":
        await server_processes.another()
    await session.refuse(question, -1, "The user is not here.")
    (answer,) = await stream.rest()
    assert answer["error"] == {"code": -1, "message": "The user is not here."}


ODD_ERRORS: list[Any] = [{}, {"code": "x", "message": 5}, {"code": 1.5}, {"message": None, "data": {"a": [1]}}]


async def test_an_error_of_an_odd_shape_is_an_error_all_the_same(client: Client) -> None:
    session = await client.open(capabilities=FORM)
    for error in ODD_ERRORS:
        with case(error):
            stream, question = await asked(session)
            await session.post({"jsonrpc": "2.0", "id": question["id"], "error": error})
            (answer,) = await stream.rest()
            assert answer["error"]["code"] == -32603
            assert "answered with an error" in answer["error"]["message"]
            assert answer["error"].get("data") == error.get("data")


async def test_an_answer_may_hold_what_databases_cannot(client: Client) -> None:
    session = await client.open(capabilities=FORM)
    stream, question = await asked(session)
    await session.answer(question, {"action": "accept", "content": {"mood": "a\x00b \U0001f600 'quoted'"}})
    assert await value_of(stream) == "a\x00b \U0001f600 'quoted'"


# Questions that are given up


async def test_a_question_that_is_not_answered_in_time_is_cancelled_towards_the_client(
    client: Client, settings: Settings
) -> None:
    settings.MCP_DJANGO_QUESTION_TIMEOUT = timedelta(seconds=0.05)
    session = await client.open(capabilities=FORM)
    stream, question = await asked(session)
    cancelled, answer = await stream.rest()
    assert cancelled["method"] == "notifications/cancelled"
    assert cancelled["params"] == {"requestId": question["id"], "reason": "timed out"}
    assert answer["error"]["code"] == -32001
    assert "elicitation/create" in answer["error"]["message"]
    row = await ClientRequest.objects.aget()
    assert (row.status, row.answer_json) == ("abandoned", "")
    assert (await session.answer(question, FINE)).status == 202
    await row.arefresh_from_db()
    assert (row.status, row.answer_json) == ("abandoned", "")


async def test_a_tool_may_have_a_patience_of_its_own(client: Client) -> None:
    session = await client.open()
    stream, question = await asked(session, "ask_briefly", seconds=0.05)
    cancelled, answer = await stream.rest()
    assert cancelled["params"]["requestId"] == question["id"]
    assert answer["error"]["code"] == -32001
    stream, question = await asked(session, "ask_briefly", seconds=30)
    await session.answer(question, {})
    assert await value_of(stream) == {}


def before_giving_up(server_processes: Processes, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """Where this process waits when the time for an answer is over, before it says so to the store."""
    store = server_processes.streams.store
    abandon, gate = store.abandon, stage.hold("giving up")

    async def held(*args: Any) -> bool:
        await stage.visit("giving up")
        return await abandon(*args)

    monkeypatch.setattr(store, "abandon", held)
    return gate


async def test_an_answer_that_another_process_has_taken_in_the_last_moment_counts(
    client: Client,
    server_processes: Processes,
    settings: Settings,
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings.MCP_DJANGO_POLL_INTERVAL = 1000
    settings.MCP_DJANGO_QUESTION_TIMEOUT = timedelta(seconds=0.01)
    gate = before_giving_up(server_processes, stage, monkeypatch)
    session = await client.open(capabilities=FORM)
    stream, question = await asked(session)
    await gate.reached()
    await server_processes.another()
    await session.answer(question, FINE)
    gate.open()
    assert await value_of(stream) == "fine"


@everywhere
async def test_a_cancelled_call_cancels_its_question_towards_the_client(
    client: Client, server_processes: Processes, where: str
) -> None:
    session = await client.open(capabilities=FORM)
    message = session.tool("ask")
    stream = await session.begin(message).stream()
    question = await stream.question()
    if where == "another process":
        await server_processes.another()
    assert (await session.cancel(message["id"])).status == 202
    cancelled, answer = await stream.rest()
    assert cancelled["method"] == "notifications/cancelled"
    assert cancelled["params"]["requestId"] == question["id"]
    assert (answer["id"], answer["error"]["code"]) == (message["id"], -32800)
    assert (await ClientRequest.objects.aget()).status == "abandoned"
    assert (await session.answer(question, FINE)).status == 202


async def test_nothing_of_a_question_stays_in_memory(
    client: Client, server_processes: Processes, settings: Settings
) -> None:
    session = await client.open(capabilities=FORM)
    stream, question = await asked(session)
    assert len(server_processes.streams.questions) == 1
    await session.answer(question, FINE)
    await stream.rest()
    message = session.tool("ask")
    stream = await session.begin(message).stream()
    await stream.question()
    await session.cancel(message["id"])
    await stream.rest()
    settings.MCP_DJANGO_QUESTION_TIMEOUT = timedelta(seconds=0.05)
    stream, _question = await asked(session)
    await stream.rest()
    assert not server_processes.streams.questions


# The database is away


async def test_an_answer_that_cannot_be_kept_is_a_503_and_the_client_sends_it_again(client: Client) -> None:
    session = await client.open(capabilities=FORM)
    stream, question = await asked(session)
    for lanes in ((), ("writes",)):
        with refusing(*lanes):
            response = await session.answer(question, FINE)
            assert (response.status, response.header("retry-after")) == (503, "3")
    await assert_still_open(question)
    assert (await session.answer(question, FINE)).status == 202
    assert await value_of(stream) == "fine"


async def test_a_question_waits_for_the_database(client: Client, stage: Stage) -> None:
    session = await client.open(capabilities=FORM)
    gate = stage.hold("before the question")
    exchange = session.begin(session.tool("pause_and_ask"))
    await gate.reached()
    with refusing() as refused:
        gate.open()
        await until(lambda: refused() > 0)
    stream = await exchange.stream()
    await session.answer(await stream.question(), FINE)
    assert await value_of(stream) == "fine"


async def test_a_question_that_times_out_while_the_database_is_away_still_ends(
    client: Client,
    server_processes: Processes,
    settings: Settings,
    stage: Stage,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings.MCP_DJANGO_QUESTION_TIMEOUT = timedelta(seconds=0.01)
    gate = before_giving_up(server_processes, stage, monkeypatch)
    session = await client.open(capabilities=FORM)
    stream, question = await asked(session)
    await gate.reached()
    with refusing("writes") as refused:
        gate.open()
        await until(lambda: refused() > 0)
    (answer,) = await stream.rest()
    assert answer["error"]["code"] == -32001
    # Nobody could be told that the question is void; an answer to it changes nothing all the same.
    assert (await session.answer(question, FINE)).status == 202


async def test_an_answer_that_was_kept_counts_although_nothing_was_heard_of_it(
    client: Client, server_processes: Processes
) -> None:
    session = await client.open(capabilities=FORM)
    stream, question = await asked(session)
    with commits_unheard(Change) as unheard:
        assert (await session.answer(question, FINE)).status == 202
    assert unheard() == 1
    assert await value_of(stream) == "fine"
