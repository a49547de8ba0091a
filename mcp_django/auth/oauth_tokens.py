"""Access tokens as django-oauth-toolkit stores them, read together. Imported only where the toolkit is there."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Any, Final, NamedTuple

from django.db import router
from django.utils import timezone
from oauth2_provider.models import AbstractApplication, get_access_token_model, get_application_model
from oauthlib.common import Request as OAuthRequest

from mcp_django.auth.users import UserColumns
from mcp_django.lanes import Lane


class Wanted(NamedTuple):
    """A token that is to be read.

    Args:
        checksum: SHA-256 of the token, as the toolkit stores it.
        resource: the URL that it was sent to, for applications that want to know.
    """

    checksum: str
    resource: str


class Token(NamedTuple):
    """What a token's row, its application's and its user's say.

    Args:
        client: the application's ``client_id``.
        usable: the application and the user are there, as far as the token has one, and may be used.
        user: an instance of the user model, made when it is first looked at. None for client credentials.
    """

    expires: datetime
    scope: str
    resource: Any
    client: str
    usable: bool
    user_pk: Any
    user: Any

    def holds(self) -> bool:
        """Whether it is good at all, whatever for."""
        return self.usable and timezone.now() < self.expires


class Columns(NamedTuple):
    """Which columns are read: a few of the token's, all of its user's, and of its application's what is needed."""

    token: tuple[str, ...]
    user: UserColumns
    application: tuple[str, ...]


def alias() -> str:
    """The database that tokens are written to: a lagging replica would know a revoked one for some time yet."""
    return router.db_for_write(get_access_token_model())


@cache
def columns() -> Columns:
    """The names as the models have them; every model may be the project's own."""
    return Columns(
        ("token_checksum", "expires", "scope", "resource", "user_id", "application_id"),
        UserColumns(get_access_token_model()),
        tuple(field.attname for field in get_application_model()._meta.concrete_fields) if asks() else ("client_id",),
    )


@cache
def asks() -> bool:
    """Whether the project's application model decides itself which applications are usable."""
    return get_application_model().is_usable is not AbstractApplication.is_usable


@cache
def selection(using: str) -> Any:
    """All tokens with the columns that are read. Made once: to find the columns takes as long as to read them."""
    token, user, application = columns()
    names = [*token, *user.lookups, *(f"application__{name}" for name in application)]
    return get_access_token_model()._default_manager.using(using).values_list(*names)


def read(items: Sequence[Wanted]) -> list[Token | None]:
    """The tokens, in one query; None for those that are not there."""
    rows = selection(alias()).filter(token_checksum__in={item.checksum for item in items})
    found = {row[0]: row for row in rows}
    return [made(item, found[item.checksum]) if item.checksum in found else None for item in items]


def made(item: Wanted, row: tuple[Any, ...]) -> Token:
    """A token from its row."""
    names = columns()
    _checksum, expires, scope, resource, user_pk, application_pk = row[: len(names.token)]
    of_user = row[len(names.token) : -len(names.application)]
    of_application = row[-len(names.application) :]
    user = None if user_pk is None else names.user.lazily(alias(), of_user)
    usable = application_pk is not None and (user is None or names.user.is_active(alias(), of_user))
    if usable and asks():
        application = get_application_model().from_db(alias(), names.application, of_application)
        usable = application.is_usable(OAuthRequest(item.resource))
    client = of_application[names.application.index("client_id")] or ""
    return Token(expires, scope, resource, client, usable, user_pk, user)


lane: Final[Lane[Wanted]] = Lane("oauth", alias, read)
