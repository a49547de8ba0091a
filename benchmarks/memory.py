"""Memory per live session: how much a server's process grows while sessions are opened on it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.client import open_sessions
from benchmarks.processes import resident_bytes
from benchmarks.report import Spread, Table, progress
from benchmarks.servers import Running, Server, running


@dataclass(frozen=True)
class Growth:
    """Bytes per session, by server name, one value per round; the others are compared with the first."""

    sessions: int
    warm_up: int
    samples: dict[str, list[float]]

    def tables(self) -> list[Table]:
        base, *others = self.samples
        table = Table(
            f"Memory per live session: growth over {self.sessions} sessions, median (min to max)",
            ("server", "KB per session", f"{base} divided by it"),
            note=(
                "A live session is initialised and has answered a call. "
                f"Growth is counted from the session number {self.warm_up} on. Aim: at most 6 KB."
            ),
        )
        for name in (base, *others):
            ratio = Spread.of_ratios(self.samples[base], self.samples[name])
            kilobytes = Spread.of(value / 1024 for value in self.samples[name])
            table.add(name, f"{kilobytes:.1f}", "" if name == base else f"{ratio:.2f}")
        return [table]


def measure(
    servers: Callable[[], Sequence[Server]], sessions: int, warm_up: int, rounds: int, directory: Path
) -> Growth:
    """Each round on newly started servers; ``servers`` makes them, with a new database where one is used."""
    samples: dict[str, list[float]] = {}
    for number in range(rounds):
        for server in servers():
            with running(server, directory) as started:
                grown = _growth(started, sessions, warm_up)
            samples.setdefault(server.name, []).append(grown)
            progress(f"round {number + 1} of {rounds}: {server.name}: {grown / 1024:.1f} KB per session")
    return Growth(sessions, warm_up, samples)


def _growth(server: Running, sessions: int, warm_up: int) -> float:
    # The first sessions also pay for what exists once: code paths, connections, the database's page cache.
    open_sessions(server.endpoint, warm_up)
    before = resident_bytes(server.pid)
    open_sessions(server.endpoint, sessions)
    return (resident_bytes(server.pid) - before) / sessions
