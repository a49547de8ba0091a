"""The contract of all clients, for the MCP Inspector's command line.

Each of its commands is a process and a connection of its own, which takes most of a second: so most of this is long.
"""

from __future__ import annotations

import pytest

from tests.clients.balancer import Balancer
from tests.clients.contract import ClientContract, Place, requests
from tests.clients.drivers import INSPECTOR_KINDS, Driver, Kind
from tests.clients.fixtures import PLACES, place_of
from tests.live.servers import one_by_default

pytestmark = [pytest.mark.live, pytest.mark.clients]


@pytest.fixture(
    scope="module",
    params=["inspector-legacy", "inspector-modern", pytest.param("inspector-auto", marks=pytest.mark.long)],
)
def kind(request: pytest.FixtureRequest) -> Kind:
    return INSPECTOR_KINDS[request.param]


@pytest.fixture(scope="module", params=one_by_default(list(PLACES)))
def place(request: pytest.FixtureRequest) -> Place:
    return place_of(request)


class TestInspector(ClientContract):
    @pytest.mark.parametrize("place", ["everything"], indirect=True)
    def test_a_question_is_refused_since_it_could_not_hear_it(
        self, client: Driver, kind: Kind, balancer: Balancer
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
