"""What every client gets from every endpoint, whichever era it negotiates.

A balancer between the client and its servers counts what is sent, so that a client which came back without need would
be seen.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import pairwise
from typing import Any

import pytest

from tests.clients.balancer import Balancer, Visit
from tests.clients.drivers import INSPECTOR_KINDS, KINDS, ClientError, Driver, Feature, Kind
from tests.clients.endpoints import EVERYTHING, Call
from tests.clients.fixtures import Drivers, Servers
from tests.clients.places import PLACES, Place, meeting, meetings
from tests.live.servers import wait_until

pytestmark = [pytest.mark.live, pytest.mark.clients]

NOWHERE = "nowhere://nothing"
HIDDEN_TOOL = "now_you_see_me"
SILENCE = 0.8  # more than a client waits between two tries, see tests.clients.settings
# Of these no connection has more than one.
ONCE = ("initialize", "notifications/initialized", "server/discover", "subscriptions/listen", "GET", "DELETE")
OF_SESSIONS = {"initialize", "notifications/initialized", "GET", "DELETE", "resources/subscribe"}
OF_NO_SESSIONS = {"server/discover", "subscriptions/listen"}
ALONE = meetings("everything", "library", "view-everything", "view-library")
ACROSS = [
    meeting(kind, "balanced-everything", long=False)
    for kind in ("python-1", "python-2-legacy", "python-2-modern", "typescript-2-modern")
]
INSPECTED = [meeting(kind, "everything", long=kind == "inspector-auto") for kind in INSPECTOR_KINDS]


@pytest.fixture(scope="module", params=meetings(*PLACES))
def met(request: pytest.FixtureRequest) -> tuple[str, str]:
    """The names of a client and of a place."""
    kind, place = request.param
    return kind, place


@pytest.fixture
def kind(met: tuple[str, str]) -> Kind:
    return KINDS[met[0]]


@pytest.fixture
def place(met: tuple[str, str], running_servers: Servers) -> Place:
    endpoint, names = PLACES[met[1]]
    return Place(endpoint, [running_servers[name] for name in names])


@pytest.fixture
def name() -> str:
    """A client name of this test alone, by which its sessions can be counted."""
    return f"client-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def balancer(place: Place) -> Iterator[Balancer]:
    with Balancer(place.servers) as balancer:
        yield balancer
    place.keep_secret(balancer.session_id)


@pytest.fixture
def client(running_drivers: Drivers, kind: Kind, place: Place, balancer: Balancer, name: str) -> Iterator[Driver]:
    """A client process, kept for all tests; each is a connection of its own."""
    driver = running_drivers[kind.start]
    driver.connect(balancer.url(place.endpoint.path), name, mode=kind.mode, content=place.endpoint.content)
    if kind.has_session and kind.stays_connected:
        # Else chance would have it which of the requests it comes after.
        balancer.wait_for("standalone", 1)
    yield driver
    # Where the session has ended already, the client says so.
    with suppress(ClientError):
        driver.close()
    sent = requests(balancer)
    assert not sent.keys() & (OF_NO_SESSIONS if kind.has_session else OF_SESSIONS)
    if kind.stays_connected:
        assert all(sent[once] <= 1 for once in ONCE), sent


def needs(kind: Kind, feature: Feature) -> None:
    """Skip the test for a client that has no way to do what it is about."""
    if feature in kind.cannot:
        pytest.skip(kind.cannot[feature])


def call(client: Driver, call: Call) -> None:
    """Call a tool and see that its structured result is the expected one, and is there as text too."""
    result = client.ask("call", name=call.tool, arguments=call.arguments)
    assert not result.get("isError"), result
    assert result["structuredContent"].items() >= call.result.items()
    assert result["content"][0]["type"] == "text"


def questions(client: Driver) -> list[str]:
    """What the client was asked. (The TypeScript client 2.x reports progress of its own: the number of the round.)"""
    return [text for what, text in client.ask("seen") if what == "asked"]


def requests(balancer: Balancer) -> Counter[str]:
    """What a client has sent, by JSON-RPC method; by HTTP method where there was no message."""
    return Counter(visit.message or visit.method for visit in balancer.visits)


def calls_and_answers(balancer: Balancer) -> list[Visit]:
    """The requests that call a tool or, having no method, answer a question."""
    return [visit for visit in balancer.visits if visit.method == "POST" and visit.message in ("tools/call", None)]


def texts(contents: Sequence[Any]) -> str:
    return "".join(content.get("text", "") for content in contents)


def test_a_client_negotiates_the_era_that_it_looks_for(
    client: Driver, kind: Kind, place: Place, balancer: Balancer, name: str
) -> None:
    assert client.ask("negotiated") == kind.version
    if place.endpoint is EVERYTHING:
        info = client.call("session_info")
        place.keep_secret(info["session_id"])
        assert info["protocol_version"] == kind.version
        assert (info["session_id"] is not None) is kind.has_session
        assert info["client_name"] == (name if "naming itself" not in kind.cannot else "inspector-cli")
    sent = requests(balancer)
    # Those who are told which era it is need not ask; the TypeScript client and the Inspector do all the same.
    assert bool(sent["initialize"]) is kind.has_session
    if kind.mode == "auto":
        assert sent["server/discover"]


def test_what_there_is_is_listed(client: Driver, place: Place) -> None:
    offered = client.ask("list")
    for what, names in place.endpoint.offers.items():
        assert set(offered[what]) >= names
        assert len(offered[what]) == len(set(offered[what]))


def test_a_tool_answers_be_it_sync_or_async(client: Driver, place: Place) -> None:
    for known in place.endpoint.calls:
        call(client, known)


def test_progress_is_heard_step_by_step(client: Driver, kind: Kind, place: Place) -> None:
    needs(kind, "progress")
    call(client, place.endpoint.progressing)
    assert client.ask("seen") == [["progress", step] for step in place.endpoint.steps]


@pytest.mark.parametrize("met", [*ALONE, *ACROSS], indirect=True)
def test_a_question_is_asked_and_answered(client: Driver, kind: Kind, place: Place, balancer: Balancer) -> None:
    needs(kind, "questions")
    call(client, place.endpoint.asking)
    (question,) = questions(client)
    assert question.startswith(place.endpoint.question)
    asked, answered = calls_and_answers(balancer)
    # The answer is a message of its own, or comes with the same request once more.
    assert answered.message == (None if kind.has_session else asked.message)
    assert (answered.port != asked.port) is (len(place.servers) > 1)
    for undoing in place.endpoint.undoing:
        call(client, undoing)


@pytest.mark.parametrize("met", ACROSS, indirect=True)
def test_a_tool_that_asks_by_a_resolver_and_by_its_context_hears_both_answers(
    client: Driver, balancer: Balancer
) -> None:
    assert client.call("ask_both_ways") == {"resolved": "Ada", "elicited": "Ada"}
    assert questions(client) == ["What do strangers call you?", "And what do friends?"]
    visits = calls_and_answers(balancer)
    assert len(visits) == 3
    assert all(one.port != other.port for one, other in pairwise(visits))


@pytest.mark.parametrize("met", INSPECTED, indirect=True)
def test_a_question_that_the_inspector_cannot_hear_is_refused_with_advice(
    client: Driver, kind: Kind, balancer: Balancer
) -> None:
    refusal = client.refused("call", name="ask_name", arguments={})
    assert "did not declare the capability `elicitation`" in refusal
    assert "Take what is needed as arguments instead." in refusal
    # That was one command, and one connection; the list is read anew once the Inspector listens.
    sent = requests(balancer)
    assert sent["tools/call"] == 1
    assert sent["tools/list"] <= 2
    if kind.has_session:
        assert sent["initialize"] == sent["notifications/initialized"] == sent["GET"] == 1
    else:
        assert sent["server/discover"] == sent["subscriptions/listen"] == 1


def test_a_tool_that_fails_says_why(client: Driver, place: Place) -> None:
    failing = place.endpoint.failing
    result = client.ask("call", name=failing.tool, arguments=failing.arguments)
    assert result["isError"] is True
    assert place.endpoint.error in texts(result["content"])


def test_what_is_not_there_is_refused_and_the_connection_goes_on(client: Driver, place: Place) -> None:
    assert "no_such_tool" in client.refused("call", name="no_such_tool", arguments={})
    assert NOWHERE in client.refused("read", uri=NOWHERE)
    assert "no_such_prompt" in client.refused("prompt", name="no_such_prompt")
    call(client, place.endpoint.calls[0])


def test_a_resource_is_read(client: Driver, place: Place) -> None:
    (content,) = client.ask("read", uri=place.endpoint.uri)["contents"]
    assert content["uri"] == place.endpoint.uri
    assert place.endpoint.text in content["text"]


def test_a_prompt_is_filled_in(client: Driver, place: Place) -> None:
    endpoint = place.endpoint
    (message,) = client.ask("prompt", name=endpoint.prompt, arguments=endpoint.prompt_arguments)["messages"]
    assert message["role"] == "user"
    assert endpoint.prompt_text in message["content"]["text"]


def test_an_argument_is_completed(client: Driver, kind: Kind, place: Place) -> None:
    needs(kind, "completion")
    argument, value = place.endpoint.completing
    completed = client.ask("complete", prompt=place.endpoint.prompt, argument=argument, value=value)
    assert completed == place.endpoint.completions


def test_a_change_is_heard(client: Driver, kind: Kind, place: Place) -> None:
    needs(kind, "notices")
    endpoint = place.endpoint
    client.ask("listen", **endpoint.listening)
    assert client.ask("seen") == []
    other = place.others()[-1]
    told = [other.call(telling.tool, **telling.arguments) for telling in endpoint.telling]
    wait_until(lambda: client.ask("seen"), "The client hears of it")
    assert all(heard == endpoint.heard for heard in client.ask("seen"))
    if endpoint.listening["tools"]:
        # What it lists now is not what it may have kept.
        assert (HIDDEN_TOOL in client.ask("list")["tools"]) is told[-1]["visible"]


@pytest.mark.parametrize("aloud", [True, False], ids=["streaming", "quiet"])
def test_a_call_that_its_client_gives_up_is_stopped(
    client: Driver, kind: Kind, place: Place, balancer: Balancer, aloud: bool
) -> None:
    needs(kind, "giving up")
    others, party = place.others(), uuid.uuid4().hex

    def is_walking() -> bool:
        return any(other.call("is_walking", party=party)["walking"] for other in others)

    client.ask("begin", name="walk", arguments={"party": party, "aloud": aloud})
    wait_until(is_walking, "The call runs")
    if aloud:
        wait_until(lambda: client.ask("seen") == [["progress", 1]], "The client hears of it")
    assert not client.ask("give_up").startswith("It ended with")
    wait_until(lambda: not is_walking(), "The call is stopped")
    # By a message of its own, or by closing the stream.
    assert bool(requests(balancer)["notifications/cancelled"]) is kind.has_session
    call(client, place.endpoint.calls[0])


@pytest.mark.parametrize("met", meetings("everything"), indirect=True)
def test_a_client_that_has_nothing_to_do_is_silent(
    client: Driver, kind: Kind, place: Place, balancer: Balancer
) -> None:
    needs(kind, "staying connected")
    call(client, place.endpoint.calls[0])
    client.refused("call", name="no_such_tool", arguments={})
    balancer.wait_for_silence(SILENCE, at_most=len(balancer.visits))
