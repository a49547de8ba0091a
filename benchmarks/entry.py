"""The two entries to one endpoint: native ASGI, and the Django view behind the project's middleware."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from benchmarks.compare import Comparison, compare
from benchmarks.databases import Databases
from benchmarks.load import Load
from benchmarks.report import Table
from benchmarks.servers import this_project


@dataclass(frozen=True)
class Entries:
    comparison: Comparison

    def tables(self) -> list[Table]:
        return self.comparison.tables("Entries", "Both check every request against the database.")


def measure(databases: Databases, load: Load, rounds: int, directory: Path) -> Entries:
    servers = [
        this_project(databases.fresh(), name="native entry", entry="native"),
        this_project(databases.fresh(), name="Django view", entry="view"),
    ]
    return Entries(compare(servers, load, rounds, directory))
