"""What one visit to the database does: reads and writes of many sessions in few statements. Synchronous.

Runs in the lanes' threads only. All rows go through the database that sessions are written to.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from django.db import connections, router, transaction
from django.db.models import F
from django.db.models.functions import Now

from mcp_django.exceptions import HandlerError, SessionNotFound
from mcp_django.models import Process, Session
from mcp_django.state import state_text

if TYPE_CHECKING:
    from mcp_django.store import SessionRecord, StateOperation

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
    "log_level",
    "subscriptions_json",
    "initialized_at",
    "restore_count",
    "tools_fingerprint",
)


@dataclass(slots=True, frozen=True)
class ReadHead:
    digest: str


@dataclass(slots=True, frozen=True)
class ReadRecord:
    digest: str


@dataclass(slots=True, frozen=True)
class ReadState:
    digest: str


@dataclass(slots=True, frozen=True)
class ReadProcess:
    process: uuid.UUID


Read = ReadHead | ReadRecord | ReadState | ReadProcess


@dataclass(slots=True, frozen=True)
class Create:
    record: SessionRecord


@dataclass(slots=True, frozen=True)
class Touch:
    digest: str
    seen_at: datetime
    expires_at: datetime


@dataclass(slots=True, frozen=True)
class Change:
    """A conditional UPDATE by a model method; its outcome is the method's."""

    change: Callable[[], bool]


@dataclass(slots=True, frozen=True)
class ChangeState:
    digest: str
    operation: StateOperation


@dataclass(slots=True, frozen=True)
class RenewLease:
    process: uuid.UUID
    version: str


Write = Create | Touch | Change | ChangeState | RenewLease


def read(items: list[Read]) -> list[Any]:
    """Answer all reads with one query for each kind among them."""
    wanted: dict[type, list[Any]] = {}
    for item in items:
        wanted.setdefault(type(item), []).append(item)
    answers: dict[Read, Any] = {}
    for kind, group in wanted.items():
        answers.update(_READERS[kind](group))
    return [answers.get(item) for item in items]


def _read_heads(items: list[ReadHead]) -> dict[Read, Any]:
    return {ReadHead(row[0]): tuple(row[1:]) for row in _rows({item.digest for item in items}, HEAD_COLUMNS)}


def _read_records(items: list[ReadRecord]) -> dict[Read, Any]:
    columns = ("digest", *RECORD_COLUMNS)
    rows = _rows({item.digest for item in items}, RECORD_COLUMNS)
    return {ReadRecord(row[0]): dict(zip(columns, row, strict=True)) for row in rows}


def _rows(digests: set[str], columns: tuple[str, ...]) -> Iterable[Any]:
    """Primary key and columns of these sessions."""
    wanted = list(digests)
    # Few distinct statements, so that neither we nor the database prepare one for every size of crowd.
    size = 1 << (len(wanted) - 1).bit_length()
    query = _query(_alias(), columns, size)
    with query.connection.cursor() as cursor:
        cursor.execute(query.sql, wanted + wanted[-1:] * (size - len(wanted)))
        return list(query.compiler.apply_converters(cursor.fetchall(), query.converters))


class _Query:
    """A SELECT by primary keys, compiled once: while the ORM compiles it, every other thread waits for the
    interpreter, and these are the queries that requests make."""

    def __init__(self, alias: str, columns: tuple[str, ...], size: int) -> None:
        fillers = [str(number) for number in range(size)]
        rows = Session.objects.using(alias).filter(pk__in=fillers).order_by().values_list("pk", *columns)
        self.compiler = rows.query.get_compiler(alias)
        self.connection = self.compiler.connection
        self.sql, _parameters = self.compiler.as_sql()
        self.converters = self.compiler.get_converters([column for column, *_rest in self.compiler.select])


_queries = threading.local()


def _query(alias: str, columns: tuple[str, ...], size: int) -> _Query:
    # Connections belong to threads, and compilers to connections.
    cache: dict[tuple[str, tuple[str, ...], int], _Query] = _queries.__dict__.setdefault("cache", {})
    key = (alias, columns, size)
    if key not in cache:
        cache[key] = _Query(alias, columns, size)
    return cache[key]


def _read_states(items: list[ReadState]) -> dict[Read, Any]:
    rows = _sessions({item.digest for item in items}).active().values_list("pk", "state_json", "state_version")
    return {ReadState(pk): (json.loads(text), version) for pk, text, version in rows}


def _read_processes(items: list[ReadProcess]) -> dict[Read, Any]:
    return {item: _process_alive(item.process) for item in items}


def _process_alive(process: uuid.UUID) -> bool:
    """By its lease, on the database's clock; and for a process of this machine, by asking the machine."""
    rows = Process.objects.using(_alias()).filter(pk=process)
    row = rows.filter(seen_at__gt=Now() - Process.LEASE).first()
    if row is None:
        return False
    return row.host != socket.gethostname() or _pid_runs(row.pid)


def _pid_runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


_READERS: dict[type, Callable[[list[Any]], dict[Read, Any]]] = {
    ReadHead: _read_heads,
    ReadRecord: _read_records,
    ReadState: _read_states,
    ReadProcess: _read_processes,
}


def write(items: list[Write]) -> Sequence[Any]:
    """Make all changes in one transaction and one commit."""
    outcomes: list[Any] = [None] * len(items)
    kinds: dict[type, list[int]] = {}
    for index, item in enumerate(items):
        kinds.setdefault(type(item), []).append(index)
    with transaction.atomic(using=_alias()):
        for kind, indexes in kinds.items():
            for index, outcome in zip(indexes, _WRITERS[kind]([items[i] for i in indexes]), strict=True):
                outcomes[index] = outcome
    return outcomes


def _create(items: list[Create]) -> list[None]:
    fields = RECORD_COLUMNS
    rows = [Session(pk=item.record.digest, **{name: getattr(item.record, name) for name in fields}) for item in items]
    Session.objects.using(_alias()).bulk_create(rows)
    return [None] * len(items)


def _touch(items: list[Touch]) -> list[None]:
    # Requests of one batch lie milliseconds apart and a touch has a resolution of a minute: one time serves all.
    latest = max(items, key=lambda item: item.seen_at)
    _sessions({item.digest for item in items}).touch(latest.seen_at, latest.expires_at)
    return [None] * len(items)


def _change(items: list[Change]) -> list[bool]:
    return [item.change() for item in items]


def _change_state(items: list[ChangeState]) -> list[Any]:
    """Run every operation on its session's state, the rows locked in one order, each row written once."""
    rows = _sessions({item.digest for item in items}).active()
    if connections[_alias()].features.has_select_for_update:
        rows = rows.select_for_update().order_by("pk")
    else:
        # SQLite locks the database, not rows, and only a write takes the lock; so the transaction begins with one.
        rows.update(state_version=F("state_version"))
    held = {row.pk: row for row in rows.only("pk", "state_json", "state_version")}
    states = {pk: row.state for pk, row in held.items()}
    changed: set[str] = set()
    outcomes: list[Any] = []
    for item in items:
        if item.digest not in states:
            outcomes.append(SessionNotFound())
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
            # The session ended between the two statements.
            raise SessionNotFound
    return outcomes


def _operate(state: dict[str, Any], operation: StateOperation) -> tuple[dict[str, Any], Any]:
    attempt = json.loads(json.dumps(state))
    outcome = operation(attempt)
    state_text(attempt)
    return attempt, outcome


def _renew_lease(items: list[RenewLease]) -> list[None]:
    item = items[-1]
    process = Process(pk=item.process)
    if not process.renew():
        Process.objects.using(_alias()).create(
            pk=item.process, host=socket.gethostname()[:255], pid=os.getpid(), version=item.version
        )
    return [None] * len(items)


_WRITERS: dict[type, Callable[[list[Any]], Sequence[Any]]] = {
    Create: _create,
    Touch: _touch,
    Change: _change,
    ChangeState: _change_state,
    RenewLease: _renew_lease,
}


def _alias() -> str:
    return router.db_for_write(Session)


def _sessions(digests: Iterable[str]) -> Any:
    return Session.objects.using(_alias()).filter(pk__in=digests).order_by()
