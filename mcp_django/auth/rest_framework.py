"""Callers as Django REST framework's authentication classes recognise them: ``TokenAuthentication``, JWT packages, a
project's own. The only importer of that framework."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest
from django.utils.module_loading import import_string
from rest_framework import exceptions
from rest_framework.authentication import BaseAuthentication, SessionAuthentication
from rest_framework.request import Request

from mcp_django.auth.authenticators import AuthenticationFailed, Authenticator
from mcp_django.auth.principals import Principal


class RESTFramework(Authenticator):
    """Requests that an authentication class of Django REST framework recognises.

    A server lists an instance; settings, which name classes, name a subclass::

        MCPServer("books", authenticators=[RESTFramework("rest_framework.authentication.TokenAuthentication")])

        class Tokens(RESTFramework):
            authentication_class = "rest_framework.authentication.TokenAuthentication"

    It takes requests with an ``Authorization`` header of the class's scheme. A subclass for a class that looks
    elsewhere overrides ``concerns``; one for a class that knows callers without a user, ``principal_of``.

    Args:
        authentication_class: a class or a dotted path to one, instead of the attribute of this name.

    Raises:
        ImproperlyConfigured: it cannot be imported or is no such class; or it reads browser sessions, which
            :class:`mcp_django.auth.DjangoLogin` does safely.
    """

    authentication_class: ClassVar[str | type[Any]] = ""

    def __init__(self, authentication_class: str | type[Any] | None = None) -> None:
        self.authentication = authentication_of(authentication_class or type(self).authentication_class)

    @property
    def scheme(self) -> str:  # type: ignore[override]
        """The first word of what the class would challenge with; empty if it challenges nobody."""
        header = self.authentication.authenticate_header(Request(HttpRequest()))
        return str(header or "").partition(" ")[0]

    def concerns(self, headers: dict[str, str]) -> bool:
        scheme, own = headers.get("authorization", "").partition(" ")[0], self.scheme
        return bool(scheme) and (not own or scheme.lower() == own.lower())

    def authenticate(self, request: HttpRequest) -> Principal | None:
        try:
            found = self.authentication.authenticate(Request(request))
        except (exceptions.AuthenticationFailed, exceptions.NotAuthenticated, exceptions.PermissionDenied) as error:
            raise AuthenticationFailed(text_of(error.detail)) from error
        return None if found is None else self.principal_of(*found)

    def principal_of(self, user: Any, auth: Any) -> Principal:
        """Whom a request speaks for that the class has recognised.

        Args:
            user: as the class has found it.
            auth: what the class returned beside it: a token's row, the claims of a JWT.

        Raises:
            AuthenticationFailed: that user is not active.
            ImproperlyConfigured: there is no user.
        """
        if getattr(user, "pk", None) is None:
            raise ImproperlyConfigured(
                f"{type(self.authentication).__name__} recognises callers without a user: override "
                f"{type(self).__name__}.principal_of(user, auth) and return a Principal with a key of theirs."
            )
        if not getattr(user, "is_active", True):
            raise AuthenticationFailed("The user is not active.")
        return Principal(Principal.key_of(user.pk), user)


def authentication_of(named: str | type[Any]) -> Any:
    """An instance of an authentication class.

    Raises:
        ImproperlyConfigured: see :class:`RESTFramework`.
    """
    if not named:
        raise ImproperlyConfigured(
            "RESTFramework needs an authentication class: pass one, or set authentication_class."
        )
    try:
        found = import_string(named) if isinstance(named, str) else named
    except ImportError as error:
        raise ImproperlyConfigured(f"The authentication class {named!r} cannot be imported: {error}") from error
    if not (isinstance(found, type) and issubclass(found, BaseAuthentication)):
        raise ImproperlyConfigured(f"{named!r} is no authentication class of Django REST framework.")
    if issubclass(found, SessionAuthentication):
        raise ImproperlyConfigured(
            f"{named!r} reads browser sessions; use mcp_django.auth.DjangoLogin, which also sees that the page is of "
            "the same origin."
        )
    return found()


def text_of(detail: Any) -> str:
    """What an exception of the framework says; some packages say it in a dict."""
    return str(detail.get("detail", "")) if isinstance(detail, Mapping) else str(detail)
