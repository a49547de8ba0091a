"""The seam between handles and what keeps them: the protocol, and the ORM's side of it.

A session store that keeps handles as well has them under its attribute ``handles``.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Protocol, cast

from mcp_django.batches import Change
from mcp_django.exceptions import HandleNotFound
from mcp_django.handle_batches import (
    ChangeHandleState,
    HandleHead,
    HandleRecord,
    ReadHandle,
    ReadHandleState,
    TouchHandle,
)
from mcp_django.lanes import Lane
from mcp_django.models import StoredHandle
from mcp_django.state import StateOperation, StateStore
from mcp_django.visits import Item, alias


class HandleStore(StateStore, Protocol):
    """What keeps handles. Used from any event loop and thread.

    Every method may raise :class:`~mcp_django.exceptions.StoreUnavailable`. ``read_state`` and ``change_state`` raise
    :class:`~mcp_django.exceptions.HandleNotFound` for a handle that was ended, has expired or never was.
    """

    async def create(self, record: HandleRecord) -> None:
        """Keep a new handle; once this returns, any process finds it."""

    async def head(self, digest: str) -> HandleHead | None:
        """What the handle's user is checked against; None if there is no such handle. May be past its expiry."""

    def touch(self, digest: str, used_at: datetime, ttl: timedelta) -> None:
        """Note the last use, from which the handle lives for ``ttl``, some time soon; nobody waits. Never moves back,
        and never wakes a handle that has expired."""

    async def end(self, digest: str) -> bool:
        """End the handle for every process, and forget its state. False if it was over before."""


class ORMHandles:
    """Handles in the project's database.

    Args:
        reads, writes: the lanes of the session store.
    """

    def __init__(self, reads: Lane[Item], writes: Lane[Item]) -> None:
        self._reads = reads
        self._writes = writes

    def alias(self) -> str:
        """The database that handles are written to and read from."""
        return alias()

    async def create(self, record: HandleRecord) -> None:
        await self._writes.ask(record)

    async def head(self, digest: str) -> HandleHead | None:
        return cast("HandleHead | None", await self._reads.ask(ReadHandle(digest)))

    def touch(self, digest: str, used_at: datetime, ttl: timedelta) -> None:
        self._writes.post(TouchHandle(digest, used_at, ttl))

    async def end(self, digest: str) -> bool:
        return await self._change(StoredHandle(pk=digest).end)

    async def replace_state(self, digest: str, state_json: str, version: int) -> bool:
        return await self._change(lambda: StoredHandle(pk=digest).replace_state(state_json, version=version))

    async def _change(self, change: Any) -> bool:
        return cast(bool, await self._writes.ask(Change(change)))

    async def read_state(self, digest: str) -> tuple[dict[str, Any], int]:
        found = await self._reads.ask(ReadHandleState(digest))
        if found is None:
            raise HandleNotFound
        return cast(tuple[dict[str, Any], int], found)

    async def change_state(self, digest: str, operation: StateOperation) -> Any:
        return await self._writes.ask(ChangeHandleState(digest, operation))
