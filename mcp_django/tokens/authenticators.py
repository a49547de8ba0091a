"""Requests that carry a bearer token of this project's own."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Final

from django.apps import apps
from django.core.checks import CheckMessage, Error
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.utils import timezone

from mcp_django.auth import AuthenticationFailed, Authenticator, Principal
from mcp_django.http import Request
from mcp_django.models import digest_of

if TYPE_CHECKING:
    from mcp_django.tokens.uses import FoundToken, TokenUses

APP: Final = "mcp_django.tokens"
NOT_INSTALLED: Final = f"BearerTokens is used, and the app that keeps the tokens is not installed: {APP}."
INSTALL: Final = f'Add "{APP}" to INSTALLED_APPS and run manage.py migrate.'


class BearerTokens(Authenticator):
    """Requests with ``Authorization: Bearer`` and a token that ``manage.py mcptoken`` or the admin has made.

    Each request is checked against the database; all that wait while a query runs are answered by the next one. A
    token counts for as long as it is neither revoked nor expired and its user is active.
    """

    scheme = "Bearer"
    recheck_every = 0

    def concerns(self, headers: dict[str, str]) -> bool:
        scheme, _space, _token = headers.get("authorization", "").partition(" ")
        return scheme.lower() == "bearer"  # RFC 9110, 11.1: in any case

    async def recognise(self, request: Request, server: str) -> Principal | None:
        if request.repeated and "authorization" in request.repeated:
            raise invalid()
        digest = digest_of(token_in(request.headers["authorization"]))
        now = timezone.now()
        found = valid(await uses().find(digest), server, now)
        if not found.is_noted(now):
            uses().note(digest, now)
        return principal_of(found)

    def authenticate(self, request: HttpRequest) -> Principal | None:
        """Whose request this is; see :meth:`Authenticator.authenticate`. A token for one server alone is not valid
        here, since no server is named."""
        header = request.headers.get("Authorization", "")
        if not self.concerns({"authorization": header}):
            return None
        now = timezone.now()
        found = valid(uses().find_now(digest_of(token_in(header))), "", now)
        if not found.is_noted(now):
            uses().note_now(found.digest, now)
        return principal_of(found)

    def check(self) -> Iterable[CheckMessage]:
        if not apps.is_installed(APP):
            yield Error(NOT_INSTALLED, hint=INSTALL, id="mcp_django.E006")


def token_in(header: str) -> str:
    """What follows the scheme in an Authorization header; empty if nothing does."""
    return header.partition(" ")[2].strip(" ")


def valid(found: FoundToken | None, server: str, now: datetime) -> FoundToken:
    """A token that is valid on a server, and at this time.

    Raises:
        AuthenticationFailed: it is not, or there is none.
    """
    if found is None or not found.is_active(now) or found.server not in ("", server) or not found.user_is_active:
        raise invalid()
    return found


def principal_of(found: FoundToken) -> Principal:
    """Whom a token speaks for."""
    scopes = frozenset(found.scopes.split()) if found.scopes else None
    return Principal(Principal.key_of(found.user_pk), found.lazy_user, scopes=scopes)


def invalid() -> AuthenticationFailed:
    """One text for all reasons: a stranger with a token learns nothing about it."""
    return AuthenticationFailed("The token is not valid here: it is unknown, revoked or expired.")


@cache
def uses() -> TokenUses:
    """What finds tokens.

    Raises:
        ImproperlyConfigured: their app is not installed.
    """
    if not apps.is_installed(APP):
        raise ImproperlyConfigured(f"{NOT_INSTALLED} {INSTALL}")
    from mcp_django.tokens import uses as made  # noqa: PLC0415 - its models can only be imported with their app

    return made.uses
