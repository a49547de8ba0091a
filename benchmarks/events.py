"""Durable events per second: appended, committed, and handed over to be sent by a reader in the same process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.databases import Databases
from benchmarks.errors import BenchmarkError
from benchmarks.report import Spread, Table, progress
from benchmarks.servers import ROOT, django_environment

CROWDS = (1, 16, 128)


@dataclass(frozen=True)
class Sample:
    """One round's outcome with one number of streams."""

    events_per_second: float
    cpu_us: float


@dataclass(frozen=True)
class Events:
    """Samples, one per round, by database and number of streams."""

    seconds: int
    samples: dict[str, dict[int, list[Sample]]]

    def tables(self) -> list[Table]:
        rounds = len(next(iter(self.samples.values()))[CROWDS[0]])
        table = Table(
            f"Events: from append to the wire, {rounds} rounds of {self.seconds} s each, median (min to max)",
            ("database", "streams", "events/s", "CPU µs per event"),
            note="Each stream has a task that appends the next event when the last one is committed, and a reader. "
            "Aim with 128 streams: 20 000 events/s on SQLite, 10 000 on PostgreSQL.",
        )
        for database, by_streams in self.samples.items():
            for streams, samples in by_streams.items():
                speed = Spread.of(sample.events_per_second for sample in samples)
                cpu = Spread.of(sample.cpu_us for sample in samples)
                table.add(database, str(streams), f"{speed:.0f}", f"{cpu:.0f}")
        return [table]


def measure(databases: Databases, seconds: int, rounds: int) -> Events:
    samples: dict[str, dict[int, list[Sample]]] = {}
    with databases.each() as by_name:
        for number in range(rounds):
            for name, database in by_name.items():
                for streams, sample in _run(database, seconds).items():
                    samples.setdefault(name, {}).setdefault(streams, []).append(sample)
                    speed = f"{sample.events_per_second:.0f} events/s"
                    progress(f"round {number + 1} of {rounds}: {name}, {streams} streams: {speed}")
    return Events(seconds, samples)


def _run(database: Path | str, seconds: int) -> Mapping[int, Sample]:
    command = [sys.executable, "-m", "benchmarks.workers.events", str(seconds), *map(str, CROWDS)]
    environment = {**os.environ, **django_environment(database)}
    patience = 60 + 2 * seconds * len(CROWDS)
    finished = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=patience, check=False
    )
    if finished.returncode != 0:
        raise BenchmarkError(f"The events' worker ended with {finished.returncode}:\n{finished.stderr.strip()[-2000:]}")
    return {
        outcome["streams"]: Sample(
            outcome["events"] / outcome["seconds"], outcome["cpu"] / max(1, outcome["events"]) * 1e6
        )
        for outcome in json.loads(finished.stdout)
    }
