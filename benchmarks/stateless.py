"""Calls per second in the stateless era of the protocol, of this project and its peers, each one process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.compare import Comparison, compare
from benchmarks.load import Load
from benchmarks.report import Table
from benchmarks.servers import Server
from benchmarks.wire import MODERN_VERSION


@dataclass(frozen=True)
class Stateless:
    comparison: Comparison

    def tables(self) -> list[Table]:
        return self.comparison.tables(
            f"Stateless: tools/call of add(a, b), {MODERN_VERSION}",
            "No server asks a database, nor has sessions. Aims in requests/s: at least 3 times the SDK, 1.5 times "
            "django-mcpz.",
        )


def measure(servers: Sequence[Server], load: Load, rounds: int, directory: Path) -> Stateless:
    return Stateless(compare(servers, load, rounds, directory))
