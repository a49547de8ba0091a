"""Bearer tokens of the project's own, as clients send them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import Permission, User
from django.db import OperationalError
from django.utils import timezone

from mcp_django.asgi import Application
from mcp_django.models import Session, StoredHandle
from mcp_django.tokens.models import PREFIX, Token
from mcp_django.tokens.uses import ReadToken, uses
from tests.protocol.client import Client, progress_of, together
from tests.protocol.stage import Stage, until, until_async
from tests.protocol.stateless import Stateless
from tests.unit.waiting import end_lane

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.anyio

ClientOf = Callable[..., Client]
NOT_VALID = "The token is not valid here: it is unknown, revoked or expired."
LONG_AGO = timezone.now() - timedelta(days=1)


@pytest.fixture(autouse=True)
def project(project: None, settings: Settings) -> Iterator[None]:
    settings.ROOT_URLCONF = "tests.protocol.token_servers"
    settings.MCP_DJANGO_POLL_INTERVAL = 0.03
    yield
    end_lane(uses.reads)
    end_lane(uses.writes)


@pytest.fixture
def client_of(application: Application) -> ClientOf:
    """A client that sends a token."""

    def made(raw_token: str | None, server: str = "tokens") -> Client:
        return Client(application, f"/{server}/mcp", token=raw_token)

    return made


@sync_to_async
def issued(username: str = "alice", **options: Any) -> tuple[Token, str]:
    """A new token of a user, who is made if need be."""
    user, _made = User.objects.get_or_create(username=username, defaults={"email": f"{username}@example.org"})
    return Token.objects.issue(user, **options)


async def refused(client: Client) -> str:
    """The text of a 401, which must come with a challenge and be the same in either era."""
    response = await client.handshake()
    assert response.status == 401
    text: str = response.error["message"]
    challenge = response.header("www-authenticate")
    assert challenge is not None
    assert challenge.startswith("Bearer")
    again = await Stateless(client).request("tools/list")
    assert (again.status, again.error["message"], again.header("www-authenticate")) == (401, text, challenge)
    return text


async def test_a_token_lets_its_user_in_in_either_era(client_of: ClientOf) -> None:
    _row, raw_token = await issued()
    session = await client_of(raw_token).open()
    expected = {"user": "alice", "email": "alice@example.org"}
    assert await session.call("whoami") == expected
    assert await Stateless(client_of(raw_token)).call("whoami") == expected


async def test_without_a_token_nobody_comes_in_and_the_challenge_blames_no_token(client_of: ClientOf) -> None:
    response = await client_of(None).handshake()
    assert response.status == 401
    assert response.header("www-authenticate") == "Bearer"
    assert await refused(client_of(None)) == "Authentication is required."


async def test_the_scheme_is_known_in_any_case(client_of: ClientOf) -> None:
    _row, raw_token = await issued()
    for value in (f"bearer {raw_token}", f"BEARER  {raw_token}"):
        assert (await client_of(None).handshake(headers={"Authorization": value})).status == 200


async def test_whoever_shows_a_wrong_token_is_told_so_even_where_everybody_may_come_in(client_of: ClientOf) -> None:
    assert (await client_of(None, "tokens-open").handshake()).status == 200
    assert await refused(client_of(f"{PREFIX}forged", "tokens-open")) == NOT_VALID


GARBAGE = ["", " ", PREFIX, "x" * 10_000, "é", "a b", '"', "'; DROP TABLE mcp_tokens_token --", "\x00"]


async def test_what_is_no_token_is_refused(client_of: ClientOf) -> None:
    for garbage in GARBAGE:
        response = await client_of(None).handshake(headers={"Authorization": f"Bearer {garbage}"})
        assert (response.status, response.error["message"]) == (401, NOT_VALID), garbage
        assert 'error="invalid_token"' in (response.header("www-authenticate") or "")


async def test_the_digest_of_a_token_is_no_token(client_of: ClientOf) -> None:
    row, _raw_token = await issued()
    assert await refused(client_of(row.pk)) == NOT_VALID


async def test_two_headers_are_refused_be_they_both_right(client_of: ClientOf) -> None:
    _row, raw_token = await issued()
    for values in ([f"Bearer {raw_token}"] * 2, [f"Bearer {raw_token}", "Basic YTpi"]):
        response = await client_of(None).handshake(headers={"Authorization": values})
        assert (response.status, response.error["message"]) == (401, NOT_VALID)


Spoil = Callable[[Token], Any]
WAYS: dict[str, Spoil] = {
    "revoked": lambda row: row.revoke(),
    "expired": lambda row: Token.objects.filter(pk=row.pk).update(expires_at=LONG_AGO),
    "deleted": lambda row: row.delete(),
    "of an inactive user": lambda row: User.objects.filter(pk=row.user_id).update(is_active=False),
    "of a deleted user": lambda row: delete_user(row.user_id),
}


def delete_user(pk: int) -> None:
    User.objects.get(pk=pk).delete()


@pytest.mark.parametrize("way", WAYS)
async def test_a_token_that_is_over_is_refused_from_the_next_request_on(client_of: ClientOf, way: str) -> None:
    row, raw_token = await issued()
    client = client_of(raw_token)
    session = await client.open()
    assert (await session.call("whoami"))["user"] == "alice"
    await sync_to_async(WAYS[way])(row)
    response = await session.request("tools/list")
    assert (response.status, response.error["message"]) == (401, NOT_VALID)
    assert await refused(client) == NOT_VALID


async def test_a_token_of_one_server_is_not_valid_on_another(client_of: ClientOf) -> None:
    _row, raw_token = await issued(server="tokens")
    assert (await client_of(raw_token).handshake()).status == 200
    assert await refused(client_of(raw_token, "tokens-second")) == NOT_VALID


async def test_a_token_that_is_not_ours_is_left_to_the_next_authenticator(client_of: ClientOf) -> None:
    session = await client_of("token-of-bob", "tokens-mixed").open()
    assert session.id


async def test_a_session_goes_on_with_another_token_of_its_user_and_with_nobody_elses(client_of: ClientOf) -> None:
    (_one, first), (_two, second), (_other, bobs) = await issued(), await issued(), await issued("bob")
    session = await client_of(first).open()
    assert (await session.of(client_of(second)).call("whoami"))["user"] == "alice"
    assert (await session.of(client_of(bobs)).request("tools/list")).status == 404


async def test_scopes_hide_what_a_token_is_not_for(client_of: ClientOf) -> None:
    async def tools_of(**options: Any) -> set[str]:
        _row, raw_token = await issued(**options)
        session = await client_of(raw_token).open()
        return {tool["name"] for tool in (await session.request("tools/list")).result["tools"]}

    assert "write_book" in await tools_of()
    assert "write_book" in await tools_of(scopes=["books:read", "books:write"])
    assert "write_book" not in await tools_of(scopes=["books:read"])


async def test_permissions_are_asked_of_the_user_who_came_with_the_token(client_of: ClientOf) -> None:
    row, raw_token = await issued()
    session = await client_of(raw_token).open()
    assert (await session.request("tools/call", {"name": "see_groups", "arguments": {}})).error["code"] == -32602
    permission = await sync_to_async(Permission.objects.get)(codename="view_group")
    await sync_to_async(User.user_permissions.through.objects.create)(user_id=row.user_id, permission=permission)
    assert await session.call("see_groups") == {"result": 1}


# Open streams


async def open_stream(client: Client, stage: Stage) -> Any:
    """The stream of a call that has taken one step of two, and its session."""
    gate = stage.hold("walk")
    session = await client.open()
    stream = await session.stream("walk", place="walk")
    assert progress_of([await stream.message()]) == [1]
    await gate.reached()
    return session, stream, gate


@pytest.mark.parametrize("way", WAYS)
async def test_a_stream_ends_when_its_token_does(client_of: ClientOf, stage: Stage, way: str) -> None:
    row, raw_token = await issued()
    _session, stream, gate = await open_stream(client_of(raw_token), stage)
    await sync_to_async(WAYS[way])(row)
    # With a user who is deleted their sessions end too, and then the call is told.
    assert [message for message in await stream.rest() if "error" not in message] == []
    gate.open()


async def test_a_call_goes_on_and_its_owner_comes_back_with_a_newer_token(client_of: ClientOf, stage: Stage) -> None:
    (row, old), (_row, new) = await issued(), await issued()
    session, stream, gate = await open_stream(client_of(old), stage)
    await sync_to_async(row.revoke)()
    assert await stream.rest() == []
    resumed = await session.of(client_of(new)).listen(stream.last_id)
    gate.open()
    *steps, result = await resumed.rest()
    assert progress_of(steps) == [2]
    assert result["result"]["structuredContent"]["user"] == "alice"


# What it costs


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each query was for."""
    sizes: list[int] = []
    serve = ReadToken.serve

    def counted(items: Sequence[ReadToken]) -> Any:
        sizes.append(len(items))
        return serve(items)

    monkeypatch.setattr(ReadToken, "serve", staticmethod(counted))
    return sizes


async def test_many_calls_at_once_are_checked_with_few_queries(client_of: ClientOf, batches: list[int]) -> None:
    tokens = [(await issued(f"user-{number}"))[1] for number in range(5)]
    sessions = [await client_of(raw_token).open() for raw_token in tokens]
    batches.clear()
    responses = await together(*(sessions[i % 5].begin(sessions[i % 5].tool("whoami")) for i in range(50)))
    users = [response.result["structuredContent"]["user"] for response in responses]
    assert users == [f"user-{i % 5}" for i in range(50)]
    assert sum(batches) == 50
    assert len(batches) <= 10


async def test_a_stream_outlives_what_happens_to_other_tokens(
    client_of: ClientOf, stage: Stage, batches: list[int]
) -> None:
    (_row, raw_token), (other, _raw) = await issued(), await issued()
    _session, stream, gate = await open_stream(client_of(raw_token), stage)
    await sync_to_async(other.revoke)()
    before = len(batches)
    await until(lambda: len(batches) > before + 2)
    gate.open()
    assert progress_of(await stream.rest()) == [2]


async def test_each_of_them_is_judged_by_its_own_token(client_of: ClientOf) -> None:
    issued_tokens = [await issued(f"user-{number}") for number in range(20)]
    for row, _raw_token in issued_tokens[::2]:
        await sync_to_async(row.revoke)()
    clients = [client_of(raw_token) for _row, raw_token in issued_tokens]
    found = await asyncio.gather(*(client.handshake() for client in clients))
    assert [response.status for response in found] == [401, 200] * 10


async def test_a_request_that_is_refused_for_its_media_type_costs_no_query(
    client_of: ClientOf, batches: list[int]
) -> None:
    response = await client_of("x").post({}, headers={"Content-Type": "text/plain"})
    assert response.status == 415
    assert batches == []


async def test_a_use_is_noted_once_a_minute(client_of: ClientOf, settings: Settings) -> None:
    row, raw_token = await issued()
    session = await client_of(raw_token).open()
    await until_async(Token.objects.filter(last_used_at__isnull=False).aexists)
    first = await noted(row)
    await session.call("whoami")
    assert await noted(row) == first
    settings.MCP_DJANGO_TOUCH_RESOLUTION = timedelta(microseconds=1)
    await session.call("whoami")
    await until_async(Token.objects.filter(last_used_at__gt=first).aexists)


async def noted(row: Token) -> Any:
    return await Token.objects.filter(pk=row.pk).values_list("last_used_at", flat=True).aget()


async def test_a_token_that_is_refused_is_not_noted_as_used(client_of: ClientOf) -> None:
    row, raw_token = await issued(expires_at=LONG_AGO)
    other, other_token = await issued()
    await refused(client_of(raw_token))
    await client_of(other_token).open()
    await until_async(Token.objects.filter(pk=other.pk, last_used_at__isnull=False).aexists)
    assert await noted(row) is None


async def test_tokens_that_cannot_be_read_are_a_503_and_not_a_401(
    client_of: ClientOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    _row, raw_token = await issued()

    def away(items: Sequence[ReadToken]) -> Any:
        raise OperationalError("the database is away")

    monkeypatch.setattr(ReadToken, "serve", staticmethod(away))
    assert (await client_of(raw_token).handshake()).status == 503


# What must not be anywhere


async def test_a_token_is_in_no_row_and_no_log(client_of: ClientOf, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    row, raw_token = await issued(name="laptop")
    session = await client_of(raw_token).open()
    await session.call("whoami")
    await sync_to_async(row.revoke)()
    await refused(client_of(raw_token))
    models: tuple[Any, ...] = (Token, Session, StoredHandle)
    rows = [str([values async for values in model.objects.values()]) for model in models]
    secret = raw_token.removeprefix(PREFIX)
    assert not [text for text in [*rows, caplog.text, repr(row)] if secret in text]
