"""What is printed: spreads and plain tables; and progress, on the other channel."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.errors import BenchmarkError

START, END = "<!-- benchmarks: start -->", "<!-- benchmarks: end -->"


@dataclass(frozen=True)
class Spread:
    """The median of some rounds' values, with the smallest and the largest."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        collected = list(values)
        return cls(median(collected), min(collected), max(collected))

    @classmethod
    def of_ratios(cls, ours: Iterable[float], theirs: Iterable[float]) -> Spread:
        """Ratios taken within each round."""
        return cls.of(one / other for one, other in zip(ours, theirs, strict=True))

    def __format__(self, spec: str) -> str:
        return f"{self.median:{spec}} ({self.min:{spec}} to {self.max:{spec}})"


@dataclass
class Table:
    """Plain text that is a Markdown table as well, with a sentence before and perhaps one after it."""

    title: str
    header: tuple[str, ...]
    rows: list[tuple[str, ...]] = field(default_factory=list)
    note: str = ""

    def add(self, *cells: str) -> None:
        self.rows.append(cells)

    def __str__(self) -> str:
        widths = [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]
        rule = tuple("-" * width for width in widths)
        lines = [_line(cells, widths) for cells in (self.header, rule, *self.rows)]
        return "\n".join([self.title, "", *lines, *(["", self.note] if self.note else []), ""])


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"


def put_into(page: Path, text: str) -> None:
    """Replace what stands between the two markers of a documentation page."""
    before, start, rest = page.read_text().partition(START)
    _old, end, after = rest.partition(END)
    if not end:
        raise BenchmarkError(f"{page} has no {START} and {END}, between which the tables could go.")
    page.write_text(f"{before}{start}\n{text.strip()}\n{end}{after}")


def progress(line: str) -> None:
    print(f"  {line}", file=sys.stderr, flush=True)
