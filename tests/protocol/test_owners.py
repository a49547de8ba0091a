"""Who may use whose session id, event id, handle, request state and token: every caller tries everybody's.

What is not the caller's own is answered as what nobody has, to the last byte of the response, by the process that made
it and by one that would have to restore it.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest
from asgiref.sync import sync_to_async
from django.contrib.auth.models import User
from django.utils import timezone

from mcp_django.asgi import Application
from mcp_django.models import Session as Row
from mcp_django.models import digest_of
from mcp_django.tokens.models import PREFIX, Token
from tests.protocol import tokens_of_oauth
from tests.protocol.client import SECONDS, Client, EventStream, Exchange, Response, Session
from tests.protocol.owners import PEOPLE, PLACES, Caller, Things, callers_of, oauth_token, own_token, things_of
from tests.protocol.processes import Processes
from tests.protocol.stateless import Stateless

if TYPE_CHECKING:
    from pytest_django import Settings

pytestmark = pytest.mark.anyio

OWN, UNKNOWN = "its own", "unknown"
PING: Final = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
ANSWERS: Final = {"question-1": {"action": "accept", "content": {"name": "Ann"}}}
Told = tuple[int, bytes, tuple[tuple[str, str], ...]]


@pytest.fixture(autouse=True)
def project_with_owners(project: None, settings: Settings) -> Iterator[None]:
    settings.ROOT_URLCONF = "tests.protocol.owner_urls"
    yield
    tokens_of_oauth.forget()


# Restoring: requests come to a process that has none of the sessions in its memory.
in_all_ways = pytest.mark.parametrize(
    ("entry", "restoring"),
    [
        pytest.param("native", False, id="native-live"),
        pytest.param("native", True, id="native-restoring"),
        # The view is slow, and behind it is the same code.
        pytest.param("view", True, id="view-restoring", marks=pytest.mark.long),
        pytest.param("view", False, id="view-live", marks=pytest.mark.long),
    ],
    indirect=["entry"],
)


def told(response: Response) -> Told:
    """All that a caller can learn from a response."""
    return response.status, response.body, tuple(sorted(response.headers))


async def answer(exchange: Exchange, *, endless: bool = False) -> Response:
    """A response; of an endless stream its head alone."""
    if not endless:
        return await exchange.response()
    async with asyncio.timeout(SECONDS):
        start = await exchange.message()
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in start["headers"]]
        body = b""
        if start["status"] == 200:
            await EventStream(exchange, headers).disconnect()
        while start["status"] != 200 and (message := await exchange.message()) is not None:
            body += message.get("body", b"")
        await exchange.task
    return Response(start["status"], headers, body)


# Ways to use what belongs to somebody. The visitor is who has the first things; the second are what is tried.


def ping(mine: Things, theirs: Things) -> Exchange:
    return theirs.session.of(mine.owner.client).begin(PING)


def listen(mine: Things, theirs: Things) -> Exchange:
    return theirs.session.of(mine.owner.client).get()


def resume(mine: Things, theirs: Things) -> Exchange:
    return theirs.session.of(mine.owner.client).get(theirs.event_id)


def resume_in_own_session(mine: Things, theirs: Things) -> Exchange:
    return mine.session.get(theirs.event_id)


def end(mine: Things, theirs: Things) -> Exchange:
    """Of those who may, each has a session to end."""
    visitor, session = mine.owner, theirs.spare.get(mine.owner.name, theirs.session)
    return visitor.client.exchange("DELETE", headers=visitor.client.headers(session.id, session.headers()))


def read_note(mine: Things, theirs: Things) -> Exchange:
    return mine.owner.stateless.begin(mine.owner.stateless.tool("read", {"note": theirs.handle}) | {"id": 1})


def ask_again(mine: Things, theirs: Things) -> Exchange:
    """Send the second round of what the owner has begun."""
    params = {**theirs.question["params"], "inputResponses": ANSWERS, "requestState": theirs.state}
    return mine.owner.stateless.begin({**theirs.question, "id": 1, "params": params})


class Way(NamedTuple):
    """How something can be used.

    Args:
        status: of the answer where there is no such thing, which says what that is by ``text``.
        proof: what is in the answer to those who may.
    """

    use: Callable[[Things, Things], Exchange]
    status: int
    text: str
    proof: Callable[[Things], str] = lambda things: things.owner.secret


WAYS: Final = {
    "ping the session": Way(ping, 404, "-32001", lambda things: '"result":{}'),
    "listen to the session": Way(listen, 404, "-32001", lambda things: ""),
    "resume a stream of the session": Way(resume, 404, "-32001"),
    "resume a stream of it in a session of one's own": Way(resume_in_own_session, 400, "Last-Event-ID"),
    "read the note": Way(read_note, 200, '"isError":true'),
    "go on with the request": Way(ask_again, 400, "-32602"),
    # Last: whatever else is wrong is to be seen first.
    "end the session": Way(end, 404, "-32001", lambda things: ""),
}

Cell = tuple[str, str, str]
Table = dict[Cell, str]


def expected(way: str, visitor: Caller, owner: Caller) -> str:
    if WAYS[way].use is resume_in_own_session:
        # An event id is good in its own session alone.
        return OWN if visitor is owner else UNKNOWN
    return OWN if visitor.is_one_with(owner) else UNKNOWN


def verdict(way: Way, response: Response, unknown: Told, theirs: Things) -> str:
    if told(response) == unknown:
        return UNKNOWN
    if response.status in (200, 204) and way.proof(theirs).encode() in response.body:
        return OWN
    return f"{response.status} {response.headers} {response.body[:300]!r}"


async def visit(mine: Things, everybody: list[Things], ways: Iterable[str]) -> Table:
    """What becomes of it if a visitor tries everybody's things in some ways."""
    table: Table = {}
    for name in ways:
        way = WAYS[name]
        endless = way.use is listen
        nothing = await answer(way.use(mine, mine.forged()), endless=endless)
        assert (nothing.status, way.text in str(nothing)) == (way.status, True), (name, nothing)
        answers = await asyncio.gather(*(answer(way.use(mine, theirs), endless=endless) for theirs in everybody))
        for theirs, response in zip(everybody, answers, strict=True):
            table[name, mine.owner.name, theirs.owner.name] = verdict(way, response, told(nothing), theirs)
    return table


def assert_same(found: Mapping[Any, str], wanted: Mapping[Any, str]) -> None:
    """See that two tables are the same; if not, the cells are named in which they differ."""
    assert found.keys() == wanted.keys()
    wrong = [f"{cell}: {found[cell]}, not {wanted[cell]}" for cell in found if found[cell] != wanted[cell]]
    assert not wrong, "\n".join([f"{len(wrong)} cells of {len(found)} are wrong:", *wrong[:20]])


@in_all_ways
async def test_everybody_has_their_own_and_to_everybody_else_it_is_unknown(
    application: Application, server_processes: Processes, restoring: bool
) -> None:
    everybody = await things_of(await callers_of(application))
    *ways, last = WAYS
    table: Table = {}
    for mine in everybody:
        if restoring:
            # For each visitor a process that knows nobody yet.
            await server_processes.another()
            server_processes.end_others()
        table |= await visit(mine, everybody, ways)
        assert await mine.session.call("whoami") == {"user": mine.owner.person.user, "restored": restoring}
    if restoring:
        await server_processes.another()
    for mine in everybody:
        table |= await visit(mine, everybody, [last])

    callers = [things.owner for things in everybody]
    wanted = {(way, v.name, o.name): expected(way, v, o) for way in WAYS for v in callers for o in callers}
    assert len(wanted) == 7 * 16 * 16
    # Two of the eight people at each server are one owner, but for events of each other's sessions.
    assert Counter(wanted.values())[OWN] == 6 * 2 * (8 + 2) + 16
    assert_same(table, wanted)

    # Nobody who was refused had a session restored or ended.
    rows = {things.owner.name: await row_of(things.session) for things in everybody}
    assert {row.status for row in rows.values()} == {Row.Status.ACTIVE}
    assert {name: row.restore_count for name, row in rows.items()} == {
        owner.name: sum(map(owner.is_one_with, callers)) if restoring else 0 for owner in callers
    }
    server_processes.end_others()


async def row_of(session: Session) -> Row:
    return await Row.objects.aget(pk=digest_of(session.id))


# Tokens: whom they speak for, and where


class Tried(NamedTuple):
    """A token, and whom it speaks for at each of the servers; or why it does not."""

    token: str | None
    at_one: str
    at_two: str


BAD, ELSEWHERE = "unknown, revoked or expired", "for another resource"
AN_HOUR: Final = timedelta(hours=1)


@sync_to_async
def tokens_of(everybody: list[Things]) -> dict[str, Tried]:
    """All kinds of tokens, valid ones and others."""
    tried = {"none": Tried(None, "", "")}
    for things in everybody:
        owner, token = things.owner, things.owner.client.token
        if owner.person.client:
            places = [owner.person.user if place == owner.place else ELSEWHERE for place in PLACES]
            tried[f"OAuth token of {owner.name}"] = Tried(token, *places)
        elif token:
            tried[f"own token of {owner.person.name}"] = Tried(token, owner.person.user, owner.person.user)
    for user in ("alice", "bob"):
        for place in PLACES:
            places = [user if place == other else BAD for other in PLACES]
            tried[f"own token of {user} for {place}"] = Tried(own_token(user, server=f"owners-{place}"), *places)
    desktop, mine = PEOPLE[0], everybody[0]
    dead = {
        "revoked OAuth token": oauth_token(desktop, "one"),
        "expired OAuth token": oauth_token(desktop, "one", lives=-AN_HOUR),
        "OAuth token of an inactive user": oauth_token(desktop._replace(user="carol"), "one"),
        "OAuth token that never was": "forged",
        "revoked own token": own_token("alice"),
        "expired own token": own_token("alice", expires_at=timezone.now() - AN_HOUR),
        "own token of an inactive user": own_token("carol"),
        "own token of a deleted user": own_token("dave"),
        "own token that never was": f"{PREFIX}forged",
        "session id": mine.session.id,
        "event id": mine.event_id,
        "handle": mine.handle,
        "request state": mine.state,
        "digest": digest_of(str(everybody[8].owner.client.token)),
    }
    assert tokens_of_oauth.row_of(dead["revoked OAuth token"]).delete()[0] == 1
    assert Token.objects.for_token(dead["revoked own token"]).revoke()
    assert User.objects.filter(username="carol").update(is_active=False) == 1
    User.objects.get(username="dave").delete()
    return tried | {name: Tried(token, BAD, BAD) for name, token in dead.items()}


async def uses(client: Client, session: Session) -> list[Response]:
    """What a token is tried for: to come in, and in either era."""
    of_session, stateless = session.of(client), Stateless(client)
    return [
        await client.handshake(),
        await of_session.post(PING),
        await of_session.notify("notifications/initialized"),
        await answer(of_session.get(), endless=True),
        await stateless.post(stateless.tool("whoami") | {"id": 1}),
    ]


def speaks_for(responses: list[Response], refusals: dict[Told, str]) -> str:
    """Whom a token speaks for, by the last of these responses; or why it does not, if they all say the same."""
    statuses = [response.status for response in responses]
    if 401 not in statuses:
        return str(responses[-1].result["structuredContent"]["user"])
    return ", ".join({refusals.get(told(response), f"not the same: {statuses}") for response in responses})


@in_all_ways
async def test_a_token_speaks_for_its_user_at_the_server_that_it_is_for_and_nowhere_else(
    application: Application, server_processes: Processes, restoring: bool
) -> None:
    everybody = await things_of(await callers_of(application))
    tokens = await tokens_of(everybody)
    elsewhere = await sync_to_async(oauth_token)(PEOPLE[0], "elsewhere")
    if restoring:
        await server_processes.another()
    found, wanted = {}, {}
    for place, things in zip(PLACES, everybody[:2], strict=True):

        def of(token: str | None, place: str = place) -> Client:
            return Client(application, f"/{place}/mcp", token=token)

        refusals = {
            told(await of("never issued").handshake()): BAD,
            told(await of(elsewhere).handshake()): ELSEWHERE,
        }
        assert [status for status, _body, _headers in refusals] == [401, 401]
        for name, tried in tokens.items():
            found[name, place] = speaks_for(await uses(of(tried.token), things.session), refusals)
            wanted[name, place] = tried.at_one if place == "one" else tried.at_two
    assert len(found) == 2 * (1 + 8 + 3 + 4 + 14)
    assert_same(found, wanted)
    for things in everybody:
        assert (await things.session.call("whoami"))["user"] == things.owner.person.user
    server_processes.end_others()
