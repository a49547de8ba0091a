"""Reads and writes of handles, as they go through the store's lanes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from mcp_django.batches import ChangeState, ReadState, rows_of, those
from mcp_django.exceptions import HandleNotFound
from mcp_django.models import StoredHandle
from mcp_django.visits import alias


class HandleHead(NamedTuple):
    """What a handle's user is checked against, and when it was last used."""

    server: str
    kind: str
    principal: str
    used_at: datetime
    expires_at: datetime


@dataclass(slots=True, kw_only=True, frozen=True)
class HandleRecord:
    """A new handle."""

    digest: str
    server: str
    kind: str
    principal: str
    owner_id: Any
    state_json: str
    created_at: datetime
    expires_at: datetime

    @property
    def size(self) -> int:
        """Its bytes, by which the lane bounds its batches."""
        return len(self.state_json)

    @property
    def head(self) -> HandleHead:
        return HandleHead(self.server, self.kind, self.principal, self.created_at, self.expires_at)

    @staticmethod
    def serve(items: Sequence[HandleRecord]) -> list[None]:
        """Keep them."""
        columns = [{name: getattr(item, name) for name in COLUMNS} for item in items]
        rows = [
            StoredHandle(pk=item.digest, used_at=item.created_at, **values)
            for item, values in zip(items, columns, strict=True)
        ]
        StoredHandle.objects.using(alias()).bulk_create(rows)
        return [None] * len(items)


COLUMNS: Final = tuple(field.name for field in fields(HandleRecord) if field.name != "digest")


@dataclass(slots=True, frozen=True)
class ReadHandle:
    """What the user of a handle is checked against; None if there is no such handle."""

    digest: str

    @staticmethod
    def serve(items: Sequence[ReadHandle]) -> list[HandleHead | None]:
        rows = rows_of(StoredHandle, {item.digest for item in items}, HandleHead._fields)
        heads = {row[0]: HandleHead._make(row[1:]) for row in rows}
        return [heads.get(item.digest) for item in items]


@dataclass(slots=True, frozen=True)
class TouchHandle:
    """The last use of a handle, and how long it lives from then on."""

    digest: str
    used_at: datetime
    ttl: timedelta

    @staticmethod
    def serve(items: Sequence[TouchHandle]) -> list[None]:
        # Uses of one batch lie milliseconds apart: one time serves all. How long handles live, their classes say.
        latest = max(item.used_at for item in items)
        for ttl in {item.ttl for item in items}:
            digests = {item.digest for item in items if item.ttl == ttl}
            those(StoredHandle, digests).touch(latest, latest + ttl)
        return [None] * len(items)


@dataclass(slots=True, frozen=True)
class ReadHandleState(ReadState):
    """The state of an active handle and its version; None if there is none."""

    model = StoredHandle


@dataclass(slots=True, frozen=True)
class ChangeHandleState(ChangeState):
    """An operation on a handle's state; its outcome is the operation's."""

    model = StoredHandle
    missing = HandleNotFound
