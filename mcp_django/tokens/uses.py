"""Uses of tokens: all that wait are read with one query, and noted with one UPDATE, in lanes of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple, cast

from django.db import router

from mcp_django import visits
from mcp_django.auth.users import UserColumns
from mcp_django.batches import rows_of
from mcp_django.conf import mcp_settings
from mcp_django.lanes import Lane
from mcp_django.tokens.models import Token
from mcp_django.visits import Item

COLUMNS: Final = ("user_id", "server", "scopes", "expires_at", "revoked_at", "last_used_at")
USERS: Final = UserColumns(Token)

# What is read: first the token's own, the digest among it, then its user's.
OWN: Final = 1 + len(COLUMNS)
READ: Final = (*COLUMNS, *USERS.lookups)


class FoundToken(NamedTuple):
    """A token as it is stored, and the columns of its user's row in the order of the model's fields."""

    digest: str
    user_pk: Any
    server: str
    scopes: str
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    user: tuple[Any, ...]

    def is_active(self, now: datetime) -> bool:
        """Neither revoked nor past its expiry."""
        return self.revoked_at is None and (self.expires_at is None or self.expires_at > now)

    @property
    def user_is_active(self) -> bool:
        """Whether the user may log in, as Django's own backends see it."""
        return USERS.is_active(alias(), self.user)

    @property
    def lazy_user(self) -> Any:
        """The user, made when it is first looked at."""
        return USERS.lazily(alias(), self.user)

    def is_noted(self, now: datetime) -> bool:
        """Whether a use at this moment need not be written down, as one just before it was."""
        return self.last_used_at is not None and now - self.last_used_at < mcp_settings.TOUCH_RESOLUTION


@dataclass(slots=True, frozen=True)
class ReadToken:
    """A token and its user; None if there is no such token."""

    digest: str

    @staticmethod
    def serve(items: Sequence[ReadToken]) -> list[FoundToken | None]:
        rows = rows_of(Token, {item.digest for item in items}, READ, alias())
        found = {row[0]: FoundToken._make((*row[:OWN], row[OWN:])) for row in rows}
        return [found.get(item.digest) for item in items]


@dataclass(slots=True, frozen=True)
class NoteUse:
    """A token was used."""

    digest: str
    used_at: datetime

    @staticmethod
    def serve(items: Sequence[NoteUse]) -> list[None]:
        # Uses of one batch lie milliseconds apart, and they are noted by the minute: one time serves all.
        latest = max(item.used_at for item in items)
        rows = Token.objects.using(alias()).filter(pk__in={item.digest for item in items})
        rows.touch(latest, mcp_settings.TOUCH_RESOLUTION)
        return [None] * len(items)


def alias() -> str:
    """The database that tokens are written to; a lagging replica would take one that was just revoked."""
    return router.db_for_write(Token)


class TokenUses:
    """Finds tokens and notes that they were used."""

    def __init__(self) -> None:
        self.reads: Lane[Item] = Lane("tokens", alias, visits.read)
        # Of its own: on SQLite a write waits for its turn, and nobody who only asks is to wait with it.
        self.writes: Lane[Item] = Lane("token-uses", alias, visits.read)

    async def find(self, digest: str) -> FoundToken | None:
        """A token and its user, together with all that are asked for meanwhile.

        Raises:
            StoreUnavailable: the database did not answer in time.
        """
        return cast("FoundToken | None", await self.reads.ask(ReadToken(digest)))

    def find_now(self, digest: str) -> FoundToken | None:
        """The same in sync code, on this thread's own connection."""
        return ReadToken.serve([ReadToken(digest)])[0]

    def note(self, digest: str, used_at: datetime) -> None:
        """Note a use at some time soon; nobody waits."""
        self.writes.post(NoteUse(digest, used_at))

    def note_now(self, digest: str, used_at: datetime) -> None:
        """The same in sync code, on this thread's own connection."""
        NoteUse.serve([NoteUse(digest, used_at)])


uses: Final = TokenUses()
