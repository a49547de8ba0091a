"""The one command: ``python -m benchmarks``. Everything runs on loopback, in temporary databases."""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from benchmarks import authenticated, entry, events, follow, memory, progress, restore, rows, stateless, throughput
from benchmarks.databases import Databases
from benchmarks.environments import with_mcpz
from benchmarks.errors import BenchmarkError
from benchmarks.load import Load, require_wrk
from benchmarks.processes import require_proc
from benchmarks.report import Table, put_into
from benchmarks.report import progress as tell
from benchmarks.servers import (
    Server,
    in_stateless_era,
    mcpz,
    official_sdk,
    official_sdk_json,
    official_sdk_with_events,
    this_project,
)


@dataclass(frozen=True)
class Sizes:
    """How much of everything; ``--quick`` is for trying the command out, not for numbers to keep."""

    load: Load
    rounds: int
    memory_sessions: int
    memory_warm_up: int
    memory_rounds: int
    restore_sessions: int
    restore_warm_up: int
    restarts: int
    rows: int
    row_sessions: int
    event_rounds: int
    event_seconds: int
    followed_rounds: int
    followed_events: int


DEFAULT = Sizes(
    load=Load(seconds=2),
    rounds=10,
    memory_sessions=2_500,
    memory_warm_up=500,
    memory_rounds=2,
    restore_sessions=300,
    restore_warm_up=50,
    restarts=3,
    rows=1_000_000,
    row_sessions=1_000,
    event_rounds=5,
    event_seconds=3,
    followed_rounds=3,
    followed_events=100,
)
QUICK = Sizes(
    load=Load(seconds=1),
    rounds=2,
    memory_sessions=400,
    memory_warm_up=100,
    memory_rounds=1,
    restore_sessions=60,
    restore_warm_up=20,
    restarts=1,
    rows=50_000,
    row_sessions=300,
    event_rounds=1,
    event_seconds=1,
    followed_rounds=1,
    followed_events=20,
)


class Outcome(Protocol):
    """What a part of the benchmarks returns: a dataclass that can also be shown as tables."""

    def tables(self) -> list[Table]: ...


class Benchmarks:
    """The parts, by the names they have on the command line."""

    def __init__(self, sizes: Sizes, directory: Path, database_url: str, redis_url: str) -> None:
        self._sizes = sizes
        self._directory = directory
        self._databases = Databases(directory, database_url)
        self._redis_url = redis_url

    def throughput(self) -> Outcome:
        servers = [*self._servers_with_sessions(), *_mcpz_if_available()]
        return throughput.measure(servers, self._sizes.load, self._sizes.rounds, self._directory)

    def stateless(self) -> Outcome:
        servers = [
            in_stateless_era(this_project(self._databases.fresh()), "this project, native entry"),
            in_stateless_era(official_sdk(), "official SDK"),
            in_stateless_era(official_sdk_json(), "official SDK, JSON"),
            *_mcpz_if_available(),
            in_stateless_era(this_project(self._databases.fresh(), entry="view"), "this project, Django view"),
        ]
        return stateless.measure(servers, self._sizes.load, self._sizes.rounds, self._directory)

    def memory(self) -> Outcome:
        sizes = self._sizes
        return memory.measure(
            self._servers_with_sessions,
            sizes.memory_sessions,
            sizes.memory_warm_up,
            sizes.memory_rounds,
            self._directory,
        )

    def restore(self) -> Outcome:
        sizes = self._sizes
        server = this_project(self._databases.fresh())
        return restore.measure(server, sizes.restore_sessions, sizes.restore_warm_up, sizes.restarts, self._directory)

    def rows(self) -> Outcome:
        load = replace(self._sizes.load, sessions=self._sizes.row_sessions)
        return rows.measure(self._databases, self._sizes.rows, load, self._sizes.rounds, self._directory)

    def entry(self) -> Outcome:
        return entry.measure(self._databases, self._sizes.load, self._sizes.rounds, self._directory)

    def authenticated(self) -> Outcome:
        return authenticated.measure(self._databases, self._sizes.load, self._sizes.rounds, self._directory)

    def progress(self) -> Outcome:
        servers = [this_project(self._databases.fresh()), official_sdk_with_events()]
        return progress.measure(servers, self._sizes.load, self._sizes.rounds, self._directory)

    def events(self) -> Outcome:
        return events.measure(self._databases, self._sizes.event_seconds, self._sizes.event_rounds)

    def follow(self) -> Outcome:
        sizes = self._sizes
        return follow.measure(self._databases, self._redis_url, sizes.followed_events, sizes.followed_rounds)

    def _servers_with_sessions(self) -> list[Server]:
        return [this_project(self._databases.fresh()), official_sdk(), official_sdk_json()]


PARTS: dict[str, Callable[[Benchmarks], Outcome]] = {
    "throughput": Benchmarks.throughput,
    "stateless": Benchmarks.stateless,
    "memory": Benchmarks.memory,
    "restore": Benchmarks.restore,
    "rows": Benchmarks.rows,
    "entry": Benchmarks.entry,
    "authenticated": Benchmarks.authenticated,
    "progress": Benchmarks.progress,
    "events": Benchmarks.events,
    "follow": Benchmarks.follow,
}


def main() -> None:
    options = _parse(sys.argv[1:])
    # A plain SIGTERM would leave the servers behind: this way they are ended as after any other exception.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("benchmarks: terminated"))
    try:
        require_wrk()
        require_proc()
        report, tables = _run(options.parts, _sizes(options))
        if options.json is not None:
            options.json.write_text(json.dumps(report, indent=2) + "\n")
        if options.into is not None:
            put_into(options.into, tables)
    except BenchmarkError as error:
        sys.exit(f"benchmarks: {error}")


def _run(parts: Sequence[str], sizes: Sizes) -> tuple[dict[str, Any], str]:
    """Run the parts, printing each one's tables when it is through. All numbers, and all that was printed."""
    report: dict[str, Any] = {"environment": _environment(), "sizes": asdict(sizes)}
    printed = [", ".join(f"{name} {value}" for name, value in report["environment"].items()) + ".\n"]
    print(*printed)
    with tempfile.TemporaryDirectory(prefix="benchmarks-") as directory:
        urls = (os.environ.get(name, "") for name in ("DATABASE_URL", "REDIS_URL"))
        benchmarks = Benchmarks(sizes, Path(directory), *urls)
        for part in parts:
            started = time.monotonic()
            outcome: Any = PARTS[part](benchmarks)
            tables = [str(table) for table in outcome.tables()]
            tell(f"{part}: {time.monotonic() - started:.0f} s")
            report[part] = asdict(outcome)
            printed += tables
            print(*tables, sep="\n", flush=True)
    return report, "\n".join(printed)


def _mcpz_if_available() -> list[Server]:
    try:
        environment = with_mcpz()
    except BenchmarkError as error:
        tell(f"without django-mcpz: {error}")
        return []
    return [mcpz(environment.python, environment.version)]


def _environment() -> dict[str, str]:
    packages = ("django", "mcp", "uvicorn", "uvloop", "httptools")
    return {
        "Python": platform.python_version(),
        **{package: version(package) for package in packages},
        "cores": str(os.cpu_count()),
    }


def _sizes(options: argparse.Namespace) -> Sizes:
    sizes = QUICK if options.quick else DEFAULT
    load = replace(
        sizes.load,
        connections=options.connections or sizes.load.connections,
        seconds=options.seconds or sizes.load.seconds,
    )
    return replace(sizes, load=load, rounds=options.rounds or sizes.rounds, rows=options.rows or sizes.rows)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--quick", action="store_true", help="under a minute, to see that everything works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round's numbers there as well")
    parser.add_argument("--into", type=Path, metavar="PAGE", help="put the tables between the markers of this page")
    parser.add_argument("--rounds", type=_positive, help="rounds per comparison")
    parser.add_argument("--seconds", type=_positive, help="seconds of load per server and round")
    parser.add_argument("--connections", type=_positive, help="connections of the load")
    parser.add_argument("--rows", type=_positive, help="session rows in the part of that name")
    options = parser.parse_args(arguments)
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}. The parts are {', '.join(PARTS)}.")
    if options.rows is not None and options.rows <= rows.FEW:
        parser.error(f"--rows is compared with {rows.FEW} rows and must be larger, got {options.rows}.")
    options.parts = options.parts or list(PARTS)
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a number from 1 on, got {text}")
    return number


if __name__ == "__main__":
    main()
