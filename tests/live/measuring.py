"""Numbers that tests take: printed always, so that a run with -s reports them."""

from __future__ import annotations

import os
import statistics
from collections.abc import Sequence

from tests.live.databases import Database

WITH_REDIS = bool(os.environ.get("REDIS_URL"))
QUIET = {"LIVE_LOG_LEVEL": "WARNING", "DEBUG": "0"}
"""Environment of servers that are measured: logging every query would be measured with them."""


def report(what: str, seconds: Sequence[float], database: Database) -> float:
    """Print the median, the least and the most of some times, and return the median."""
    median = statistics.median(seconds)
    where = f"{database.vendor}, {'Redis' if WITH_REDIS else 'no broker'}"
    times = f"median {median * 1000:.1f} ms, {min(seconds) * 1000:.1f} to {max(seconds) * 1000:.1f} ms"
    print(f"\n[measured] {what}: {times}, n={len(seconds)} ({where})")
    return median


def note(what: str, database: Database) -> None:
    """Print something else that was measured."""
    print(f"\n[measured] {what} ({database.vendor}, {'Redis' if WITH_REDIS else 'no broker'})")
