"""Access: the rules by which tools, resources and prompts are offered to some callers and not to others."""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.db import connections

Permission = str | Callable[[Any], bool | Awaitable[bool]]

PERMISSION: Final = re.compile(r"\w+\.\w+")
SCOPE: Final = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+")  # RFC 6749, 3.3


@dataclass(frozen=True)
class Access:
    """Who is offered something.

    Args:
        permission: a Django permission, or what says of a user whether it is offered; None for everybody.
        scopes: what credentials that are limited by scopes must have.
    """

    permission: Permission | None
    scopes: frozenset[str]


def access_of(place: str, permission: object, scopes: Collection[str]) -> Access | None:
    """The rule that a registration has; None if it is offered to everybody.

    Args:
        place: where it is written, for error messages.

    Raises:
        ImproperlyConfigured: it is none that could be followed.
    """
    wanted = scope_set(place, scopes)
    if permission is None:
        return Access(None, wanted) if wanted else None
    if isinstance(permission, str):
        if not PERMISSION.fullmatch(permission):
            raise ImproperlyConfigured(
                f"{place}: permission= takes a Django permission as 'app_label.codename', it was given {permission!r}."
            )
        return Access(permission, wanted)
    try:
        inspect.signature(permission).bind(None)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise ImproperlyConfigured(
            f"{place}: permission= takes a Django permission or a function of the user that returns a bool, it was "
            f"given {permission!r}."
        ) from None
    return Access(permission, wanted)  # type: ignore[arg-type]


def scope_set(place: str, scopes: Collection[str]) -> frozenset[str]:
    """Scopes as a set.

    Raises:
        ImproperlyConfigured: they are no list of scopes (RFC 6749, 3.3).
    """
    if isinstance(scopes, str) or not all(isinstance(s, str) and SCOPE.fullmatch(s) for s in scopes):  # type: ignore[redundant-expr]
        raise ImproperlyConfigured(f"{place}: scopes= takes a list of scopes without spaces, it was given {scopes!r}.")
    return frozenset(scopes)


def check_atomic(place: str, fn: Callable[..., Any], atomic: object) -> None:
    """See that a tool can run in a transaction, if it is to.

    Raises:
        ImproperlyConfigured: it is async, or what was given is no database.
    """
    if not isinstance(atomic, (bool, str)):
        raise ImproperlyConfigured(f"{place}: atomic= takes True or a database's alias, it was given {atomic!r}.")
    if isinstance(atomic, str) and atomic not in connections.settings:
        known = ", ".join(connections.settings)
        raise ImproperlyConfigured(f"{place}: atomic= names the database {atomic!r}, DATABASES has {known}.")
    if atomic is not False and inspect.iscoroutinefunction(fn):
        raise ImproperlyConfigured(
            f"{place}: atomic= is for sync functions: Django's transactions belong to a thread. Make it a plain def, "
            "or put what belongs together into a sync function of its own, with transaction.atomic(), and call that by "
            "sync_to_async."
        )
