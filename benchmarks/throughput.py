"""Calls per second of this project and its peers, each one process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.compare import Comparison, compare
from benchmarks.load import Load
from benchmarks.report import Table
from benchmarks.servers import Server


@dataclass(frozen=True)
class Throughput:
    comparison: Comparison

    def tables(self) -> list[Table]:
        return self.comparison.tables(
            f"Throughput: tools/call of add(a, b), {self.comparison.load.sessions} sessions",
            "This project checks every request against the database (SQLite), the others have none. Aims in "
            "requests/s: at least 3.5 times the SDK as it comes, 1.5 times the SDK with JSON responses.",
        )


def measure(servers: Sequence[Server], load: Load, rounds: int, directory: Path) -> Throughput:
    return Throughput(compare(servers, load, rounds, directory))
