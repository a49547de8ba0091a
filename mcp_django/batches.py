"""Reads and writes of sessions and of states, as they go through the lanes: each kind serves many at once."""

from __future__ import annotations

import json
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar

from django.db import connections
from django.db.models import F, Model

from mcp_django import quotas
from mcp_django.exceptions import HandlerError, SessionNotFound, TooManySessions
from mcp_django.models import Process, Session, Stateful
from mcp_django.state import StateOperation, state_text
from mcp_django.visits import alias

if TYPE_CHECKING:
    from mcp_django.store import SessionRecord

HEAD_COLUMNS = ("server", "principal", "status", "epoch", "expires_at")
RECORD_COLUMNS = (
    *HEAD_COLUMNS,
    "owner_id",
    "initialize_params_json",
    "protocol_version",
    "client_name",
    "client_version",
    "created_at",
    "last_seen_at",
    "last_process",
    "quota",
    "log_level",
    "subscriptions_json",
    "initialized_at",
    "restore_count",
    "tools_fingerprint",
)


@dataclass(slots=True, frozen=True)
class ReadHead:
    """What requests are checked against; None if there is no such session."""

    digest: str

    @staticmethod
    def serve(items: Sequence[ReadHead]) -> list[tuple[Any, ...] | None]:
        heads = {row[0]: tuple(row[1:]) for row in rows_of(Session, {item.digest for item in items}, HEAD_COLUMNS)}
        return [heads.get(item.digest) for item in items]


@dataclass(slots=True, frozen=True)
class ReadHeads:
    """The same for many sessions in one query; those that are not there are left out."""

    digests: frozenset[str]

    @staticmethod
    def serve(items: Sequence[ReadHeads]) -> list[dict[str, tuple[Any, ...]]]:
        digests = {digest for item in items for digest in item.digests}
        rows = those(Session, digests).values_list("pk", *HEAD_COLUMNS) if digests else ()
        heads = {row[0]: tuple(row[1:]) for row in rows}
        return [{digest: heads[digest] for digest in item.digests if digest in heads} for item in items]


@dataclass(slots=True, frozen=True)
class ReadRecord:
    """A whole session but for its state; None if there is none."""

    digest: str

    @staticmethod
    def serve(items: Sequence[ReadRecord]) -> list[dict[str, Any] | None]:
        columns = ("digest", *RECORD_COLUMNS)
        rows = rows_of(Session, {item.digest for item in items}, RECORD_COLUMNS)
        records = {row[0]: dict(zip(columns, row, strict=True)) for row in rows}
        return [records.get(item.digest) for item in items]


@dataclass(slots=True, frozen=True)
class ReadState:
    """The state of an active session and its version; None if there is none."""

    digest: str
    model: ClassVar[type[Stateful]] = Session

    @classmethod
    def serve(cls, items: Sequence[ReadState]) -> list[tuple[dict[str, Any], int] | None]:
        rows = those(cls.model, {item.digest for item in items}).active()
        rows = rows.values_list("pk", "state_json", "state_version")
        states = {pk: (json.loads(text), version) for pk, text, version in rows}
        return [states.get(item.digest) for item in items]


@dataclass(slots=True, frozen=True)
class ReadProcess:
    """Whether a process lives: by its lease, on the database's clock; and for one of this machine, by asking the
    machine."""

    process: uuid.UUID

    @staticmethod
    def serve(items: Sequence[ReadProcess]) -> list[bool]:
        rows = Process.objects.using(alias()).alive().in_bulk({item.process for item in items})
        return [item.process in rows and _runs(rows[item.process]) for item in items]


def _runs(process: Process) -> bool:
    return process.host != socket.gethostname() or _pid_runs(process.pid)


def _pid_runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


Read = ReadHead | ReadHeads | ReadRecord | ReadState | ReadProcess


@dataclass(slots=True, frozen=True)
class Create:
    """A new session."""

    record: SessionRecord

    @staticmethod
    def serve(items: Sequence[Create]) -> list[TooManySessions | None]:
        columns = [{name: getattr(item.record, name) for name in RECORD_COLUMNS} for item in items]
        rows = [Session(pk=item.record.digest, **values) for item, values in zip(items, columns, strict=True)]
        Session.objects.using(alias()).bulk_create(rows)
        refused = quotas.make_room(rows)
        return [TooManySessions() if row.pk in refused else None for row in rows]


@dataclass(slots=True, frozen=True)
class Touch:
    """The last use and the expiry that follows from it."""

    digest: str
    seen_at: datetime
    expires_at: datetime

    @staticmethod
    def serve(items: Sequence[Touch]) -> list[None]:
        # Requests of one batch lie milliseconds apart and a touch has a resolution of a minute: one time serves all.
        latest = max(items, key=lambda item: item.seen_at)
        those(Session, {item.digest for item in items}).touch(latest.seen_at, latest.expires_at)
        return [None] * len(items)


@dataclass(slots=True, frozen=True)
class Change:
    """A conditional UPDATE by a model method; its outcome is the method's."""

    change: Callable[[], bool]

    @staticmethod
    def serve(items: Sequence[Change]) -> list[bool]:
        return [item.change() for item in items]


@dataclass(slots=True, frozen=True)
class ChangeState:
    """An operation on a session's state; its outcome is the operation's."""

    digest: str
    operation: StateOperation
    model: ClassVar[type[Stateful]] = Session
    missing: ClassVar[Callable[[], Exception]] = SessionNotFound

    @classmethod
    def serve(cls, items: Sequence[ChangeState]) -> list[Any]:
        """Run every operation, the rows locked in one order, each row written once."""
        held = _locked(cls.model, {item.digest for item in items})
        states = {pk: row.state for pk, row in held.items()}
        changed: set[str] = set()
        outcomes: list[Any] = []
        for item in items:
            if item.digest not in states:
                outcomes.append(cls.missing())
                continue
            try:
                states[item.digest], outcome = _operate(states[item.digest], item.operation)
            except HandlerError as error:
                outcomes.append(error)
                continue
            changed.add(item.digest)
            outcomes.append(outcome)
        for pk in sorted(changed):
            if not held[pk].replace_state(state_text(states[pk]), version=held[pk].state_version):
                # It came to its end between the two statements.
                raise cls.missing()
        return outcomes


@dataclass(slots=True, frozen=True)
class RenewLease:
    """This process lives."""

    process: uuid.UUID
    version: str

    @staticmethod
    def serve(items: Sequence[RenewLease]) -> list[None]:
        item = items[-1]
        process = Process(pk=item.process)
        if not process.renew():
            Process.objects.using(alias()).create(
                pk=item.process, host=socket.gethostname()[:255], pid=os.getpid(), version=item.version
            )
        return [None] * len(items)


Write = Create | Touch | Change | ChangeState | RenewLease


def _locked(model: type[Stateful], digests: set[str]) -> dict[str, Any]:
    rows = those(model, digests).active()
    if connections[alias()].features.has_select_for_update:
        rows = rows.select_for_update().order_by("pk")
    else:
        # SQLite locks the database, not rows, and only a write takes the lock; so the transaction begins with one.
        rows.update(state_version=F("state_version"))
    return {row.pk: row for row in rows.only("pk", "state_json", "state_version")}


def _operate(state: dict[str, Any], operation: StateOperation) -> tuple[dict[str, Any], Any]:
    attempt = json.loads(json.dumps(state))
    outcome = operation(attempt)
    state_text(attempt)
    return attempt, outcome


def those(model: type[Stateful], digests: Iterable[str]) -> Any:
    """The rows with these primary keys."""
    return model._default_manager.using(alias()).filter(pk__in=digests).order_by()


def rows_of(model: type[Model], digests: set[str], columns: tuple[str, ...], using: str | None = None) -> Iterable[Any]:
    """Primary key and columns of these rows; columns of rows that they point to are named as in ``values_list``.

    Args:
        using: the database, that of the sessions by default.
    """
    wanted = list(digests)
    # Few distinct statements, so that neither we nor the database prepare one for every size of crowd.
    size = 1 << (len(wanted) - 1).bit_length()
    query = _query(using or alias(), model, columns, size)
    with query.connection.cursor() as cursor:
        cursor.execute(query.sql, wanted + wanted[-1:] * (size - len(wanted)))
        return list(query.compiler.apply_converters(cursor.fetchall(), query.converters))


class _Query:
    """A SELECT by primary keys, compiled once: while the ORM compiles it, every other thread waits for the
    interpreter, and these are the queries that requests make."""

    def __init__(self, alias: str, model: type[Model], columns: tuple[str, ...], size: int) -> None:
        fillers = [str(number) for number in range(size)]
        rows: Any = model._default_manager.using(alias).filter(pk__in=fillers).order_by().values_list("pk", *columns)
        self.compiler = rows.query.get_compiler(alias)
        self.connection = self.compiler.connection
        self.sql, _parameters = self.compiler.as_sql()
        self.converters = self.compiler.get_converters([column for column, *_rest in self.compiler.select])


_queries = threading.local()


def _query(alias: str, model: type[Model], columns: tuple[str, ...], size: int) -> _Query:
    # Connections belong to threads, and compilers to connections.
    cache: dict[tuple[Any, ...], _Query] = _queries.__dict__.setdefault("cache", {})
    key = (alias, model, columns, size)
    if key not in cache:
        cache[key] = _Query(alias, model, columns, size)
    return cache[key]
