"""Official clients whose stream was pruned while they were away: an error for their request, and no loop."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from typing import get_args

import pytest

from tests.clients.balancer import Balancer, How, Visit
from tests.clients.drivers import CLIENTS, ClientError
from tests.live.databases import Database
from tests.live.fixtures import serving
from tests.live.servers import Server, one_by_default, wait_until
from tests.live.wire import EVERYTHING

pytestmark = [pytest.mark.live, pytest.mark.clients]

SILENCE = 0.8  # more than a client waits between two tries, see tests.clients.settings
TRIES = 2


class Pruning(Balancer):
    """Whoever comes back for the rest of a call's stream finds that it was pruned."""

    def __init__(self, servers: Sequence[Server], database: Database) -> None:
        super().__init__(servers)
        self._database = database

    def begin(self, method: str, last_event_id: str | None, message: str | None) -> tuple[Visit, socket.socket]:
        if self._streams.get(last_event_id or "") == "call":
            wait_until(lambda: self._database.unfinished_streams(self.session_id) == 0, "The call is over")
            self._database.rows("DELETE FROM mcp_django_event")
            self._database.rows("DELETE FROM mcp_django_stream WHERE standalone = %s", False)
        return super().begin(method, last_event_id, message)


@pytest.fixture(scope="module")
def servers(database: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    with serving(database, tmp_path_factory.mktemp("servers")) as start:
        yield [start(DJANGO_SETTINGS_MODULE="tests.clients.settings") for _ in range(2)]


@pytest.mark.parametrize("how", one_by_default(get_args(How)))
@pytest.mark.parametrize("kind", CLIENTS)
def test_a_client_whose_stream_was_pruned_meanwhile_is_told_so_and_does_not_come_back_for_ever(
    kind: str, how: How, servers: list[Server], database: Database, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with CLIENTS[kind](tmp_path_factory.mktemp(kind) / "client.err") as client, Pruning(servers, database) as balancer:
        client.connect(balancer.url(EVERYTHING), f"pruned-{kind}-{how}")
        balancer.wait_for("standalone", 1)
        balancer.will_break("call", how, 1)
        with pytest.raises(ClientError) as raised:
            client.ask("call", name="slow_progress", arguments={"steps": 3, "seconds": 0.3})
        assert "no longer kept" in str(raised.value)
        balancer.wait_for_silence(SILENCE, at_most=len(balancer.visits) + TRIES)
        # The TypeScript client 1.x takes the error for a break; it is not to become one more listener by that.
        statuses = [visit.status for visit in balancer.visits if visit.last_event_id]
        assert statuses == [200, *([400] * TRIES if kind == "typescript-1" else [])]
        assert len(balancer.of("standalone")) == 1
        for server in servers:
            server.secrets |= {balancer.session_id} - {""}
