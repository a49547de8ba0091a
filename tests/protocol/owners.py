"""Callers of two servers, and what each of them has got there."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any, Final, NamedTuple

from asgiref.sync import sync_to_async
from django.contrib.auth.models import User

from mcp_django.asgi import Application
from mcp_django.tokens.models import Token
from tests.protocol import tokens_of_oauth
from tests.protocol.client import Client, Session
from tests.protocol.stateless import Stateless

PLACES: Final = ("one", "two")
ASKABLE: Final[dict[str, Any]] = {"elicitation": {"form": {}}}


class Person(NamedTuple):
    """Somebody with credentials of their own.

    Args:
        user: empty for anonymous callers.
        client: the OAuth client that acts for the user; none with a token of the project's own.
    """

    name: str
    user: str
    client: str = ""

    @property
    def principal(self) -> tuple[str, str]:
        """The same for those who are one owner."""
        return self.user, self.client


PEOPLE: Final = (
    Person("alice by desktop", "alice", "desktop"),
    Person("alice by phone", "alice", "phone"),
    Person("bob by desktop", "bob", "desktop"),
    Person("bob by phone", "bob", "phone"),
    Person("alice", "alice"),
    Person("alice by a second token", "alice"),
    Person("bob", "bob"),
    Person("anonymous", ""),
)


@dataclass(frozen=True)
class Caller:
    """A person at one of the servers."""

    person: Person
    place: str
    client: Client

    @property
    def name(self) -> str:
        return f"{self.person.name} at {self.place}"

    @property
    def secret(self) -> str:
        """What only this caller's things tell."""
        return f"the secret of {self.name}"

    @property
    def stateless(self) -> Stateless:
        return Stateless(self.client, ASKABLE)

    def is_one_with(self, other: Caller) -> bool:
        """Whether what one of them has is the other's too."""
        return (self.person.principal, self.place) == (other.person.principal, other.place)


@dataclass(frozen=True)
class Things:
    """What a caller has: one of everything by which something of theirs can be had.

    Args:
        event_id: of an event in the middle of a stream that has ended.
        question: the request that was answered with ``state``, and what it wants to know.
        spare: sessions that may be ended, by the names of those who may.
    """

    owner: Caller
    session: Session
    event_id: str
    handle: str
    question: dict[str, Any]
    state: str
    spare: dict[str, Session] = field(default_factory=dict)

    def forged(self) -> Things:
        """What nobody has, and looks like it."""
        return replace(
            self,
            session=Session(self.owner.client, self.session.id[:-8] + "forgedid", self.session.version),
            event_id=altered(self.event_id),
            handle="note-" + "forged" * 3 + "note",
            state=altered(self.state),
            spare={},
        )


def altered(text: str) -> str:
    """A text with another letter in its middle."""
    middle = len(text) // 2
    return text[:middle] + ("A" if text[middle] != "A" else "B") + text[middle + 1 :]


def oauth_token(person: Person, place: str, **more: Any) -> str:
    """A new access token for one of the servers."""
    resource = [f"http://testserver/{place}/mcp"]
    given: dict[str, Any] = {"resource": resource, "lives": timedelta(hours=1)} | more
    return tokens_of_oauth.token(person.user, person.client, **given)


def own_token(username: str, **more: Any) -> str:
    """A new token of the project's own."""
    _row, raw_token = Token.objects.issue(User.objects.get_or_create(username=username)[0], **more)
    return raw_token


@sync_to_async
def callers_of(application: Application) -> list[Caller]:
    """Everybody at either server. An OAuth token is for one of them, a token of the project's own for both."""
    found = []
    for person in PEOPLE:
        own = own_token(person.user) if person.user and not person.client else None
        for place in PLACES:
            token = oauth_token(person, place) if person.client else own
            found.append(Caller(person, place, Client(application, f"/{place}/mcp", token=token)))
    return found


async def things_of(callers: Iterable[Caller]) -> list[Things]:
    """What everybody gets, in their order."""
    everybody = list(callers)
    return await asyncio.gather(*(_things_of(caller, everybody) for caller in everybody))


async def _things_of(owner: Caller, callers: Iterable[Caller]) -> Things:
    session = await owner.client.open()
    stream = await session.stream("walk", text=owner.secret)
    await stream.rest()
    ids = [frame.id for frame in stream.frames if frame.has_message]
    assert len(ids) == 3
    assert ids[0]
    handle = await session.call("write", text=owner.secret)
    question = owner.stateless.tool("ask", {"text": owner.secret})
    asked = (await owner.stateless.post(question)).result
    spare = {caller.name: await owner.client.open() for caller in callers if caller.is_one_with(owner)}
    return Things(owner, session, ids[0], handle["result"], question, asked["requestState"], spare)
