"""What the kernel says about a process: its memory and its processor time."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from benchmarks.errors import BenchmarkError

_PROC = Path("/proc")


def require_proc() -> None:
    if not (_PROC / "self" / "statm").exists():
        raise BenchmarkError(f"The benchmarks read /proc and so run on Linux only; this is {sys.platform}.")


def resident_bytes(pid: int) -> int:
    pages = (_PROC / str(pid) / "statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def cpu_seconds(pid: int) -> float:
    """Processor time so far, of the process and its children (gunicorn's work is done by one)."""
    # The name in the second field is in parentheses and may itself hold blanks and parentheses.
    fields = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    children = (_PROC / str(pid) / "task" / str(pid) / "children").read_text().split()
    return ticks / os.sysconf("SC_CLK_TCK") + sum(cpu_seconds(int(child)) for child in children)
