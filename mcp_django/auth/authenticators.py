"""Authenticators: each recognises requests of one kind, and says whose they are."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, ClassVar, Final

from django.core.checks import CheckMessage
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.db import DatabaseError
from django.http import HttpRequest
from django.utils.module_loading import import_string

from mcp_django import threads
from mcp_django.auth.principals import Principal
from mcp_django.conf import mcp_settings
from mcp_django.exceptions import StoreUnavailable
from mcp_django.http import Request


class AuthenticationFailed(Exception):
    """Credentials came that this authenticator takes, and they are not valid. The text is shown to the client."""


class Authenticator:
    """Recognises requests of one kind. Subclass and override ``concerns`` and ``authenticate``."""

    scheme: ClassVar[str] = "Bearer"
    """The authentication scheme that a caller without credentials is told to use (RFC 9110, 11.6.1)."""

    recheck_every: ClassVar[float] = 5.0
    """Seconds between two looks at the credentials of an open stream. 0 has them looked at with every poll
    (``MCP_DJANGO_POLL_INTERVAL``): for those that answer many such questions with one query."""

    def concerns(self, headers: dict[str, str]) -> bool:
        """Whether a request with these headers (lower-case names) may carry this kind of credentials at all.

        Cheap, without I/O: a request that concerns no authenticator costs no thread and no query.
        """
        raise NotImplementedError(f"{type(self).__name__} must define concerns(headers).")

    def authenticate(self, request: HttpRequest) -> Principal | None:
        """Whose request this is, or None if it carries no credentials of this kind, so that others are asked.
        Synchronous; may use the ORM.

        Raises:
            AuthenticationFailed: it carries some, and they are not valid.
        """
        raise NotImplementedError(f"{type(self).__name__} must define authenticate(request).")

    async def recognise(self, request: Request, server: str) -> Principal | None:
        """The same for one request to a server, given by name, in async code; by default ``authenticate`` in a thread.

        Raises:
            AuthenticationFailed: see there.
            StoreUnavailable: it could not be found out, as the database did not answer.
        """
        pool = threads.authenticator_pool
        try:
            async with asyncio.timeout(mcp_settings.STORE_TIMEOUT):
                return await threads.run_in(pool.current(), self.authenticate, request.django)
        except TimeoutError as error:
            pool.timed_out()
            raise StoreUnavailable("Authentication got no answer in time.") from error
        except DatabaseError as error:
            raise StoreUnavailable(f"Authentication failed in the database: {type(error).__name__}.") from error

    def metadata(self, request: HttpRequest) -> Mapping[str, Any] | None:
        """What a server's protected resource metadata (RFC 9728, section 2) says of these credentials:
        ``authorization_servers``, and perhaps ``scopes_supported``. None if they come from no authorization server.

        Args:
            request: for the metadata, or one that is refused; made absolute URLs with.
        """
        return None

    def check(self) -> Iterable[CheckMessage]:
        """What a project lacks for these credentials, as messages for ``manage.py check``."""
        return ()


class Public(Authenticator):
    """Lets everybody in. Whoever shows no credentials that another authenticator knows is anonymous."""

    scheme = ""

    def concerns(self, headers: dict[str, str]) -> bool:
        return False

    def authenticate(self, request: HttpRequest) -> Principal | None:
        return None


public: Final = Public()


def made(authenticator: object) -> Authenticator:
    """An authenticator as servers use it, from an instance, a class or a dotted path to either.

    Raises:
        ImproperlyConfigured: it is none.
    """
    found = authenticator
    if isinstance(found, str):
        try:
            found = import_string(found)
        except ImportError as error:
            raise ImproperlyConfigured(f"The authenticator {authenticator!r} cannot be imported: {error}") from error
    if inspect.isclass(found) and issubclass(found, Authenticator):
        found = found()
    if not isinstance(found, Authenticator):
        raise ImproperlyConfigured(
            f"{authenticator!r} is no authenticator: name a subclass of mcp_django.Authenticator, an instance of one, "
            "or mcp_django.auth.public to let everybody in."
        )
    return found


@lru_cache(maxsize=1)
def default_authenticators() -> tuple[Authenticator, ...]:
    """The authenticators that ``MCP_DJANGO_AUTHENTICATORS`` names, for servers that list none of their own.

    Raises:
        ImproperlyConfigured: it names something else.
    """
    return tuple(made(authenticator) for authenticator in mcp_settings.AUTHENTICATORS)


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting == "MCP_DJANGO_AUTHENTICATORS":
        default_authenticators.cache_clear()


setting_changed.connect(_forget, dispatch_uid="mcp_django.auth")
