"""What a restore costs: each session's first call after ``kill -9`` and a new start, against its second."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles

from benchmarks.client import Client, call_each, open_sessions
from benchmarks.report import Spread, Table, progress
from benchmarks.servers import Server, running


@dataclass(frozen=True)
class Restart:
    """Latencies in ms after one restart, in the order of the sessions."""

    restoring: list[float]
    live: list[float]

    @property
    def added_at_median(self) -> float:
        return median(self.restoring) - median(self.live)


@dataclass(frozen=True)
class Restores:
    restarts: list[Restart]

    def tables(self) -> list[Table]:
        count, sessions = len(self.restarts), len(self.restarts[0].live)
        added = Spread.of(restart.added_at_median for restart in self.restarts)
        table = Table(
            f"Restore: {count} restarts, {sessions} sessions each, SQLite, one call at a time, median (min to max)",
            ("call", "median ms", "95 % within ms"),
            note=f"A restoring call takes {added:.2f} ms longer at the median. Aim: at most 3 ms.",
        )
        table.add("first after the restart: restores", *_latencies([it.restoring for it in self.restarts]))
        table.add("second: live", *_latencies([it.live for it in self.restarts]))
        return [table]


def _latencies(restarts: list[list[float]]) -> tuple[str, str]:
    at_median = Spread.of(median(values) for values in restarts)
    at_95 = Spread.of(quantiles(values, n=20)[-1] for values in restarts)
    return f"{at_median:.2f}", f"{at_95:.2f}"


def measure(server: Server, sessions: int, warm_up: int, restarts: int, directory: Path) -> Restores:
    measured: list[Restart] = []
    for number in range(restarts):
        with running(server, directory) as before:
            session_ids = open_sessions(before.endpoint, warm_up + sessions)
            before.kill()
        with running(server, directory) as after, closing(Client(after.endpoint)) as client:
            # A new process also pays for its first requests of all: imports, connections, caches.
            call_each(client, session_ids[:warm_up], first_number=10_000)
            measured.append(_time_calls(client, session_ids[warm_up:]))
        added = measured[-1].added_at_median
        progress(f"restart {number + 1} of {restarts}: a restore adds {added:.2f} ms at the median")
    return Restores(measured)


def _time_calls(client: Client, session_ids: list[str]) -> Restart:
    """A session's two calls follow each other, so that a passing load on the machine meets both kinds."""
    restart = Restart([], [])
    for session_id in session_ids:
        restart.restoring.append(_milliseconds(client, session_id, 20_000))
        restart.live.append(_milliseconds(client, session_id, 20_001))
    return restart


def _milliseconds(client: Client, session_id: str, number: int) -> float:
    start = time.perf_counter()
    client.add(session_id, number)
    return (time.perf_counter() - start) * 1e3
