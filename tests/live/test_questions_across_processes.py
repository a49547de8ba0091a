"""Asked on one process, answered or cancelled on another."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.live.databases import Database
from tests.live.fixtures import Serve, serving
from tests.live.measuring import QUIET, WITH_REDIS, report
from tests.live.servers import Server, wait_until
from tests.live.streams import Message, Stream, is_answer
from tests.live.wire import LIVE, Client, all_at_once

pytestmark = pytest.mark.live

ELICITATION: dict[str, Any] = {"elicitation": {}}
REQUEST_CANCELLED = -32800
# Without a broker each takes half a second.
ROUNDS = 20 if WITH_REDIS else 8
# What the issue promises, in seconds.
ANSWERED = 0.05 if WITH_REDIS else 1.0
CANCELLED = 0.1 if WITH_REDIS else 2.0
# From an answer's POST to the result on the wire: a request, a hint, two writes and two reads.
STEPS = 6


@pytest.fixture(scope="module")
def servers(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Server, Server]]:
    with serving(database, tmp_path_factory.mktemp("servers")) as start:
        yield start(**QUIET), start(**QUIET), start(entry="view", **QUIET)


def ask(client: Client) -> tuple[Stream, Message]:
    """A call that waits for an answer, and the question."""
    stream = client.start("ask_name")
    question = stream.next()
    assert question["method"] == "elicitation/create"
    return stream, question


def named(name: str) -> dict[str, object]:
    return {"action": "accept", "content": {"name": name}}


def name_in(message: Message) -> object:
    content = message["result"]["structuredContent"]
    assert content["action"] == "accept"
    return content["name"]


def check_promise(what: str, times: list[float], limit: float, client: Client, database: Database) -> None:
    """The median is within the limit. A busy machine takes its time for a ping, too: then it may be later by some of
    these. Who was told nothing, and looks every half a second, is late by far more."""
    median = report(what, times, database)
    if median >= limit:
        plain = report("a ping", [timed_ping(client) for _ in range(ROUNDS)], database)
        assert median < limit + STEPS * plain


def timed_ping(client: Client) -> float:
    started = time.monotonic()
    client.request("ping")
    return time.monotonic() - started


def taken(response: httpx.Response) -> bool:
    """Nothing tells whoever sent an answer whether it counted."""
    return (response.status_code, response.content) == (202, b"")


def test_a_question_asked_on_one_process_is_answered_on_another(
    servers: tuple[Server, Server, Server], database: Database
) -> None:
    on_a = Client(servers[0], capabilities=ELICITATION).initialize()
    on_b = on_a.at(servers[1])
    on_b.call("session_info")
    times = []
    for turn in range(ROUNDS):
        stream, question = ask(on_a)
        with stream:
            answered = time.monotonic()
            assert taken(on_b.answer(question["id"], named(f"Ada {turn}")))
            (answer,) = stream.rest()
            times.append(time.monotonic() - answered)
            assert name_in(answer) == f"Ada {turn}"
    check_promise("answered on B to the result on A", times, ANSWERED, on_a, database)


def test_a_call_may_be_made_heard_and_answered_on_three_processes(servers: tuple[Server, Server, Server]) -> None:
    client = Client(servers[0], capabilities=ELICITATION).initialize()
    with client.start("ask_name") as stream:
        stream.frame()
    with client.at(servers[1]).resume(stream) as resumed:
        question = resumed.next()
        client.at(servers[2]).answer(question["id"], named("Grace"))
        (answer,) = resumed.rest()
    assert name_in(answer) == "Grace"


def test_a_second_answer_changes_nothing_wherever_it_comes(
    servers: tuple[Server, Server, Server], database: Database
) -> None:
    client = Client(servers[0], capabilities=ELICITATION).initialize()
    stream, question = ask(client)
    with stream:
        assert taken(client.at(servers[1]).answer(question["id"], named("first")))
        for server in servers:
            assert taken(client.at(server).answer(question["id"], named("second")))
        (answer,) = stream.rest()
    assert name_in(answer) == "first"
    for server in servers:
        assert taken(client.at(server).answer(question["id"], named("late")))
    ((status, kept),) = database.questions_of(client.session_id)
    assert (status, json.loads(kept)) == ("answered", {"result": named("first")})


def test_of_many_answers_at_once_one_counts(servers: tuple[Server, Server, Server], database: Database) -> None:
    client = Client(servers[0], capabilities=ELICITATION).initialize()
    on = [client.at(server) for server in servers]
    stream, question = ask(client)
    with stream:
        responses = all_at_once(12, lambda index: on[index % 3].answer(question["id"], named(f"name {index}")))
        assert {(response.status_code, response.content) for response in responses} == {(202, b"")}
        (answer,) = stream.rest()
    ((status, kept),) = database.questions_of(client.session_id)
    assert status == "answered"
    assert json.loads(kept) == {"result": named(str(name_in(answer)))}


def test_forged_and_foreign_answers_change_nothing(servers: tuple[Server, Server, Server], database: Database) -> None:
    client = Client(servers[0], capabilities=ELICITATION).initialize()
    stranger = Client(servers[1], capabilities=ELICITATION).initialize()
    stream, question = ask(client)
    with stream:
        for forged in (str(uuid.uuid4()), "no uuid", 7, question["id"] + "0", f"{question['id']}\u0000"):
            for server in servers:
                assert taken(client.at(server).answer(forged, named("forged")))
        for server in servers:
            assert taken(stranger.at(server).answer(question["id"], named("foreign")))
        assert database.questions_of(client.session_id) == [("asked", "")]
        assert stream.arrived() == []
        client.at(servers[1]).answer(question["id"], named("own"))
        (answer,) = stream.rest()
    assert name_in(answer) == "own"


def test_a_late_answer_changes_nothing(servers: tuple[Server, Server, Server], database: Database) -> None:
    client = Client(servers[0], capabilities=ELICITATION).initialize()
    stream, question = ask(client)
    with stream:
        assert taken(client.at(servers[1]).cancel(stream.request_id))
        withdrawn, answer = stream.rest()
    # The client hears that nobody waits for its answer any more, and then what became of its call.
    assert withdrawn["method"] == "notifications/cancelled"
    assert withdrawn["params"]["requestId"] == question["id"]
    assert (answer["id"], answer["error"]["code"]) == (stream.request_id, REQUEST_CANCELLED)
    for server in servers:
        assert taken(client.at(server).answer(question["id"], named("late")))
    assert database.questions_of(client.session_id) == [("abandoned", "")]


def test_an_answer_to_a_question_of_a_process_that_died_is_taken_and_harms_nothing(
    serve: Serve, servers: tuple[Server, Server, Server]
) -> None:
    asking = serve()
    client = Client(asking, capabilities=ELICITATION).initialize()
    stream, question = ask(client)
    asking.kill()
    stream.close()
    assert taken(client.at(servers[1]).answer(question["id"], named("nobody's")))
    assert client.at(servers[1]).call("add", a=1, b=2) == {"result": 3}


def test_a_cancel_sent_to_another_process_stops_the_call(
    servers: tuple[Server, Server, Server], database: Database
) -> None:
    on_a = Client(servers[0], path=LIVE).initialize()
    on_b = on_a.at(servers[1])
    on_b.call("recall", key="k")
    times = []
    for _turn in range(ROUNDS):
        party = uuid.uuid4().hex
        on_a.call("let_step", party=party)
        with on_a.start("stepwise", "token", party=party, steps=9) as stream:
            assert stream.next()["params"]["progress"] == 1
            assert on_a.call("is_walking", party=party)["value"] is True
            cancelled = time.monotonic()
            assert taken(on_b.cancel(stream.request_id))
            (answer,) = stream.rest()
            times.append(time.monotonic() - cancelled)
        assert (answer["id"], answer["error"]["code"]) == (stream.request_id, REQUEST_CANCELLED)
        assert on_a.call("is_walking", party=party)["value"] is False
    check_promise("cancelled on B to the end on A", times, CANCELLED, on_a, database)


def test_a_cancel_sent_to_another_process_stops_a_quiet_call_too(
    servers: tuple[Server, Server, Server], database: Database
) -> None:
    on_a = Client(servers[0], path=LIVE).initialize()
    on_b = on_a.at(servers[1])
    on_b.call("recall", key="k")
    times = []
    for _turn in range(5):
        party = uuid.uuid4().hex
        with on_a.start("stepwise", party=party, steps=1) as stream:
            wait_until(lambda party=party: on_a.call("is_walking", party=party)["value"], "The call runs")  # type: ignore[misc]
            cancelled = time.monotonic()
            on_b.cancel(stream.request_id)
            (answer,) = stream.rest()
            times.append(time.monotonic() - cancelled)
        assert is_answer(answer)
        assert (answer["id"], answer["error"]["code"]) == (stream.request_id, REQUEST_CANCELLED)
        assert on_a.call("is_walking", party=party)["value"] is False
    check_promise("cancelled on B to the end of a quiet call on A", times, CANCELLED, on_a, database)


def test_a_cancel_of_another_sessions_call_or_of_none_changes_nothing(
    servers: tuple[Server, Server, Server],
) -> None:
    client = Client(servers[0]).initialize()
    stranger = Client(servers[1]).initialize()
    with client.start("slow_progress", "token", steps=4, seconds=2) as stream:
        for request_id in (stream.request_id, 4711, "no such request", None, [1]):
            assert taken(stranger.cancel(request_id))
        assert taken(client.at(servers[1]).cancel(4711))
        answer = stream.rest()[-1]
    assert answer["result"]["structuredContent"] == {"steps": 4}
