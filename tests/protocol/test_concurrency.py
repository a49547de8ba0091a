"""Calls run side by side, each in a context of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from django.conf import settings as django_settings
from django.contrib.auth.models import User
from django.db.backends.signals import connection_created
from django.test import AsyncClient

from tests.protocol.client import Client, Session, together
from tests.protocol.stage import Stage

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.anyio

PARTY = 64


@pytest.mark.parametrize("tool", ["meet", "meet_in_thread"])
async def test_tools_query_the_database_at_the_same_time(client: Client, tool: str) -> None:
    # 64 in tests/live, fewer here: a database server takes a hundred connections from all tests that run together.
    session, size = await client.open(), 16
    await User.objects.acreate(username="the only one")
    responses = await together(*(session.begin(session.tool(tool, size=size)) for _ in range(size)))
    assert [response.result["structuredContent"] for response in responses] == [{"value": 1}] * size


async def test_sync_and_async_tools_of_different_sessions_meet_too(client: Client) -> None:
    sessions = [await client.open() for _ in range(8)]
    exchanges = [
        session.begin(session.tool(tool, size=16)) for session in sessions for tool in ("meet", "meet_in_thread")
    ]
    assert [response.status for response in await together(*exchanges)] == [200] * 16


async def test_a_blocked_sync_tool_holds_up_nobody(client: Client, stage: Stage) -> None:
    session = await client.open()
    gate = stage.hold("here")
    blocked = session.begin(session.tool("pause_in_thread", place="here"))
    await gate.reached()
    assert await session.call("add", a=1, b=2) == {"result": 3}
    assert await session.call("multiply", a=1, b=2) == {"result": 2}
    gate.open()
    assert (await blocked.response()).status == 200


async def test_no_count_in_the_state_is_lost(client: Client) -> None:
    session = await client.open()
    exchanges = [session.begin(session.tool(tool)) for tool in ("count", "acount") for _ in range(32)]
    responses = await together(*exchanges)
    values = sorted(response.result["structuredContent"]["value"] for response in responses)
    assert values == list(range(1, 65))


@pytest.mark.parametrize("tool", ["look_around", "look_around_in_thread"])
async def test_what_a_call_leaves_in_its_context_is_found_by_no_other(client: Client, tool: str) -> None:
    session = await client.open()
    calm = {"language": django_settings.LANGUAGE_CODE, "mood": "calm"}
    for _ in range(2):
        exchanges = [session.begin(session.tool(tool, language="de")) for _ in range(PARTY)]
        for response in await together(*exchanges):
            assert response.result["structuredContent"] == calm
    for other in ("look_around", "look_around_in_thread"):
        assert await session.call(other) == calm


async def test_connections_are_given_back_when_calls_end(client: Client, open_connections: list[Any]) -> None:
    session = await client.open()
    for tool in ("meet", "meet_in_thread"):
        await together(*(session.begin(session.tool(tool, size=16)) for _ in range(16)))
    still_open = [connection for connection in open_connections if connection.connection is not None]
    # A lane keeps its own: one for reads, one for writes.
    assert len(open_connections) >= 32
    assert len(still_open) <= 2


@pytest.fixture
def open_connections() -> Iterator[list[Any]]:
    """Every database connection that is made during the test."""
    made: list[Any] = []

    def note(connection: Any, **kwargs: Any) -> None:
        made.append(connection)

    connection_created.connect(note)
    yield made
    connection_created.disconnect(note)


# What a call knows of its request


@pytest.mark.parametrize("tool", ["facts", "facts_in_thread"])
async def test_a_tool_knows_its_user_and_its_request_through_either_entry(alice: Client, tool: str) -> None:
    await User.objects.acreate(username="alice")
    session = await alice.open()
    response = await session.post(session.tool(tool), {"X-Told": "something"})
    facts = response.result["structuredContent"]
    assert (facts["user"], facts["user_on_request"]) == ("alice", "alice")
    assert (facts["path"], facts["header"]) == ("/protocol/mcp", "something")
    assert facts["session_id"] == session.id


async def test_the_request_is_that_of_the_call_and_not_that_of_the_handshake(client: Client) -> None:
    session = await client.open()
    told = [str(number) for number in range(16)]
    responses = await together(*(session.begin(session.tool("facts"), {"X-Told": value}) for value in told))
    assert [response.result["structuredContent"]["header"] for response in responses] == told


@pytest.mark.parametrize("tool", ["facts", "facts_in_thread"])
async def test_an_anonymous_caller_is_django_s_anonymous_user(client: Client, tool: str) -> None:
    session = await client.open()
    facts = await session.call(tool)
    assert (facts["user"], facts["user_on_request"]) == ("", "")


@pytest.mark.parametrize("tool", ["facts", "facts_in_thread"])
async def test_whoever_is_logged_in_to_the_site_is_that_user_until_they_log_out(client: Client, tool: str) -> None:
    browser = AsyncClient()
    await browser.aforce_login(await User.objects.acreate(username="carol"))
    cookie = {"Cookie": f"sessionid={browser.cookies['sessionid'].value}"}
    client.path = "/site/mcp"
    response = await client.handshake(headers=cookie)
    session = Session(client, str(response.header("mcp-session-id")), "2025-11-25")
    facts = (await session.post(session.tool(tool), cookie)).result["structuredContent"]
    assert (facts["user"], facts["user_on_request"]) == ("carol", "carol")
    assert (await session.request("ping")).status == 404, "Without the cookie this is somebody else."
    await browser.alogout()
    assert (await session.post(client.message("ping"), cookie)).status == 404


# Where the project is mounted


@pytest.mark.parametrize("tool", ["facts", "facts_in_thread"])
async def test_links_begin_where_the_project_is_mounted(client: Client, tool: str) -> None:
    mounted = Client(client.application, root_path="/app")
    session = await mounted.open()
    assert (await session.call(tool))["home"] == "/app/"
    assert (await session.call(tool))["path"] == "/app/protocol/mcp"
    assert (await session.of(client).call(tool))["home"] == "/", "The next call is not mounted there."


async def test_hooks_make_such_links_too(client: Client) -> None:
    mounted = Client(client.application, root_path="/app")
    session = await mounted.open()
    assert (await session.call("handled"))["home_at_handshake"] == "/app/"


async def test_a_forced_script_name_is_followed(client: Client, settings: Settings) -> None:
    settings.FORCE_SCRIPT_NAME = "/forced"
    session = await client.open()
    assert (await session.call("facts"))["home"] == "/forced/"


async def test_links_of_calls_that_run_at_once_are_each_their_own(client: Client) -> None:
    session = await client.open()
    mounts = [Client(client.application, root_path=f"/app-{number}") for number in range(8)]
    exchanges = [session.of(mount).begin(session.tool("facts_in_thread")) for mount in mounts]
    homes = [response.result["structuredContent"]["home"] for response in await together(*exchanges)]
    assert homes == [f"/app-{number}/" for number in range(8)]
