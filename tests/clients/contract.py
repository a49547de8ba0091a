"""What every client gets from every endpoint, whichever era it negotiates.

Clients are proven by a subclass of :class:`ClientContract` in a module with a fixture `kind` that says which they are.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pytest

from tests.clients.balancer import Balancer
from tests.clients.drivers import ClientError, Driver, Feature, Kind
from tests.clients.endpoints import Call, Endpoint
from tests.live import wire
from tests.live.servers import Server, wait_until

NOWHERE = "nowhere://nothing"
SILENCE = 0.8  # more than a client waits between two tries, see tests.clients.settings
HIDDEN_TOOL = "now_you_see_me"
# Of these no connection has more than one.
ONCE = ("initialize", "notifications/initialized", "server/discover", "subscriptions/listen", "GET", "DELETE")
OF_SESSIONS = {"initialize", "notifications/initialized", "GET", "DELETE", "resources/subscribe"}
OF_NO_SESSIONS = {"server/discover", "subscriptions/listen"}


@dataclass(frozen=True)
class Place:
    """An endpoint of a server process."""

    server: Server
    endpoint: Endpoint

    def other(self) -> wire.Client:
        """Somebody else who is connected there."""
        return wire.Client(self.server, path=self.endpoint.path).initialize()


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


def requests(balancer: Balancer) -> Counter[str]:
    """What a client has sent, by JSON-RPC method; by HTTP method where there was no message."""
    return Counter(visit.message or visit.method for visit in balancer.visits)


def texts(contents: Sequence[Any]) -> str:
    return "".join(content.get("text", "") for content in contents)


class ClientContract:
    @pytest.fixture
    def name(self) -> str:
        """A client name of this test alone, by which its sessions can be counted."""
        return f"client-{uuid.uuid4().hex[:12]}"

    @pytest.fixture
    def balancer(self, place: Place) -> Iterator[Balancer]:
        with Balancer([place.server]) as balancer:
            yield balancer
        place.server.secrets |= {balancer.session_id} - {""}

    @pytest.fixture
    def client(self, driver: Driver, kind: Kind, place: Place, balancer: Balancer, name: str) -> Iterator[Driver]:
        """A client process, kept for all tests of its kind; each test is a connection of its own."""
        endpoint = place.endpoint
        driver.connect(balancer.url(endpoint.path), name, mode=kind.mode, content=endpoint.content)
        yield driver
        # Where the session has ended already, the client says so.
        with suppress(ClientError):
            driver.close()
        sent = requests(balancer)
        assert not sent.keys() & (OF_NO_SESSIONS if kind.has_session else OF_SESSIONS)
        if kind.stays_connected:
            assert all(sent[once] <= 1 for once in ONCE), sent

    def test_a_client_negotiates_the_era_that_it_looks_for(
        self, client: Driver, kind: Kind, place: Place, balancer: Balancer, name: str
    ) -> None:
        assert client.ask("negotiated") == kind.version
        if place.endpoint.path == wire.EVERYTHING:
            info = client.call("session_info")
            place.server.secrets |= {info["session_id"]} - {None}
            assert info["protocol_version"] == kind.version
            assert (info["session_id"] is not None) is kind.has_session
            assert info["client_name"] == (name if "naming itself" not in kind.cannot else "inspector-cli")
        sent = requests(balancer)
        # Those who are told which era it is need not ask; the TypeScript client and the Inspector do all the same.
        assert bool(sent["initialize"]) is kind.has_session
        if kind.mode == "auto":
            assert sent["server/discover"]

    def test_what_there_is_is_listed(self, client: Driver, place: Place) -> None:
        offered = client.ask("list")
        for what, names in place.endpoint.offers.items():
            assert set(offered[what]) >= names
            assert len(offered[what]) == len(set(offered[what]))

    def test_a_tool_answers_be_it_sync_or_async(self, client: Driver, place: Place) -> None:
        for known in place.endpoint.calls:
            call(client, known)

    def test_progress_is_heard_step_by_step(self, client: Driver, kind: Kind, place: Place) -> None:
        needs(kind, "progress")
        call(client, place.endpoint.progressing)
        assert client.ask("seen") == [["progress", step] for step in place.endpoint.steps]

    def test_a_question_is_asked_and_answered(
        self, client: Driver, kind: Kind, place: Place, balancer: Balancer
    ) -> None:
        needs(kind, "questions")
        call(client, place.endpoint.asking)
        # The TypeScript client 2.x reports progress as well, which is its own: the number of the round.
        (question,) = (text for what, text in client.ask("seen") if what == "asked")
        assert question.startswith(place.endpoint.question)
        # The answer is a message of its own, or comes with the same request once more.
        assert requests(balancer)["tools/call"] == (1 if kind.has_session else 2)
        for undoing in place.endpoint.undoing:
            call(client, undoing)

    def test_a_tool_that_fails_says_why(self, client: Driver, place: Place) -> None:
        failing = place.endpoint.failing
        result = client.ask("call", name=failing.tool, arguments=failing.arguments)
        assert result["isError"] is True
        assert place.endpoint.error in texts(result["content"])

    def test_what_is_not_there_is_refused_and_the_connection_goes_on(self, client: Driver, place: Place) -> None:
        assert "no_such_tool" in client.refused("call", name="no_such_tool", arguments={})
        assert NOWHERE in client.refused("read", uri=NOWHERE)
        assert "no_such_prompt" in client.refused("prompt", name="no_such_prompt")
        call(client, place.endpoint.calls[0])

    def test_a_resource_is_read(self, client: Driver, place: Place) -> None:
        (content,) = client.ask("read", uri=place.endpoint.uri)["contents"]
        assert content["uri"] == place.endpoint.uri
        assert place.endpoint.text in content["text"]

    def test_a_prompt_is_filled_in(self, client: Driver, place: Place) -> None:
        endpoint = place.endpoint
        (message,) = client.ask("prompt", name=endpoint.prompt, arguments=endpoint.prompt_arguments)["messages"]
        assert message["role"] == "user"
        assert endpoint.prompt_text in message["content"]["text"]

    def test_an_argument_is_completed(self, client: Driver, kind: Kind, place: Place) -> None:
        needs(kind, "completion")
        argument, value = place.endpoint.completing
        completed = client.ask("complete", prompt=place.endpoint.prompt, argument=argument, value=value)
        assert completed == place.endpoint.completions

    def test_a_change_is_heard(self, client: Driver, kind: Kind, place: Place, balancer: Balancer) -> None:
        needs(kind, "notices")
        endpoint = place.endpoint
        if kind.has_session:
            balancer.wait_for("standalone", 1)
        client.ask("listen", **endpoint.listening)
        assert client.ask("seen") == []
        other = place.other()
        told = [other.call(telling.tool, **telling.arguments) for telling in endpoint.telling]
        wait_until(lambda: client.ask("seen"), "The client hears of it")
        assert all(heard == endpoint.heard for heard in client.ask("seen"))
        if endpoint.listening["tools"]:
            # What it lists now is not what it may have kept.
            assert (HIDDEN_TOOL in client.ask("list")["tools"]) is told[-1]["visible"]

    @pytest.mark.parametrize("aloud", [True, False], ids=["streaming", "quiet"])
    def test_a_call_that_its_client_gives_up_is_stopped(
        self, client: Driver, kind: Kind, place: Place, balancer: Balancer, aloud: bool
    ) -> None:
        needs(kind, "giving up")
        other, party = place.other(), uuid.uuid4().hex

        def is_walking() -> bool:
            return bool(other.call("is_walking", party=party)["walking"])

        client.ask("begin", name="walk", arguments={"party": party, "aloud": aloud})
        wait_until(is_walking, "The call runs")
        if aloud:
            wait_until(lambda: client.ask("seen") == [["progress", 1]], "The client hears of it")
        assert not client.ask("give_up").startswith("It ended with")
        wait_until(lambda: not is_walking(), "The call is stopped")
        # By a message of its own, or by closing the stream.
        assert bool(requests(balancer)["notifications/cancelled"]) is kind.has_session
        call(client, place.endpoint.calls[0])

    @pytest.mark.parametrize("place", ["everything"], indirect=True)
    def test_a_client_that_has_nothing_to_do_is_silent(
        self, client: Driver, kind: Kind, place: Place, balancer: Balancer
    ) -> None:
        call(client, place.endpoint.calls[0])
        client.refused("call", name="no_such_tool", arguments={})
        if kind.has_session and kind.stays_connected:
            balancer.wait_for("standalone", 1)
        until_then = len(balancer.visits)
        balancer.wait_for_silence(SILENCE, at_most=until_then)
