"""Credentials that stop to hold, and users who are no more: open streams end, and nothing new is begun."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import sync_to_async
from django.apps import apps
from django.conf import settings as django_settings
from django.contrib.auth.models import User
from django.db import OperationalError, connections, transaction
from django.db.models import Model
from django.test import Client as Browser
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from demo_project.database import from_url
from mcp_django import patrol, revocation
from mcp_django.asgi import Application
from mcp_django.connections import held
from mcp_django.models import Session as Row
from mcp_django.models import StoredHandle
from tests.protocol.auth_servers import Grant, Tokens
from tests.protocol.client import Client, EventStream, Session, case
from tests.protocol.processes import Processes
from tests.protocol.stage import Stage, until
from tests.protocol.stateless import Stateless
from tests.protocol.stateless import with_progress as with_modern_progress

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.anyio

HOUR = 3600.0


@pytest.fixture(autouse=True)
def nobody_looks(settings: Settings) -> None:
    """Only the test itself looks at credentials, and only hints have others look at sessions."""
    settings.MCP_DJANGO_POLL_INTERVAL = HOUR


@pytest.fixture(autouse=True)
def tokens(granted: dict[str, Grant], nobody_looks: None) -> dict[str, Grant]:
    granted["old"] = granted["new"] = Grant(client="alice")
    granted["of-bob"] = Grant(client="bob")
    return granted


def with_token(application: Application, token: str | None, path: str = "/closed/mcp") -> Client:
    return Client(application, path, token=token)


@pytest.fixture
def client(application: Application) -> Client:
    return with_token(application, "old")


async def ended(stream: EventStream) -> list[Any]:
    """What was left of a stream that has ended."""
    rest = await stream.rest()
    assert stream.ended
    return rest


# The patrol


async def test_a_get_stream_ends_and_the_next_request_is_401(client: Client, tokens: dict[str, Grant]) -> None:
    session = await client.open()
    stream = await session.listen()
    await stream.frame()
    await patrol.look(at_all=True)
    assert not stream.ended
    del tokens["old"]
    await patrol.look(at_all=True)
    assert await ended(stream) == []
    for response in (await session.request("ping"), await session.get().response(), await session.delete()):
        assert response.status == 401
    assert (await session.of(with_token(client.application, "new")).request("ping")).result == {}


async def test_the_stream_of_a_call_ends_the_call_goes_on_and_newer_credentials_get_its_result(
    client: Client, tokens: dict[str, Grant], stage: Stage, server_processes: Processes
) -> None:
    session = await client.open()
    gate = stage.hold("lingering")
    stream = await session.stream("linger")
    assert (await stream.message())["params"]["progress"] == 1
    await gate.reached()
    del tokens["old"]
    await patrol.look(at_all=True)
    assert await ended(stream) == []
    assert "left" not in stage.names()
    newer = session.of(with_token(client.application, "new"))
    assert (await session.get(stream.last_id).response()).status == 401
    assert (await session.of(with_token(client.application, "of-bob")).get(stream.last_id).response()).status == 404
    await server_processes.another()
    resumed = await newer.listen(stream.last_id)
    gate.open()
    await until(lambda: "left" in stage.names())
    await server_processes.tick()
    rest = await resumed.rest() if resumed.ended else await until_result(resumed, server_processes)
    assert [message.get("params", {}).get("progress") for message in rest[:-1]] == [2]
    assert rest[-1]["result"]["structuredContent"] == {"value": "stayed"}


async def until_result(stream: EventStream, processes: Processes) -> list[Any]:
    """The messages of a stream of another process, which is found by looking."""
    reading = asyncio.ensure_future(stream.rest())
    while not reading.done():
        await processes.tick()
        await asyncio.wait([reading], timeout=0.01)
    return reading.result()


async def test_a_resumed_stream_ends_with_the_credentials_that_resumed_it(
    client: Client, tokens: dict[str, Grant], stage: Stage
) -> None:
    session = await client.open()
    gate = stage.hold("lingering")
    stream = await session.stream("linger")
    await gate.reached()
    await stream.message()
    await stream.disconnect()
    newer = session.of(with_token(client.application, "new"))
    resumed = await newer.listen(stream.last_id)
    await resumed.frame()
    del tokens["old"]
    await patrol.look(at_all=True)
    assert not resumed.arrived()
    assert not resumed.ended
    del tokens["new"]
    await patrol.look(at_all=True)
    assert await ended(resumed) == []
    gate.open()


async def test_a_stream_of_notices_ends(client: Client, tokens: dict[str, Grant]) -> None:
    stream = await Stateless(client).listen(toolsListChanged=True)
    await stream.message()
    del tokens["old"]
    await patrol.look(at_all=True)
    assert await ended(stream) == []


async def test_a_call_without_a_session_is_cancelled_with_its_stream(
    client: Client, tokens: dict[str, Grant], stage: Stage
) -> None:
    gate = stage.hold("lingering")
    modern = Stateless(client)
    stream = await modern.stream(with_modern_progress(modern.tool("linger")))
    await stream.message()
    await gate.reached()
    del tokens["old"]
    await patrol.look(at_all=True)
    assert await ended(stream) == []
    await until(lambda: "left" in stage.names())
    assert (await modern.request("tools/list")).status == 401


@pytest.mark.parametrize(
    "later",
    [
        Grant(client="somebody else"),
        Grant(client="alice", scopes=frozenset({"read"})),
    ],
    ids=["another principal", "fewer scopes"],
)
async def test_a_stream_ends_as_well_if_its_token_became_another(
    client: Client, tokens: dict[str, Grant], later: Grant
) -> None:
    tokens["old"] = Grant(client="alice", scopes=frozenset({"read", "write"}))
    session = await client.open()
    stream = await session.listen()
    await stream.frame()
    tokens["old"] = Grant(client="alice", scopes=frozenset({"read", "write", "more"}))
    await patrol.look(at_all=True)
    assert not stream.ended
    tokens["old"] = later
    await patrol.look(at_all=True)
    assert await ended(stream) == []


async def test_only_the_streams_of_what_was_revoked_end_and_no_anonymous_one(
    application: Application, tokens: dict[str, Grant]
) -> None:
    streams = {}
    for token in ("old", "of-bob", None):
        session = await with_token(application, token, "/opened/mcp").open()
        streams[token] = await session.listen()
        await streams[token].frame()
    assert len(held) == 2
    del tokens["old"]
    await patrol.look(at_all=True)
    assert await ended(streams["old"]) == []
    for token in ("of-bob", None):
        with case(token):
            assert not streams[token].arrived()
            await streams[token].disconnect()
    assert not held


async def test_a_database_that_is_away_ends_nothing(client: Client, tokens: dict[str, Grant], stage: Stage) -> None:
    session = await client.open()
    stream = await session.listen()
    await stream.frame()
    del tokens["old"]
    stage.fail("authenticate", OperationalError("server closed the connection unexpectedly"), times=2)
    for _time in range(2):
        await patrol.look(at_all=True)
        assert not stream.arrived()
    assert not stream.ended
    # It is back.
    await patrol.look(at_all=True)
    assert await ended(stream) == []


async def test_an_authenticator_that_fails_otherwise_holds_nothing_open(
    client: Client, stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    session = await client.open()
    stream = await session.listen()
    await stream.frame()
    stage.fail("authenticate", LookupError("the directory is gone"))
    await patrol.look(at_all=True)
    assert await ended(stream) == []
    assert "the directory is gone" in caplog.text
    assert (await session.request("ping")).result == {}


async def test_credentials_are_looked_at_when_it_is_their_turn(
    client: Client, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = monotonic()
    session = await client.open()
    stream = await session.listen()
    await stream.frame()
    stage.reset()
    every = Tokens.recheck_every
    for at, asked in ((0.0, 0), (every * 0.9, 0), (every * 1.5, 1), (every * 2.4, 1), (every * 2.6, 2)):
        monkeypatch.setattr(patrol, "monotonic", lambda at=at: now + at)
        await patrol.look()
        assert stage.count("authenticate") == asked
    monkeypatch.setattr(Tokens, "recheck_every", 0.0)
    await patrol.look()
    assert stage.count("authenticate") == 3
    await stream.disconnect()


@pytest.mark.parametrize(("every", "most"), [(5.0, patrol.ALONE_AT_ONCE), (0.0, 5)])
async def test_those_that_are_asked_one_by_one_leave_the_threads_to_requests(
    client: Client, monkeypatch: pytest.MonkeyPatch, every: float, most: int
) -> None:
    streams = [await Stateless(client).listen(toolsListChanged=True) for _number in range(5)]
    for stream in streams:
        await stream.message()
    at_once: list[int] = []
    now = 0

    async def recognise(self: Tokens, request: Any, server: str) -> None:
        nonlocal now
        now += 1
        at_once.append(now)
        for _turn in range(10):
            await asyncio.sleep(0)
        now -= 1

    monkeypatch.setattr(Tokens, "recheck_every", every)
    monkeypatch.setattr(Tokens, "recognise", recognise)
    await patrol.look(at_all=True)
    assert len(at_once) == 5
    assert max(at_once) == most
    for stream in streams:
        await ended(stream)


async def test_a_thread_looks_all_the_time(
    client: Client, tokens: dict[str, Grant], settings: Settings, monkeypatch: pytest.MonkeyPatch, stage: Stage
) -> None:
    settings.MCP_DJANGO_POLL_INTERVAL = 0.02
    monkeypatch.setattr(Tokens, "recheck_every", 0.0)
    session = await client.open()
    stream = await session.listen()
    # One that fails does not end it.
    stage.fail("authenticate", OperationalError("away"))
    await until(lambda: stage.count("authenticate") > 6)
    del tokens["old"]
    await ended(stream)


async def test_a_login_that_ends_takes_its_streams_along(application: Application) -> None:
    browser = Browser()
    await sync_to_async(lambda: browser.force_login(User.objects.create_user("alice")))()
    cookie = {"Cookie": f"{django_settings.SESSION_COOKIE_NAME}={browser.cookies['sessionid'].value}"}
    site = Client(application, "/logins/mcp")
    opened = await site.handshake(headers=cookie)
    session = Session(site, str(opened.header("mcp-session-id")), "2025-11-25")
    stream = await session.get(headers=cookie).stream()
    await stream.frame()
    await patrol.look(at_all=True)
    assert not stream.ended
    await sync_to_async(browser.logout)()
    await patrol.look(at_all=True)
    assert await ended(stream) == []
    assert (await session.post(site.message("ping"), cookie)).status == 404


# Users


@pytest.fixture
def alice(tokens: dict[str, Grant]) -> User:
    user = User.objects.create_user("alice")
    tokens["of-alice"] = Grant("alice", "an app")
    tokens["of-alice-too"] = Grant("alice", "another app")
    return user


def deactivate(user: User) -> None:
    user.is_active = False
    user.save()


def deactivate_by_a_field(user: User) -> None:
    user.is_active = False
    user.save(update_fields=["is_active"])


def delete(user: User) -> None:
    user.delete()


def delete_many(user: User) -> None:
    User.objects.filter(pk=user.pk).delete()


CHANGES: list[tuple[Callable[[User], None], str]] = [
    (deactivate, "the user was deactivated"),
    (deactivate_by_a_field, "the user was deactivated"),
    (delete, "the user was deleted"),
    (delete_many, "the user was deleted"),
]


@pytest.mark.parametrize(("change", "reason"), CHANGES, ids=[change.__name__ for change, _reason in CHANGES])
async def test_a_user_who_is_no_more_loses_all_sessions_and_their_streams_at_once(
    application: Application, alice: User, change: Callable[[User], None], reason: str
) -> None:
    sessions = [await with_token(application, token).open() for token in ("of-alice", "of-alice-too")]
    other = await with_token(application, "of-bob").open()
    streams = [await session.listen() for session in (*sessions, other)]
    for stream in streams:
        await stream.frame()
    await sync_to_async(change)(alice)
    # Nobody polls: the hint alone does it.
    for stream in streams[:2]:
        assert await ended(stream) == []
    for session in sessions:
        assert (await session.request("ping")).status == 401
        row = await sync_to_async(Row.objects.for_id)(session.id)
        assert (row.status, row.end_reason) == (Row.Status.TERMINATED, reason)
    assert not streams[2].arrived()
    await streams[2].disconnect()
    assert (await other.request("ping")).result == {}


async def test_every_process_hears_of_it(
    application: Application, alice: User, server_processes: Processes, stage: Stage
) -> None:
    session = await with_token(application, "of-alice").open()
    gate = stage.hold("lingering")
    call = await session.stream("linger")
    await gate.reached()
    before = await server_processes.another()
    listening = await session.listen()
    await listening.frame()
    await sync_to_async(deactivate)(alice)
    assert await ended(listening) == []
    # Without a broker the other process finds out when it looks.
    server_processes.become(before)
    await server_processes.tick()
    await ended(call)
    await until(lambda: "left" in stage.names())


async def test_it_happens_with_the_transaction_or_not_at_all(application: Application, alice: User) -> None:
    session = await with_token(application, "of-alice").open()
    stream = await session.listen()
    await stream.frame()

    def change(outcome: str) -> None:
        try:
            with transaction.atomic():
                (deactivate if outcome == "deactivate and roll back" else delete)(User.objects.get(pk=alice.pk))
                if "roll back" in outcome:
                    raise RuntimeError
        except RuntimeError:
            assert Row.objects.active().count() == 1

    for outcome in ("deactivate and roll back", "delete and roll back"):
        await sync_to_async(change)(outcome)
        assert (await session.request("ping")).result == {}
    await sync_to_async(change)("delete")
    assert await ended(stream) == []
    assert not await Row.objects.filter(owner=alice.pk).aexists()


async def test_whoever_is_active_again_begins_anew(application: Application, alice: User) -> None:
    client = with_token(application, "of-alice")
    session = await client.open()
    await sync_to_async(deactivate)(alice)
    await User.objects.filter(pk=alice.pk).aupdate(is_active=True)
    assert (await session.request("ping")).status == 404
    assert (await (await client.open()).request("ping")).result == {}


async def test_an_update_without_a_signal_is_found_out_by_the_credentials(
    application: Application, alice: User
) -> None:
    session = await with_token(application, "of-alice").open()
    stream = await session.listen()
    await stream.frame()
    await User.objects.filter(pk=alice.pk).aupdate(is_active=False)
    assert (await session.request("ping")).status == 401
    await patrol.look(at_all=True)
    assert await ended(stream) == []


# The receivers alone


def handle_of(user: User, key: str) -> None:
    now = timezone.now()
    StoredHandle.objects.create(
        id=key, server="x", kind="x", owner=user, created_at=now, used_at=now, expires_at=now + timedelta(days=1)
    )


def session_of(user: User, key: str) -> Row:
    now = timezone.now()
    return Row.objects.create(
        id=key,
        server="x",
        owner=user,
        principal=f"user:{user.pk}",
        initialize_params_json="{}",
        protocol_version="2025-11-25",
        created_at=now,
        last_seen_at=now,
        expires_at=now + timedelta(days=1),
    )


@pytest.fixture
def bob() -> User:
    return User.objects.create_user("bob")


def test_handles_are_deleted_with_their_user_and_kept_while_the_user_may_come_back(alice: User, bob: User) -> None:
    handle_of(alice, "a")
    handle_of(bob, "b")
    deactivate(alice)
    assert StoredHandle.objects.count() == 2
    alice.delete()
    assert [handle.pk for handle in StoredHandle.objects.all()] == ["b"]


def test_sessions_that_are_over_keep_their_reason(alice: User) -> None:
    session_of(alice, "a").end("ended in admin")
    deactivate(alice)
    assert Row.objects.get().end_reason == "ended in admin"


def statements(change: Callable[[], object]) -> list[str]:
    """What a change asks the database about sessions and handles."""
    with CaptureQueriesContext(connections["default"]) as context:
        change()
    return [query["sql"] for query in context.captured_queries if "mcp_django_" in query["sql"]]


def test_whoever_is_active_costs_no_query(alice: User) -> None:
    session_of(alice, "a")
    assert statements(alice.save) == []
    assert statements(lambda: User.objects.create_user("somebody", is_active=False)) == []
    alice.is_active = False
    # As loaddata saves.
    assert statements(lambda: Model.save_base(alice, raw=True)) == []
    assert len(statements(alice.save)) == 2
    assert len(statements(alice.save)) == 1


def test_a_user_model_without_is_active_is_never_deactivated() -> None:
    class Plain:
        pk = 1

    def save() -> None:
        revocation.user_saved(instance=Plain(), created=False, raw=False, using="default")

    assert statements(save) == []


def test_proxies_of_the_user_model_are_users() -> None:
    class Staff(User):
        class Meta:
            app_label = "auth"
            proxy = True

    revocation.connect()
    try:
        user = Staff.objects.create(username="proxied")
        session_of(user, "a")
        user.is_active = False
        user.save()
        assert Row.objects.get().end_reason == "the user was deactivated"
    finally:
        del apps.all_models["auth"]["staff"]
        apps.clear_cache()


def test_sessions_that_are_not_kept_in_the_database_are_not_looked_for_there(alice: User, settings: Settings) -> None:
    settings.MCP_DJANGO_SESSION_STORE = "mcp_django.memory.MemoryStore"
    assert statements(lambda: deactivate(alice)) == []


@pytest.fixture
def people(tmp_path: Path) -> Iterator[str]:
    """Another database, in which the users are."""
    configured = from_url(f"sqlite:///{tmp_path / 'people.sqlite3'}", tmp_path)
    connections.settings["people"] = connections.configure_settings({"default": configured})["default"]
    with connections["people"].schema_editor() as editor:
        editor.create_model(User)
    yield "people"
    connections["people"].close()
    del connections["people"]
    del connections.settings["people"]


def test_users_of_another_database_are_waited_for_until_it_commits(alice: User, people: str) -> None:
    session_of(alice, "a")
    handle_of(alice, "b")
    elsewhere = User.objects.using(people).create(pk=alice.pk, username="alice")
    with transaction.atomic(using=people):
        deactivate(elsewhere)
        revocation.user_deleted(instance=elsewhere, using=people)
        transaction.set_rollback(True, using=people)
    assert Row.objects.get().status == Row.Status.ACTIVE
    with transaction.atomic(using=people):
        deactivate(elsewhere)
        assert Row.objects.get().status == Row.Status.ACTIVE
    assert Row.objects.get().end_reason == "the user was deactivated"
    with transaction.atomic(using=people):
        revocation.user_deleted(instance=elsewhere, using=people)
        elsewhere.pk = None
    assert not StoredHandle.objects.exists()
