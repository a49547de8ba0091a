"""Offers: which tools, resources and prompts are there for whom at the moment. To others there are none such."""

from __future__ import annotations

import functools
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from mcp.shared.exceptions import MCPError

from mcp_django import jsonrpc, threads
from mcp_django.access import Access, access_of
from mcp_django.auth import Principal
from mcp_django.handlers import Enabled, Kind, Registration

logger = logging.getLogger("mcp_django.calls")

ItemT = TypeVar("ItemT")
Switch = Callable[[Principal], Awaitable[bool]]


class Offers:
    """What decides about each registration of a server, by kind and key. Most have nothing that does."""

    def __init__(self) -> None:
        self._switches: dict[Kind, dict[str, Switch]] = {"tool": {}, "resource": {}, "prompt": {}, "completion": {}}
        self._scopes: dict[tuple[Kind, str], frozenset[str]] = {}

    def add(self, registration: Registration) -> None:
        """Note what decides about a registration.

        Raises:
            ImproperlyConfigured: its ``permission`` or ``scopes`` is of no use.
        """
        options = registration.options
        switches = []
        if (enabled := options.get("enabled")) is not None:
            switches.append(switch(enabled))
        access = access_of(registration.place, options.get("permission"), options.get("scopes") or ())
        if access is not None:
            switches.append(gate(access))
            if access.scopes:
                self._scopes[registration.kind, registration.key] = access.scopes
        if (decides := all_of(*switches)) is not None:
            self._switches[registration.kind][registration.key] = decides

    def hides(self, kind: Kind) -> bool:
        """Whether there is something of a kind that is not always offered to everybody."""
        return bool(self._switches[kind])

    async def offered(self, kind: Kind, key: str, principal: Principal) -> bool:
        """Whether a registration is offered to a caller."""
        decides = self._switches[kind].get(key)
        return decides is None or await decides(principal)

    async def among(
        self, kind: Kind, items: list[ItemT], key: Callable[[ItemT], str], principal: Principal
    ) -> list[ItemT]:
        """The items of a list that are offered to a caller; what decides about several of them is asked once."""
        if not (switches := self._switches[kind]):
            return items
        asked = dict.fromkeys(switches[key(item)] for item in items if key(item) in switches)
        hidden = {decides for decides in asked if not await decides(principal)}
        return [item for item in items if switches.get(key(item)) not in hidden]

    def have_scopes(self, principal: Principal) -> bool:
        """Whether there is something that needs scopes, and the caller could get some that it lacks."""
        return bool(self._scopes) and principal.can_step_up

    async def missing_scopes(self, principal: Principal, keys: Sequence[tuple[Kind, str]]) -> frozenset[str]:
        """What a caller who could get more scopes lacks for the first of these that is there for it. Nothing, if with
        them there would still be no such thing: that would betray it."""
        if not any(principal.lacks(self._scopes.get(key, frozenset())) for key in keys):
            return frozenset()
        for kind, key in keys:
            if await self.offered(kind, key, principal):
                return principal.lacks(self._scopes.get((kind, key), frozenset()))
        return frozenset()


@functools.cache
def switch(enabled: Enabled) -> Switch:
    """What says whether a registration is offered at the moment; one for each function.

    It raises an ``MCPError`` if the function fails or returns no bool, which is logged: a database that stays away
    must not make tools disappear.
    """
    ask = threads.asynchronous(enabled)

    async def is_offered(principal: Principal) -> bool:
        return await answered(enabled, ask())

    return is_offered


@functools.cache
def gate(access: Access) -> Switch:
    """What says whether a registration is offered to a caller; one for each rule."""
    permission = access.permission

    if permission is None:

        async def is_permitted(principal: Principal) -> bool:
            return True

    elif isinstance(permission, str):

        async def is_permitted(principal: Principal) -> bool:
            has = threads.run_sync(has_perm, principal.user_or_anonymous, permission)
            return await answered(permission, has)

    else:
        ask = threads.asynchronous(permission)

        async def is_permitted(principal: Principal) -> bool:
            return await answered(permission, ask(principal.user_or_anonymous))

    async def is_offered(principal: Principal) -> bool:
        if principal.lacks(access.scopes) and not principal.can_step_up:
            return False
        return await is_permitted(principal)

    return is_offered


def has_perm(user: Any, permission: str) -> bool:
    """Whether a user has a Django permission. Not every user model has them."""
    ask = getattr(user, "has_perm", None)
    return ask is not None and bool(ask(permission))


async def answered(asked: object, answer: Awaitable[Any]) -> bool:
    """What a project's function says.

    Raises:
        MCPError: it fails or returns no bool, which is logged.
    """
    try:
        said = await answer
        if not isinstance(said, bool):
            raise TypeError(f"{asked!r} returned {said!r}, which is no bool")
    except Exception:
        logger.exception("%r could not say what is offered", asked)
        raise MCPError(jsonrpc.INTERNAL_ERROR, "Internal server error") from None
    return said


@functools.cache
def all_of(*switches: Switch) -> Switch | None:
    """One switch for several, asked in order; None for none."""
    if len(switches) < 2:
        return switches[0] if switches else None

    async def is_offered(principal: Principal) -> bool:
        for switch in switches:
            if not await switch(principal):
                return False
        return True

    return is_offered
