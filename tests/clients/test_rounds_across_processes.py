"""Questions of a call that is on one process when they are asked, and on another when they are answered.

Between the clients and two servers, which share nothing but their database, is a balancer that alternates.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from itertools import pairwise

import pytest

from tests.clients.balancer import Balancer, Visit
from tests.clients.drivers import KINDS, Driver, Kind
from tests.live.databases import Database
from tests.live.fixtures import serving
from tests.live.measuring import QUIET
from tests.live.servers import Server
from tests.live.wire import EVERYTHING

pytestmark = [pytest.mark.live, pytest.mark.clients]

ASKED = [["asked", "What do strangers call you?"], ["asked", "And what do friends?"]]


@pytest.fixture(scope="module")
def servers(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    with serving(database, tmp_path_factory.mktemp("servers")) as start:
        yield [start(DJANGO_SETTINGS_MODULE="tests.clients.settings", **QUIET) for _ in range(2)]


@pytest.fixture
def balancer(servers: list[Server]) -> Iterator[Balancer]:
    with Balancer(servers) as balancer:
        yield balancer
    for server in servers:
        server.secrets |= {balancer.session_id} - {""}


@pytest.fixture(scope="module", params=["python-1", "python-2-legacy", "python-2-modern", "typescript-2-modern"])
def kind(request: pytest.FixtureRequest) -> Kind:
    return KINDS[request.param]


@pytest.fixture
def client(driver: Driver, kind: Kind, balancer: Balancer) -> Iterator[Driver]:
    driver.connect(balancer.url(EVERYTHING), f"client-{uuid.uuid4().hex[:12]}", mode=kind.mode)
    if kind.has_session:
        # Its place among the requests is left to chance otherwise.
        balancer.wait_for("standalone", 1)
    yield driver
    driver.close()


def calls_and_answers(balancer: Balancer) -> list[Visit]:
    """The requests that call a tool or, having no method, answer a question."""
    return [visit for visit in balancer.visits if visit.method == "POST" and visit.message in ("tools/call", None)]


def test_a_question_asked_by_one_process_is_answered_to_the_other(
    client: Driver, kind: Kind, balancer: Balancer
) -> None:
    assert client.call("ask_name") == {"action": "accept", "name": "Ada"}
    call, answer = calls_and_answers(balancer)
    assert answer.message == (None if kind.has_session else "tools/call")
    assert call.port != answer.port


def test_a_tool_that_asks_by_a_resolver_and_by_its_context_hears_both_answers(
    client: Driver, balancer: Balancer
) -> None:
    assert client.call("ask_both_ways") == {"resolved": "Ada", "elicited": "Ada"}
    assert [each for each in client.ask("seen") if each[0] == "asked"] == ASKED
    visits = calls_and_answers(balancer)
    assert len(visits) == 3
    assert all(one.port != other.port for one, other in pairwise(visits))
