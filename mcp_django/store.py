"""The seam between sessions and what keeps them: the store protocol, and the ORM store.

Everything above this module speaks :class:`SessionStore`. The ORM store is the one door to the database for async
code: reads gather into one ``WHERE id IN (...)``, writes into one commit, in lanes of their own.
"""

from __future__ import annotations

import inspect
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, cast

from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from mcp_django import batches, visits
from mcp_django.conf import mcp_settings
from mcp_django.exceptions import SessionNotFound
from mcp_django.handle_store import HandleStore, ORMHandles
from mcp_django.lanes import Lane
from mcp_django.models import Session
from mcp_django.processes import Heartbeat
from mcp_django.state import StateOperation
from mcp_django.visits import Item


class SessionHead(NamedTuple):
    """What every request is checked against."""

    server: str
    principal: str
    status: str
    epoch: int
    expires_at: datetime

    def is_live(self, now: datetime) -> bool:
        """Neither ended nor past its expiry."""
        return self.status == "active" and self.expires_at > now


@dataclass(slots=True, kw_only=True)
class SessionRecord:
    """A whole session as stores keep it, but for its state."""

    digest: str
    server: str
    principal: str
    owner_id: Any
    initialize_params_json: str
    protocol_version: str
    client_name: str
    client_version: str
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    last_process: uuid.UUID | None
    quota: str = ""
    log_level: str = ""
    subscriptions_json: str = "[]"
    status: str = "active"
    epoch: int = 0
    initialized_at: datetime | None = None
    restore_count: int = 0
    tools_fingerprint: str = field(default="")

    @property
    def head(self) -> SessionHead:
        return SessionHead(self.server, self.principal, self.status, self.epoch, self.expires_at)


class SessionStore(Protocol):
    """What keeps sessions. A project may name its own class in ``MCP_DJANGO_SESSION_STORE``; it is made once per
    process, without arguments, and used from any event loop and thread.

    Every method may raise :class:`~mcp_django.exceptions.StoreUnavailable`, which becomes a 503: raise it whenever
    the answer is not known, and never answer "not there" instead. Changes of a session that has ended do nothing.
    """

    durable: bool
    """Whether sessions outlive this process."""

    async def create(self, record: SessionRecord) -> None:
        """Keep a new session; once this returns, any process finds it. If its caller (``record.quota``) has more than
        it may (:func:`mcp_django.quotas.limit_of`), those go that were idle for longest.

        Raises:
            TooManySessions: none of them is idle, and the new one is not kept.
        """

    async def head(self, digest: str) -> SessionHead | None:
        """The part that requests are checked against; None if there is no such session."""

    async def heads(self, digests: Iterable[str]) -> dict[str, SessionHead]:
        """The same part of many sessions; those that are not there are left out."""

    async def load(self, digest: str) -> SessionRecord | None:
        """The whole session; None if there is no such session."""

    def touch(self, digest: str, seen_at: datetime, expires_at: datetime) -> None:
        """Note the last use and move the expiry, some time soon; nobody waits."""

    async def mark_initialized(self, digest: str, at: datetime) -> bool:
        """Note ``notifications/initialized`` and raise the epoch. False if the session has ended."""

    async def set_log_level(self, digest: str, level: str) -> bool:
        """Keep the client's log level and raise the epoch. False if the session has ended."""

    async def change_subscription(self, digest: str, uri: str, subscribed: bool) -> bool:
        """Keep whether the client wants to hear of a resource, and raise the epoch. False if the session has ended.

        Raises:
            HandlerError: it would have more than ``MCP_DJANGO_MAX_SUBSCRIPTIONS``.
        """

    async def mark_restored(self, digest: str, process: uuid.UUID, tools_fingerprint: str) -> bool:
        """Count a restore by ``process``. False if the session has ended."""

    async def end(self, digest: str, reason: str, status: str) -> bool:
        """End the session (``terminated`` or ``expired``) for every process. False if it had ended before."""

    async def read_state(self, digest: str) -> tuple[dict[str, Any], int]:
        """The state and its version.

        Raises:
            SessionNotFound: it has ended.
        """

    async def change_state(self, digest: str, operation: StateOperation) -> Any:
        """Run ``operation`` on the state so that no change of another caller or process is lost.

        Raises:
            SessionNotFound: it has ended.
            HandlerError: from the operation, or because the state would become too large.
        """

    async def replace_state(self, digest: str, state_json: str, version: int) -> bool:
        """Put a new state in place of the one with this version. False if another came first."""

    async def process_alive(self, process: uuid.UUID) -> bool:
        """Whether a process that kept sessions here still runs, as far as can be known."""


class ORMStore:
    """Sessions in the project's database, where all processes see them. The default."""

    durable = True

    def __init__(self) -> None:
        self.reads: Lane[Item] = Lane("reads", self.alias, visits.read)
        self.writes: Lane[Item] = Lane("writes", self.alias, visits.write)
        self.heartbeat = Heartbeat(self.writes.post)
        self.handles = ORMHandles(self.reads, self.writes)

    def alias(self) -> str:
        """The database that sessions are written to and read from."""
        return visits.alias()

    async def create(self, record: SessionRecord) -> None:
        self.heartbeat.start()
        await self.writes.ask(batches.Create(record))

    async def head(self, digest: str) -> SessionHead | None:
        row = await self.reads.ask(batches.ReadHead(digest))
        return None if row is None else SessionHead._make(row)

    async def heads(self, digests: Iterable[str]) -> dict[str, SessionHead]:
        rows = await self.reads.ask(batches.ReadHeads(frozenset(digests)))
        return {digest: SessionHead._make(row) for digest, row in rows.items()}

    async def load(self, digest: str) -> SessionRecord | None:
        row = await self.reads.ask(batches.ReadRecord(digest))
        return None if row is None else SessionRecord(**row)

    def touch(self, digest: str, seen_at: datetime, expires_at: datetime) -> None:
        self.writes.post(batches.Touch(digest, seen_at, expires_at))

    async def mark_initialized(self, digest: str, at: datetime) -> bool:
        return await self._change(lambda: Session(pk=digest).mark_initialized(at))

    async def set_log_level(self, digest: str, level: str) -> bool:
        return await self._change(lambda: Session(pk=digest).set_log_level(level))

    async def change_subscription(self, digest: str, uri: str, subscribed: bool) -> bool:
        return await self._change(lambda: Session(pk=digest).change_subscription(uri, subscribed))

    async def mark_restored(self, digest: str, process: uuid.UUID, tools_fingerprint: str) -> bool:
        self.heartbeat.start()
        return await self._change(lambda: Session(pk=digest).mark_restored(process, tools_fingerprint))

    async def end(self, digest: str, reason: str, status: str) -> bool:
        return await self._change(lambda: Session(pk=digest).end(reason, status))

    async def replace_state(self, digest: str, state_json: str, version: int) -> bool:
        return await self._change(lambda: Session(pk=digest).replace_state(state_json, version=version))

    async def _change(self, change: Callable[[], bool]) -> bool:
        return cast(bool, await self.writes.ask(batches.Change(change)))

    async def read_state(self, digest: str) -> tuple[dict[str, Any], int]:
        found = await self.reads.ask(batches.ReadState(digest))
        if found is None:
            raise SessionNotFound
        return cast(tuple[dict[str, Any], int], found)

    async def change_state(self, digest: str, operation: StateOperation) -> Any:
        return await self.writes.ask(batches.ChangeState(digest, operation))

    async def process_alive(self, process: uuid.UUID) -> bool:
        return cast(bool, await self.reads.ask(batches.ReadProcess(process)))


@lru_cache(maxsize=1)
def session_store() -> SessionStore:
    """The store that ``MCP_DJANGO_SESSION_STORE`` names, made once per process.

    Raises:
        ImproperlyConfigured: it cannot be imported or is no session store.
    """
    path = mcp_settings.SESSION_STORE
    try:
        factory = import_string(path)
    except ImportError as error:
        raise ImproperlyConfigured(
            f"MCP_DJANGO_SESSION_STORE names {path!r}, which cannot be imported: {error}"
        ) from error
    if not inspect.isclass(factory):
        raise ImproperlyConfigured(f"MCP_DJANGO_SESSION_STORE names {path!r}, which is no class but {factory!r}.")
    methods = [name for name, value in vars(SessionStore).items() if not name.startswith("_") and callable(value)]
    if missing := [name for name in methods if not callable(getattr(factory, name, None))]:
        raise ImproperlyConfigured(f"MCP_DJANGO_SESSION_STORE names {path!r}, which lacks {', '.join(missing)}.")
    return cast(SessionStore, factory())


def handle_store() -> HandleStore:
    """What keeps handles: the session store's attribute ``handles``.

    Raises:
        ImproperlyConfigured: it has none.
    """
    handles = getattr(session_store(), "handles", None)
    if handles is None:
        raise ImproperlyConfigured(
            f"MCP_DJANGO_SESSION_STORE names {mcp_settings.SESSION_STORE!r}, which keeps no handles: give it an "
            "attribute `handles`, a mcp_django.handle_store.HandleStore."
        )
    return cast(HandleStore, handles)


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting == "MCP_DJANGO_SESSION_STORE":
        session_store.cache_clear()


setting_changed.connect(_forget, dispatch_uid="mcp_django.store")
