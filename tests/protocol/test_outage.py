"""The database is away: 503 on every path, never 404, and business as usual when it is back."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest
from django.db import OperationalError

from mcp_django import threads
from mcp_django.models import Session as Row
from tests.protocol.client import Client, Response, Session, case, together
from tests.protocol.outage import refusing, silent
from tests.protocol.processes import Processes
from tests.protocol.stage import Stage

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.anyio


async def initialize(session: Session) -> Response:
    return await session.client.handshake()


async def request(session: Session) -> Response:
    return await session.post(session.tool("add", a=1, b=2))


async def notification(session: Session) -> Response:
    return await session.notify("notifications/progress", {"progressToken": 1, "progress": 1})


async def initialized(session: Session) -> Response:
    return await session.notify("notifications/initialized")


async def answer(session: Session) -> Response:
    return await session.post({"jsonrpc": "2.0", "id": 5, "result": {}})


async def batch(session: Session) -> Response:
    return await session.post([session.tool("add", a=1, b=2)])


async def unknown_id(session: Session) -> Response:
    return await session.client.post(session.client.message("ping"), session="nobody's")


async def delete(session: Session) -> Response:
    return await session.delete()


PATHS = [initialize, request, notification, initialized, answer, batch, unknown_id, delete]
Path = Callable[[Session], Awaitable[Response]]


def assert_unavailable(response: Response) -> None:
    assert response.status == 503
    assert int(response.header("retry-after") or 0) >= 1
    assert response.error["code"] == -32603
    assert response.header("mcp-session-id") is None


@pytest.mark.parametrize("restoring", [False, True], ids=["live", "restoring"])
async def test_a_database_that_refuses_is_a_503_with_retry_after_on_every_path_and_nothing_is_lost(
    client: Client, server_processes: Processes, restoring: bool
) -> None:
    session = await client.open("2025-03-26", initialized=False)
    if restoring:
        await server_processes.another()
    for path in PATHS:
        with case(path.__name__), refusing():
            assert_unavailable(await path(session))
            assert_unavailable(await path(session))
    # Back, without a restart: the session is what it was.
    assert await session.call_tool("count")
    assert (await Row.objects.aget()).state == {"count": 1}
    assert (await client.open()).id
    assert (await session.delete()).status == 204
    assert (await session.delete()).status == 404


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)
async def test_every_path_works_again_as_soon_as_the_database_is_back(client: Client, path: Path) -> None:
    session = await client.open("2025-03-26")
    with refusing():
        assert_unavailable(await path(session))
    expected = {"notification": 202, "initialized": 202, "answer": 202, "unknown_id": 404, "delete": 204}
    assert (await path(session)).status == expected.get(path.__name__, 200)


@pytest.mark.parametrize("path", [initialize, initialized, delete], ids=lambda path: path.__name__)
async def test_a_database_that_can_only_be_read_is_a_503_where_something_is_to_be_written(
    client: Client, path: Path
) -> None:
    session = await client.open(initialized=False)
    with refusing("writes"):
        assert_unavailable(await path(session))
        assert (await session.request("ping")).result == {}
    assert (await session.notify("notifications/initialized")).status == 202
    assert (await Row.objects.aget()).initialized_at is not None


async def test_a_restore_that_cannot_be_written_down_is_a_503_and_the_next_request_tries_again(
    client: Client, server_processes: Processes
) -> None:
    session = await client.open()
    await server_processes.another()
    with refusing("writes"):
        assert_unavailable(await request(session))
    facts = await session.call("facts")
    assert facts["restored"] == {"reason": "other_process", "count": 1}


async def test_a_hook_that_cannot_read_the_state_makes_the_restore_a_503(
    client: Client, server_processes: Processes, stage: Stage
) -> None:
    session = await client.open()
    await server_processes.another()
    gate = stage.hold("on_restore")
    exchange = session.begin(session.tool("add", a=1, b=2))
    await gate.reached()
    with refusing("reads"):
        gate.open()
        assert_unavailable(await exchange.response())
    assert await session.call("add", a=1, b=2) == {"result": 3}


async def test_a_state_that_cannot_be_changed_is_an_error_that_the_model_can_read(client: Client) -> None:
    session = await client.open()
    with refusing("writes"):
        for tool in ("count", "acount"):
            result = await session.call_tool(tool)
            assert result["isError"]
            assert "not available" in result["content"][0]["text"]
        error = (await session.request("logging/setLevel", {"level": "debug"})).error
        assert error["code"] == -32603
    assert await session.call("count") == {"value": 1}


async def test_a_create_that_fails_leaks_no_id_and_leaves_no_row(client: Client, stage: Stage) -> None:
    with refusing("writes"):
        assert_unavailable(await client.handshake())
    assert not await Row.objects.aexists()
    assert "on_initialize" not in stage.names()


async def test_a_silent_database_is_a_503_after_the_deadline_and_hurts_nobody_afterwards(
    client: Client, settings: Settings
) -> None:
    session = await client.open()
    settings.MCP_DJANGO_STORE_TIMEOUT = 0.2
    with silent() as speaks:
        assert_unavailable(await request(session))
        assert_unavailable(await initialize(session))
        assert_unavailable(await delete(session))
        speaks.set()
    settings.MCP_DJANGO_STORE_TIMEOUT = 5.0
    # The DELETE's outcome was not known; whichever it is, it is one of the two answers for good.
    assert (await session.request("ping")).status in (200, 404)
    fresh = await client.open()
    assert await fresh.call("count") == {"value": 1}


async def test_a_lane_that_is_stuck_for_ever_is_left_behind(client: Client, settings: Settings) -> None:
    session = await client.open()
    # All other threads that calls need are there.
    assert await session.call("add", a=1, b=2) == {"result": 3}
    settings.MCP_DJANGO_STORE_TIMEOUT = 0.2
    with silent("reads"):
        assert_unavailable(await request(session))
        stuck = threading.active_count()
    # The visit above has not returned; another thread goes on.
    settings.MCP_DJANGO_STORE_TIMEOUT = 5.0
    assert await session.call("add", a=1, b=2) == {"result": 3}
    assert threading.active_count() <= stuck + 1


async def test_authentication_that_fails_in_the_database_is_a_503(alice: Client, stage: Stage) -> None:
    session = await alice.open()
    stage.fail("authenticate", OperationalError("server closed the connection unexpectedly"), times=3)
    for path in (initialize, request, delete):
        assert_unavailable(await path(session))
    assert (await session.request("ping")).result == {}


async def test_authentications_that_hang_for_ever_keep_no_later_one_from_being_made(
    alice: Client, stage: Stage, settings: Settings
) -> None:
    session = await alice.open()
    stuck = threads.authenticator_pool.current()
    settings.MCP_DJANGO_STORE_TIMEOUT = 0.2
    gate = stage.hold("authenticate")
    hanging = [session.begin(alice.message("ping")) for _ in range(16)]
    for response in await together(*hanging):
        assert_unavailable(response)
    # The database is back, but a connection that died in silence may keep its thread for hours.
    stage.let_pass("authenticate")
    settings.MCP_DJANGO_STORE_TIMEOUT = 2.0
    try:
        assert (await session.request("ping")).result == {}
    finally:
        gate.open()
        # Their threads still use the database, which is this test's only until its end.
        await asyncio.to_thread(stuck.shutdown, wait=True)


async def test_authentication_that_hangs_in_the_database_is_a_503_after_the_deadline(
    alice: Client, stage: Stage, settings: Settings
) -> None:
    session = await alice.open()
    stuck = threads.authenticator_pool.current()
    settings.MCP_DJANGO_STORE_TIMEOUT = 0.2
    gate = stage.hold("authenticate")
    exchange = session.begin(session.tool("add", a=1, b=2))
    await gate.reached()
    try:
        assert_unavailable(await exchange.response(within=3.0))
    finally:
        gate.open()
        await asyncio.to_thread(stuck.shutdown, wait=True)
