"""A session store in the memory of one process: for development without a database.

Sessions end with the process; then an id that it knew is unknown, and clients get the 404 that makes them start
anew, as with every other server.
"""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, ClassVar

from django.utils import timezone

from mcp_django import quotas
from mcp_django.exceptions import HandleNotFound, SessionNotFound
from mcp_django.handle_batches import HandleHead, HandleRecord
from mcp_django.models import with_subscription
from mcp_django.processes import this_process
from mcp_django.state import StateOperation, state_text
from mcp_django.store import SessionHead, SessionRecord


class _States:
    """States in a dict, of what is active; what that is, and is raised if it is not, a subclass says."""

    missing: ClassVar[type[Exception]]

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._states: dict[str, tuple[str, int]] = {}

    def _is_active(self, digest: str) -> bool:
        raise NotImplementedError(f"{type(self).__name__} must define _is_active().")

    async def read_state(self, digest: str) -> tuple[dict[str, Any], int]:
        with self._lock:
            text, version = self._state(digest)
        return json.loads(text), version

    async def change_state(self, digest: str, operation: StateOperation) -> Any:
        with self._lock:
            self._states[digest], outcome = _changed(self._state(digest), operation)
            return outcome

    async def replace_state(self, digest: str, state_json: str, version: int) -> bool:
        with self._lock:
            if not self._is_active(digest) or self._states[digest][1] != version:
                return False
            self._states[digest] = (state_json, version + 1)
            return True

    def _state(self, digest: str) -> tuple[str, int]:
        if not self._is_active(digest):
            raise self.missing
        return self._states[digest]


class MemoryStore(_States):
    """Sessions in a dict. Safe to use from any thread and loop of its process."""

    durable = False
    missing = SessionNotFound

    def __init__(self) -> None:
        super().__init__()
        self._records: dict[str, SessionRecord] = {}
        self.handles = MemoryHandles()

    async def create(self, record: SessionRecord) -> None:
        with self._lock:
            self._drop_dead(record.created_at)
            self._make_room(record)
            self._records[record.digest] = replace(record)
            self._states[record.digest] = ("{}", 0)

    def _make_room(self, new: SessionRecord) -> None:
        """End what its caller has too much of. What is at work is not known here; it was used lately."""
        if not new.quota:
            return
        mine = [r for r in self._records.values() if r.quota == new.quota and r.head.is_live(new.created_at)]
        surplus = len(mine) + 1 - quotas.limit_of(new)
        for record in sorted(mine, key=lambda r: (r.initialized_at is not None, r.last_seen_at))[: max(surplus, 0)]:
            record.status = "terminated"
            record.epoch += 1

    async def head(self, digest: str) -> SessionHead | None:
        with self._lock:
            record = self._records.get(digest)
            return None if record is None else record.head

    async def heads(self, digests: Iterable[str]) -> dict[str, SessionHead]:
        with self._lock:
            return {digest: self._records[digest].head for digest in digests if digest in self._records}

    async def load(self, digest: str) -> SessionRecord | None:
        with self._lock:
            record = self._records.get(digest)
            return None if record is None else replace(record)

    def touch(self, digest: str, seen_at: datetime, expires_at: datetime) -> None:
        with self._lock:
            record = self._active(digest)
            if record is not None and record.last_seen_at < seen_at:
                record.last_seen_at, record.expires_at = seen_at, expires_at

    async def mark_initialized(self, digest: str, at: datetime) -> bool:
        return self._change(digest, initialized_at=at)

    async def set_log_level(self, digest: str, level: str) -> bool:
        return self._change(digest, log_level=level)

    async def change_subscription(self, digest: str, uri: str, subscribed: bool) -> bool:
        with self._lock:
            record = self._active(digest)
            if record is None:
                return False
            record.subscriptions_json = with_subscription(record.subscriptions_json, uri, subscribed)
            record.epoch += 1
            return True

    async def mark_restored(self, digest: str, process: uuid.UUID, tools_fingerprint: str) -> bool:
        with self._lock:
            record = self._active(digest)
            if record is None:
                return False
            record.restore_count += 1
            record.last_process, record.tools_fingerprint = process, tools_fingerprint
            return True

    async def end(self, digest: str, reason: str, status: str) -> bool:
        with self._lock:
            record = self._records.get(digest)
            if record is None or record.status != "active":
                return False
            record.status = status
            record.epoch += 1
            return True

    async def process_alive(self, process: uuid.UUID) -> bool:
        return process == this_process()

    def _change(self, digest: str, **values: Any) -> bool:
        with self._lock:
            record = self._active(digest)
            if record is None:
                return False
            for name, value in values.items():
                setattr(record, name, value)
            record.epoch += 1
            return True

    def _active(self, digest: str) -> SessionRecord | None:
        record = self._records.get(digest)
        return record if record is not None and record.head.is_live(timezone.now()) else None

    def _is_active(self, digest: str) -> bool:
        return self._active(digest) is not None

    def _drop_dead(self, now: datetime) -> None:
        # A dict has no pruning command: whoever adds a session clears away what has ended.
        if len(self._records) % 1000 == 999:
            for digest in [key for key, record in self._records.items() if not record.head.is_live(now)]:
                del self._records[digest], self._states[digest]


class MemoryHandles(_States):
    """Handles in a dict. Safe to use from any thread and loop of its process."""

    missing = HandleNotFound

    def __init__(self) -> None:
        super().__init__()
        self._heads: dict[str, HandleHead] = {}

    async def create(self, record: HandleRecord) -> None:
        with self._lock:
            self._drop_expired(record.created_at)
            self._heads[record.digest] = record.head
            self._states[record.digest] = (record.state_json, 0)

    async def head(self, digest: str) -> HandleHead | None:
        with self._lock:
            return self._heads.get(digest)

    def touch(self, digest: str, used_at: datetime, ttl: timedelta) -> None:
        with self._lock:
            if self._is_active(digest) and self._heads[digest].used_at < used_at:
                self._heads[digest] = self._heads[digest]._replace(used_at=used_at, expires_at=used_at + ttl)

    async def end(self, digest: str) -> bool:
        with self._lock:
            if not self._is_active(digest):
                return False
            del self._heads[digest], self._states[digest]
            return True

    def _is_active(self, digest: str) -> bool:
        return digest in self._heads and self._heads[digest].expires_at > timezone.now()

    def _drop_expired(self, now: datetime) -> None:
        # As with sessions: whoever adds one clears away.
        if len(self._heads) % 1000 == 999:
            for digest in [key for key, head in self._heads.items() if head.expires_at <= now]:
                del self._heads[digest], self._states[digest]


def _changed(before: tuple[str, int], operation: StateOperation) -> tuple[tuple[str, int], Any]:
    """A state and its version after an operation, and the operation's outcome."""
    text, version = before
    state = json.loads(text)
    outcome = operation(state)
    return (state_text(state), version + 1), outcome
