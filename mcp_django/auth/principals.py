"""Principals: whom requests speak for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from django.contrib.auth.models import AnonymousUser

from mcp_django.models import digest_of

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser

MAX_KEY_LENGTH: Final = 255


@dataclass(slots=True, frozen=True)
class Principal:
    """Whom a request speaks for.

    Args:
        key: stable across token refresh and logins, unique per owner; :meth:`key_of` makes one. Empty for anonymous.
            At most 255 characters. Never a token.
        user: Django's user, if there is one.
        client: the OAuth client that acts for the user, if there is one.
        scopes: what the credentials are limited to; None if they are not limited by scopes.
        can_step_up: whether the client can ask for more scopes and come again (OAuth). Such a caller is shown what
            only lacks a scope, and is told which when it calls it.
    """

    key: str
    user: AbstractBaseUser | None = None
    client: str = ""
    scopes: frozenset[str] | None = field(default=None, kw_only=True)
    can_step_up: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        if len(self.key) > MAX_KEY_LENGTH:
            raise ValueError(f"A principal's key has at most {MAX_KEY_LENGTH} characters, got {len(self.key)}.")

    @staticmethod
    def key_of(user_pk: Any = None, client: str = "") -> str:
        """The key of a user, of a user's OAuth client, or of a client that acts for itself.

        Two clients of one user are two principals: what one has opened is not the other's.
        """
        parts = [] if user_pk is None else [f"user:{quote(str(user_pk), safe='')}"]
        if client:
            parts.append(f"client:{quote(client, safe=':/')}")
        if not parts:
            raise ValueError("A principal's key needs a user or a client.")
        key = " ".join(parts)
        return key if len(key) <= MAX_KEY_LENGTH else f"sha256:{digest_of(key)}"

    @property
    def is_anonymous(self) -> bool:
        """Whether nobody was recognised."""
        return not self.key

    @property
    def user_or_anonymous(self) -> AbstractBaseUser | AnonymousUser:
        """Django's user, an ``AnonymousUser`` if there is none."""
        return self.user if self.user is not None else AnonymousUser()

    @property
    def as_it_is(self) -> Principal:
        """The same without the scopes that the client could get: who may see something is not yet who may use it."""
        return replace(self, can_step_up=False) if self.can_step_up else self

    def lacks(self, scopes: frozenset[str]) -> frozenset[str]:
        """Which of these scopes the credentials do not have."""
        return frozenset() if self.scopes is None else scopes - self.scopes


# Without scopes: nobody is to see more without a token than with one.
ANONYMOUS: Final = Principal("", scopes=frozenset())
