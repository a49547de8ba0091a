"""Calls that report progress: each one an event stream of three events and a result, which can be resumed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks import wire
from benchmarks.compare import Comparison, compare
from benchmarks.load import Load
from benchmarks.report import Table
from benchmarks.servers import Server


@dataclass(frozen=True)
class Progress:
    comparison: Comparison

    def tables(self) -> list[Table]:
        return self.comparison.tables(
            f"Progress: tools/call with three progress events, {self.comparison.load.sessions} sessions",
            "This project commits every event to the database before it is sent, the SDK keeps it in the memory of "
            "its process. Aim: at least 2 times the SDK in requests/s.",
        )


def measure(servers: Sequence[Server], load: Load, rounds: int, directory: Path) -> Progress:
    return Progress(compare(servers, replace(load, call=wire.PROGRESS), rounds, directory))
