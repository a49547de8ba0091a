"""Does a long history slow the present down? The same load over 1 000 session rows and over 1 000 000.

The rows are copies of a session that the server itself stored, under random ids; the load goes to sessions
picked at random among them, so that the check of every request reads another part of the index.
"""

from __future__ import annotations

import os
import sqlite3
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random

from benchmarks.client import Client, call_each, open_sessions
from benchmarks.compare import Comparison, alternate
from benchmarks.databases import Databases
from benchmarks.load import Load
from benchmarks.report import Table, progress
from benchmarks.servers import Running, running, this_project

TABLE = "mcp_django_session"
FEW = 1_000
SEED = 20_251_125


@dataclass(frozen=True)
class Rows:
    comparison: Comparison

    def tables(self) -> list[Table]:
        return self.comparison.tables(
            f"Rows: {self.comparison.load.sessions} sessions picked at random among them",
            "Aim: a ratio of at least 0.9 in requests/s.",
        )


def measure(databases: Databases, many: int, load: Load, rounds: int, directory: Path) -> Rows:
    files = {count: databases.fresh() for count in (many, FEW)}
    with ExitStack() as stack:
        prepared = [_prepare(stack, files[count], count, load, directory) for count in files]
        for file, (_, session_ids) in zip(files.values(), prepared, strict=True):
            _spread_last_use(file, session_ids)
        return Rows(alternate(prepared, load, rounds))


def _prepare(stack: ExitStack, database: Path, count: int, load: Load, directory: Path) -> tuple[Running, list[str]]:
    """A server over ``count`` rows, and the sessions for its load, each called once and hence live."""
    server = this_project(database, name=f"{count} rows")
    with running(server, directory) as original:
        open_sessions(original.endpoint, 1)
    progress(f"inserting {count} rows")
    _insert_copies(database, count)
    session_ids = Random(SEED).sample(list(_raw_ids(count)), load.sessions)
    started = stack.enter_context(running(server, directory))
    with closing(Client(started.endpoint)) as client:
        call_each(client, session_ids)
    return started, session_ids


def _raw_ids(count: int) -> Iterator[str]:
    random = Random(SEED + 1)
    return (urlsafe_b64encode(random.randbytes(32)).rstrip(b"=").decode() for _ in range(count))


def _insert_copies(database: Path, count: int) -> None:
    """Fill the table up to ``count`` rows, all like the one that is there."""
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA cache_size = -524288")
        connection.execute("PRAGMA synchronous = OFF")
        found = connection.execute(f"SELECT * FROM {TABLE}")
        columns = [column[0] for column in found.description]
        (original,) = found.fetchall()
        key = columns.index("id")
        marks = ", ".join("?" * len(columns))
        with connection:
            connection.executemany(
                f"INSERT INTO {TABLE} ({', '.join(columns)}) VALUES ({marks})",
                ((*original[:key], _digest(raw_id), *original[key + 1 :]) for raw_id in _raw_ids(count)),
            )
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    # Else the server's first checkpoint would have to wait for all of these pages to reach the disk.
    with database.open("rb") as file:
        os.fsync(file.fileno())


def _spread_last_use(database: Path, session_ids: list[str]) -> None:
    """Make the sessions look as if each had been in use for long: their last use, which is written down once a
    minute, is due for each at another moment of the next minute."""
    last_use = "strftime('%Y-%m-%d %H:%M:%f', 'now', '-' || ? || ' seconds')"
    with closing(sqlite3.connect(database, timeout=20)) as connection, connection:
        connection.executemany(
            f"UPDATE {TABLE} SET last_seen_at = {last_use} WHERE id = ?",
            ((60 * place / len(session_ids), _digest(raw_id)) for place, raw_id in enumerate(session_ids)),
        )


def _digest(raw_id: str) -> str:
    """The key that a session is stored under."""
    return sha256(raw_id.encode()).hexdigest()
