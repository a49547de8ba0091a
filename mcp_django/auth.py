"""Who may come in: principals and authenticators.

A server asks its authenticators in order; the first that recognises the request says whose it is. A request that
none recognises is anonymous. A session belongs to the principal that opened it, and to nobody else: not to a later
token on the same connection, not to another client of the same user.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from django.conf import settings
from django.contrib.auth import get_user
from django.contrib.auth.models import AnonymousUser
from django.core.signals import setting_changed
from django.http import HttpRequest
from django.utils.module_loading import import_string

from mcp_django.conf import mcp_settings

if TYPE_CHECKING:
    from django.contrib.auth.models import AbstractBaseUser


MAX_KEY_LENGTH: Final = 255


@dataclass(slots=True, frozen=True)
class Principal:
    """Whom a request speaks for.

    Args:
        key: stable across token refresh and logins, unique per owner, e.g. ``user:17``; empty for anonymous.
            At most 255 characters. Never a token.
        user: Django's user, if there is one.
    """

    key: str
    user: AbstractBaseUser | None = None

    def __post_init__(self) -> None:
        if len(self.key) > MAX_KEY_LENGTH:
            raise ValueError(f"A principal's key has at most {MAX_KEY_LENGTH} characters, got {len(self.key)}.")

    @property
    def user_or_anonymous(self) -> AbstractBaseUser | AnonymousUser:
        return self.user if self.user is not None else AnonymousUser()


ANONYMOUS: Final = Principal("")


class Authenticator:
    """Recognises requests of one kind. Subclass and override both methods."""

    def concerns(self, headers: dict[str, str]) -> bool:
        """Whether a request with these headers (lower-case names) may carry this kind of credentials at all.

        Cheap, without I/O: a request that concerns no authenticator costs no thread and no query.
        """
        raise NotImplementedError(f"{type(self).__name__} must define concerns(headers).")

    def authenticate(self, request: HttpRequest) -> Principal | None:
        """Whose request this is, or None if it carries no valid credentials of this kind. Synchronous; may use
        the ORM."""
        raise NotImplementedError(f"{type(self).__name__} must define authenticate(request).")


class DjangoLogin(Authenticator):
    """People who are logged in to the Django site in the same browser.

    A page of another origin cannot use the login: foreign origins are refused before authentication.
    """

    def concerns(self, headers: dict[str, str]) -> bool:
        return settings.SESSION_COOKIE_NAME in headers.get("cookie", "")

    def authenticate(self, request: HttpRequest) -> Principal | None:
        if not hasattr(request, "session"):
            # The native entry runs no middleware, so the login is read as SessionMiddleware would.
            engine: Any = import_string(f"{settings.SESSION_ENGINE}.SessionStore")
            request.session = engine(request.COOKIES.get(settings.SESSION_COOKIE_NAME))
        user = get_user(request)
        if not user.is_authenticated:
            return None
        return Principal(f"user:{user.pk}", user)


@lru_cache(maxsize=1)
def default_authenticators() -> tuple[Authenticator, ...]:
    """The authenticators that ``MCP_DJANGO_AUTHENTICATORS`` names, for servers that list none of their own."""
    return tuple(import_string(path)() for path in mcp_settings.AUTHENTICATORS)


def authenticate(authenticators: tuple[Authenticator, ...], request: HttpRequest) -> Principal:
    """The principal of a request; :data:`ANONYMOUS` if no authenticator recognises it."""
    for authenticator in authenticators:
        principal = authenticator.authenticate(request)
        if principal is not None:
            return principal
    return ANONYMOUS


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting == "MCP_DJANGO_AUTHENTICATORS":
        default_authenticators.cache_clear()


setting_changed.connect(_forget, dispatch_uid="mcp_django.auth")
