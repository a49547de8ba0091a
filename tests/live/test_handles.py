"""Handles on real server processes: whichever answers, one that was killed included, with sessions and without."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from mcp_types import CLIENT_CAPABILITIES_META_KEY, CLIENT_INFO_META_KEY, PROTOCOL_VERSION_META_KEY

from tests.live.fixtures import Serve
from tests.live.servers import ENTRIES, Server, one_by_default
from tests.live.wire import LIVE, Client, all_at_once

pytestmark = [pytest.mark.live, pytest.mark.parametrize("entry", one_by_default(ENTRIES))]

MODERN = "2026-07-28"
ENVELOPE = {
    PROTOCOL_VERSION_META_KEY: MODERN,
    CLIENT_INFO_META_KEY: {"name": "live-tests", "version": "1.0"},
    CLIENT_CAPABILITIES_META_KEY: {},
}


class Stateless(Client):
    """A client of 2026-07-28 that calls tools."""

    def headers(self) -> dict[str, str]:
        return super().headers() | {"MCP-Protocol-Version": MODERN, "Mcp-Method": "tools/call"}

    def call(self, tool: str, **arguments: object) -> Any:
        params = {"name": tool, "arguments": arguments, "_meta": ENVELOPE}
        message = self.message("tools/call", params)
        response = self.server.http.post(self.path, headers=self.headers() | {"Mcp-Name": tool}, json=message)
        assert response.status_code == 200, response.text
        return response.json()["result"]["structuredContent"]


@pytest.fixture(params=["with a session each", "without"])
def era(request: pytest.FixtureRequest) -> Literal["with a session each", "without"]:
    found: Literal["with a session each", "without"] = request.param
    return found


def caller(era: str, server: Server) -> Client:
    return Stateless(server, path=LIVE) if era == "without" else Client(server, path=LIVE).initialize()


def started(era: str, *servers: Server) -> str:
    """A handle, which must be in no server's output: these clients are anonymous."""
    text: str = caller(era, servers[0]).call("start_tally")["result"]
    for server in servers:
        server.secrets.add(text.removeprefix("tally-"))
    return text


def test_one_goes_on_after_kill_9(serve: Serve, entry: str, era: str) -> None:
    server = serve(entry=entry)
    text = started(era, server)
    assert caller(era, server).call("tally", tally=text) == {"value": 1}
    server.restart()
    assert caller(era, server).call("tally", tally=text) == {"value": 2}


def test_two_processes_that_change_it_at_once_lose_nothing(serve: Serve, entry: str, era: str) -> None:
    servers = [serve(entry=entry) for _ in range(2)]
    text = started(era, *servers)
    callers = [caller(era, server) for server in servers]
    found = all_at_once(32, lambda number: callers[number % 2].call("tally", tally=text)["value"])
    assert sorted(found) == list(range(1, 33))
    all_at_once(8, lambda number: callers[number % 2].call("note", tally=text, book=f"{number}"))
    last = callers[0].call("note", tally=text, book="last")["value"]
    assert sorted(last[:-1]) == [f"{number}" for number in range(8)]
