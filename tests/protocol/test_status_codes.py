"""Which id is answered how: 400, 404, 204, and never anything that tells one dead id from another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
from django.contrib.auth.models import User
from django.utils import timezone

from mcp_django.exceptions import SessionNotFound
from mcp_django.models import Session as Row
from mcp_django.models import digest_of
from tests.protocol.client import Client, Response, Session
from tests.protocol.processes import Processes
from tests.protocol.stage import Stage, until, until_async

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.anyio


# 400


@pytest.mark.parametrize("session", [None, "", " "])
async def test_a_request_without_an_id_is_400_although_there_is_but_one_session(
    client: Client, session: str | None
) -> None:
    await client.open()
    for response in (
        await client.post(client.message("ping"), session=session),
        await client.post({"jsonrpc": "2.0", "method": "notifications/initialized"}, session=session),
        await client.post([client.message("ping")], session=session),
        await client.delete(session=session),
    ):
        assert response.status == 400
        assert response.error["code"] == -32600
        assert "Mcp-Session-Id" in response.error["message"]


# 404


async def unknown(client: Client) -> str:
    return "a" * 43


async def empty_looking(client: Client) -> str:
    return "\u00a0"


async def never_ascii(client: Client) -> str:
    return "ünïcode-\xff"


async def very_long(client: Client) -> str:
    return "x" * 50_000


async def digest_of_a_living_one(client: Client) -> str:
    return digest_of((await client.open()).id)


async def deleted(client: Client) -> str:
    session = await client.open()
    assert (await session.delete()).status == 204
    return session.id


async def ended_in_the_admin(client: Client) -> str:
    session = await client.open()
    assert await Row.objects.filter(pk=digest_of(session.id)).aupdate(status="terminated", epoch=1) == 1
    return session.id


async def expired(client: Client) -> str:
    session = await client.open()
    await Row.objects.filter(pk=digest_of(session.id)).aupdate(expires_at=timezone.now() - timedelta(seconds=1))
    return session.id


async def marked_expired(client: Client) -> str:
    session = await client.open()
    await Row.objects.filter(pk=digest_of(session.id)).aupdate(status="expired")
    return session.id


async def pruned(client: Client) -> str:
    session = await client.open()
    await Row.objects.filter(pk=digest_of(session.id)).adelete()
    return session.id


async def alice_s(client: Client) -> str:
    return (await Client(client.application, token="token-of-alice").open()).id


async def of_another_server(client: Client) -> str:
    return (await Client(client.application, "/other/mcp").open()).id


DEAD_IDS = [
    unknown,
    empty_looking,
    never_ascii,
    very_long,
    digest_of_a_living_one,
    deleted,
    ended_in_the_admin,
    expired,
    marked_expired,
    pruned,
    alice_s,
    of_another_server,
]


@pytest.mark.parametrize("dead_id", DEAD_IDS, ids=lambda made: made.__name__)
async def test_every_dead_id_is_answered_with_the_same_bytes_and_headers(
    client: Client, dead_id: Callable[[Client], Awaitable[str]]
) -> None:
    expected = await client.post(client.message("ping"), session="the id to compare with")
    assert expected.status == 404
    assert expected.error["code"] == -32001
    assert expected.json["id"] is None
    id = await dead_id(client)
    messages = [
        client.message("ping"),
        client.message("tools/call", {"name": "count"}),
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        [client.message("ping")],
        "not a message",
    ]
    for message in messages:
        assert await client.post(message, session=id) == expected
    assert await client.delete(session=id) == expected


@pytest.mark.parametrize("dead_id", [deleted, expired, alice_s, of_another_server], ids=lambda made: made.__name__)
async def test_another_process_says_the_same_of_a_dead_id(
    client: Client, server_processes: Processes, stage: Stage, dead_id: Callable[[Client], Awaitable[str]]
) -> None:
    expected = await client.post(client.message("ping"), session="the id to compare with")
    id = await dead_id(client)
    await server_processes.another()
    assert await client.post(client.message("ping"), session=id) == expected
    assert await client.delete(session=id) == expected
    assert "on_restore" not in stage.names()


@pytest.mark.parametrize("cookie_too", [False, True])
async def test_a_browser_s_session_key_is_no_session_id(client: Client, cookie_too: bool) -> None:
    await client.open()
    key = "abcdefghijklmnopqrstuvwxyz012345"
    headers = {"Cookie": f"sessionid={key}"} if cookie_too else {}
    assert (await client.post(client.message("ping"), session=key, headers=headers)).status == 404


# Owners


async def everything_with(session: Session) -> list[Response]:
    return [
        await session.request("ping"),
        await session.post(session.tool("count")),
        await session.notify("notifications/initialized"),
        await session.cancel(1),
        await session.delete(),
    ]


@pytest.mark.parametrize("restored", [False, True])
async def test_a_session_is_its_owner_s_alone(
    alice: Client, bob: Client, client: Client, server_processes: Processes, stage: Stage, restored: bool
) -> None:
    session = await alice.open(initialized=False)
    if restored:
        await server_processes.another()
    stage.events.clear()
    for stranger in (bob, client, Client(alice.application, token="an invalid token")):
        expected = await stranger.post(stranger.message("ping"), session="the id to compare with")
        for response in await everything_with(session.of(stranger)):
            assert response == expected
    assert set(stage.names()) <= {"authenticate"}
    assert await session.call("count") == {"value": 1}
    assert (await Row.objects.aget()).initialized_at is None


async def test_an_anonymous_session_is_not_taken_over_by_logging_in(client: Client, alice: Client) -> None:
    session = await client.open()
    assert (await session.of(alice).request("ping")).status == 404
    assert (await session.request("ping")).result == {}


async def test_the_owner_is_written_down(alice: Client) -> None:
    user = await User.objects.acreate(username="alice")
    session = await alice.open()
    row = await Row.objects.aget()
    assert row.owner_id == user.pk
    assert row.principal == "bearer:alice"
    assert (await session.call("facts"))["user"] == "alice"


async def test_the_sessions_of_a_user_who_is_gone_are_over_for_everybody(alice: Client, bob: Client) -> None:
    user = await User.objects.acreate(username="alice")
    session = await alice.open()
    await user.adelete()
    row = await Row.objects.aget()
    assert (row.owner_id, row.status) == (None, Row.Status.TERMINATED)
    for client in (alice, bob):
        assert (await session.of(client).request("ping")).status == 404


# The end


async def test_delete_is_204_and_then_404_and_the_row_stays_as_a_tombstone(client: Client) -> None:
    session = await client.open()
    response = await session.delete()
    assert (response.status, response.body) == (204, b"")
    assert (await session.delete()).status == 404
    assert (await session.request("ping")).status == 404
    row = await Row.objects.aget()
    assert row.status == "terminated"
    assert row.ended_at is not None
    assert row.end_reason


async def test_delete_on_one_process_is_a_404_on_another_at_once(client: Client, server_processes: Processes) -> None:
    session = await client.open()
    first = await server_processes.another()
    assert await session.call("count") == {"value": 1}
    second = server_processes.current
    server_processes.become(first)
    assert (await session.delete()).status == 204
    server_processes.become(second)
    assert (await session.request("ping")).status == 404


@pytest.mark.parametrize("attempt", range(3))
async def test_of_two_deletes_at_once_one_ends_the_session_and_the_other_finds_none(
    client: Client, attempt: int
) -> None:
    session = await client.open()
    headers = client.headers(session.id)
    both = [client.exchange("DELETE", headers=headers) for _ in range(2)]
    assert sorted([(await exchange.response()).status for exchange in both]) == [204, 404]


async def test_a_touch_after_the_end_resurrects_nothing(client: Client, server_processes: Processes) -> None:
    session = await client.open()
    store, digest = server_processes.sessions.store, digest_of(session.id)
    assert await Row.objects.filter(pk=digest).aupdate(last_seen_at=timezone.now() - timedelta(hours=1))
    assert (await session.delete()).status == 204
    ended = await Row.objects.aget()
    store.touch(digest, timezone.now(), timezone.now() + timedelta(days=99))
    # One lane writes in order: when this is answered, the touch has been made.
    assert not await store.set_log_level(digest, "debug")
    row = await Row.objects.aget()
    assert (row.status, row.last_seen_at, row.expires_at) == (ended.status, ended.last_seen_at, ended.expires_at)
    assert (await session.request("ping")).status == 404


async def test_no_late_write_resurrects_a_session_that_has_ended(client: Client, server_processes: Processes) -> None:
    session = await client.open()
    assert await session.call("count") == {"value": 1}
    await session.delete()
    store, digest = server_processes.sessions.store, digest_of(session.id)
    before = await Row.objects.values().aget()
    assert not await store.mark_initialized(digest, timezone.now())
    assert not await store.set_log_level(digest, "debug")
    assert not await store.mark_restored(digest, server_processes.current, "")
    assert not await store.replace_state(digest, "{}", before["state_version"])
    assert not await store.end(digest, "again", "expired")
    with pytest.raises(SessionNotFound):
        await store.change_state(digest, lambda state: state.update(count=99))
    with pytest.raises(SessionNotFound):
        await store.read_state(digest)
    assert await Row.objects.values().aget() == before


@pytest.mark.parametrize("tool", ["pause", "pause_in_thread"])
async def test_a_call_that_outlives_its_session_cannot_change_its_state(
    client: Client, stage: Stage, tool: str
) -> None:
    session = await client.open()
    gate = stage.hold("here")
    exchange = session.begin(session.tool(tool, place="here"))
    await gate.reached()
    # Ended by somebody else: this process does not know yet.
    await Row.objects.filter(pk=digest_of(session.id)).aupdate(status="terminated", epoch=9)
    gate.open()
    result = (await exchange.response()).result
    assert result["isError"]
    assert "ended" in result["content"][0]["text"]
    row = await Row.objects.aget()
    assert (row.status, row.state) == ("terminated", {})


@pytest.mark.parametrize("tool", ["pause", "pause_in_thread"])
async def test_delete_ends_the_session_s_running_calls_in_this_process(client: Client, stage: Stage, tool: str) -> None:
    session = await client.open()
    gate = stage.hold("here")
    exchange = session.begin(session.tool(tool, place="here"))
    await gate.reached()
    assert (await session.delete()).status == 204
    assert (await exchange.response()).error["code"] == -32000
    # A thread cannot be stopped; what it does to the state now is refused.
    gate.open()
    await until(lambda: stage.count("left here") == 1)
    assert (await Row.objects.aget()).state == {}


# Time


async def test_use_moves_the_expiry_and_idleness_does_not(client: Client, settings: Settings) -> None:
    settings.MCP_DJANGO_SESSION_TTL = timedelta(hours=1)
    session = await client.open()
    row = await Row.objects.aget()
    assert row.expires_at - row.last_seen_at == timedelta(hours=1)
    await session.request("ping")
    assert (await Row.objects.aget()).expires_at == row.expires_at, "A touch comes at a bounded resolution."
    earlier = timezone.now() - timedelta(minutes=30)
    await Row.objects.aupdate(last_seen_at=earlier, expires_at=earlier + timedelta(hours=1))
    await session.request("ping")
    await until_async(Row.objects.filter(last_seen_at__gt=earlier + timedelta(minutes=25)).aexists)
    row = await Row.objects.aget()
    assert row.expires_at - row.last_seen_at == timedelta(hours=1)


async def test_a_refused_stranger_does_not_keep_a_session_alive(alice: Client, bob: Client) -> None:
    session = await alice.open()
    earlier = timezone.now() - timedelta(minutes=30)
    await Row.objects.aupdate(last_seen_at=earlier)
    assert (await session.of(bob).request("ping")).status == 404
    # One lane writes in order: the answer to this comes after any touch.
    await bob.open()
    assert (await Row.objects.aget(principal="bearer:alice")).last_seen_at == earlier
