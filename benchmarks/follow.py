"""How long an event takes from its append in one process to a reader in another, with hints by Redis and without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from benchmarks.databases import Databases
from benchmarks.errors import BenchmarkError
from benchmarks.report import Spread, Table, progress
from benchmarks.servers import ROOT, django_environment

STREAMS = 8
TIMEOUT = 120.0
STOP_TIMEOUT = 10.0


@dataclass(frozen=True)
class Delays:
    """Milliseconds from append to wire, one list per round, by database and by whether there were hints."""

    database: str
    hints: bool
    rounds: list[list[float]]


@dataclass(frozen=True)
class Follow:
    delays: list[Delays]

    def tables(self) -> list[Table]:
        rounds = self.delays[0].rounds
        table = Table(
            f"Follow: from append in one process to the wire in another, {len(rounds)} rounds, {STREAMS} streams of "
            f"{len(rounds[0]) // STREAMS} events each, median (min to max)",
            ("database", "hints", "median ms", "95 % within ms"),
            note="Without hints a process looks every 0.5 s (MCP_DJANGO_POLL_INTERVAL).",
        )
        for delays in self.delays:
            at_median = Spread.of(median(values) for values in delays.rounds)
            at_95 = Spread.of(quantiles(values, n=20)[-1] for values in delays.rounds)
            table.add(delays.database, "Redis" if delays.hints else "none", f"{at_median:.1f}", f"{at_95:.1f}")
        return [table]


def measure(databases: Databases, redis: str, events: int, rounds: int) -> Follow:
    if not redis:
        progress("without hints: REDIS_URL names no Redis")
    with databases.each() as by_name:
        measured = [Delays(name, hints, []) for name in by_name for hints in ([False, True] if redis else [False])]
        for number in range(rounds):
            for delays in measured:
                values = _run(by_name[delays.database], redis if delays.hints else "", events)
                delays.rounds.append([1e3 * value for value in values])
                hints = "with" if delays.hints else "without"
                shown = f"{median(delays.rounds[-1]):.1f} ms at the median"
                progress(f"round {number + 1} of {rounds}: {delays.database} {hints} hints: {shown}")
    return Follow(measured)


def _run(database: Path | str, redis: str, events: int) -> list[float]:
    """Seconds from append to wire of every event."""
    environment = {**os.environ, **django_environment(database, redis)}
    producer = _start(environment, "produce", str(STREAMS), str(events))
    follower = _start(environment, "follow")
    try:
        return _introduce(producer, follower, events)
    finally:
        for process in (producer, follower):
            process.kill()
            process.communicate()


def _introduce(producer: subprocess.Popen[str], follower: subprocess.Popen[str], events: int) -> list[float]:
    assert producer.stdin
    assert producer.stdout
    assert follower.stdin
    assert follower.stdout
    follower.stdin.write(producer.stdout.readline())
    follower.stdin.flush()
    if not follower.stdout.readline():
        raise BenchmarkError(f"The follower did not follow:\n{follower.communicate(timeout=STOP_TIMEOUT)[1][-2000:]}")
    producer.stdin.write("go\n")
    producer.stdin.flush()
    printed, errors = follower.communicate(timeout=TIMEOUT)
    producer.communicate(timeout=STOP_TIMEOUT)
    if follower.returncode or producer.returncode:
        raise BenchmarkError(f"Following streams failed:\n{errors[-2000:]}")
    delays: list[float] = json.loads(printed)
    if len(delays) != STREAMS * events:
        raise BenchmarkError(f"Of {STREAMS * events} events, {len(delays)} arrived.")
    return delays


def _start(environment: dict[str, str], worker: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", f"benchmarks.workers.{worker}", *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
