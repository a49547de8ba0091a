"""Servers side by side: all are up at once, the load goes to one after the other, round by round.

A machine's speed drifts; the ratio of two servers loaded within the same few seconds hardly does. So every
ratio is taken within a round, and what is reported is the spread of those ratios over the rounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import load
from benchmarks.load import Load, Sample
from benchmarks.report import Spread, Table, progress
from benchmarks.servers import Running, Server, running_all


@dataclass(frozen=True)
class Comparison:
    """Samples by server name, one per round; the others are compared with the first server."""

    load: Load
    samples: dict[str, list[Sample]]

    @property
    def base(self) -> str:
        return next(iter(self.samples))

    def speed_of_base(self, other: str) -> Spread:
        """Requests per second of the first server over those of another."""
        return Spread.of_ratios(self._values(self.base, "requests_per_second"), self._values(other))

    def tables(self, title: str, note: str) -> list[Table]:
        rounds = len(self.samples[self.base])
        shape = f"{self.load.connections} connections, {rounds} rounds of {self.load.seconds} s each"
        columns = ("requests/s", "p50 ms", "p99 ms", "CPU µs per request")
        absolute = Table(f"{title}: {shape}, median (min to max)", ("server", *columns))
        ratios = Table(f"The same as ratios: {self.base} divided by", ("server", *columns), note=note)
        for name in self.samples:
            absolute.add(
                name,
                f"{Spread.of(self._values(name)):.0f}",
                f"{Spread.of(self._values(name, 'p50_ms')):.1f}",
                f"{Spread.of(self._values(name, 'p99_ms')):.1f}",
                f"{Spread.of(self._values(name, 'cpu_us')):.0f}",
            )
            if name != self.base:
                ratios.add(name, *(f"{ratio:.2f}" for ratio in self._ratios(name)))
        return [absolute, ratios]

    def _ratios(self, other: str) -> Iterator[Spread]:
        for measure in ("requests_per_second", "p50_ms", "p99_ms", "cpu_us"):
            yield Spread.of_ratios(self._values(self.base, measure), self._values(other, measure))

    def _values(self, name: str, measure: str = "requests_per_second") -> list[float]:
        return [getattr(sample, measure) for sample in self.samples[name]]


def compare(servers: Sequence[Server], shape: Load, rounds: int, directory: Path) -> Comparison:
    with running_all(servers, directory) as started:
        prepared = [(server, load.prepare_sessions(server.endpoint, shape)) for server in started]
        return alternate(prepared, shape, rounds)


def alternate(prepared: Sequence[tuple[Running, list[str]]], shape: Load, rounds: int) -> Comparison:
    """Load each server in turn, each round beginning with another one, after a warm-up of all."""
    warm_up = Load(shape.connections, shape.sessions, seconds=max(1, shape.seconds // 2))
    for server, session_ids in prepared:
        load.run(server, session_ids, warm_up)
    samples: dict[str, list[Sample]] = {server.server.name: [] for server, _ in prepared}
    for number in range(rounds):
        first = number % len(prepared)
        for server, session_ids in [*prepared[first:], *prepared[:first]]:
            name = server.server.name
            sample = load.run(server, session_ids, shape)
            samples[name].append(sample)
            progress(f"round {number + 1} of {rounds}: {name}: {sample.requests_per_second:.0f} requests/s")
    return Comparison(shape, samples)
