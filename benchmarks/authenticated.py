"""What it costs to know the caller: the same calls with a bearer token and without, on the same endpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.compare import Comparison, compare
from benchmarks.databases import Databases
from benchmarks.load import Load
from benchmarks.report import Table
from benchmarks.servers import Server, in_stateless_era, this_project
from benchmarks.wire import LEGACY_VERSION, MODERN_VERSION

TOKENS = "with tokens"
ANONYMOUS = "anonymous"


@dataclass(frozen=True)
class Authenticated:
    sessions: Comparison
    stateless: Comparison

    def tables(self) -> list[Table]:
        load = self.sessions.load
        return [
            *self.sessions.tables(
                f"Authenticated: tools/call of add(a, b), {LEGACY_VERSION}, {load.sessions} sessions",
                "Every session is another user's, and every request is checked against the database: its session, and "
                "with tokens first its token and user. Aim in requests/s: at least 0.70.",
            ),
            *self.stateless.tables(
                f"Authenticated: tools/call of add(a, b), {MODERN_VERSION}, {load.sessions} users",
                "Anonymous calls of this era ask the database nothing.",
            ),
        ]


def measure(databases: Databases, load: Load, rounds: int, directory: Path) -> Authenticated:
    servers = [_with_tokens(databases, load.sessions), this_project(databases.fresh(), name=ANONYMOUS)]
    stateless = [in_stateless_era(server, server.name) for server in servers]
    return Authenticated(compare(servers, load, rounds, directory), compare(stateless, load, rounds, directory))


def _with_tokens(databases: Databases, users: int) -> Server:
    database = databases.fresh()
    return replace(this_project(database, name=TOKENS), tokens=databases.tokens(database, users))
