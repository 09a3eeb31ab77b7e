"""What was measured, and how two programs compare."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

OURS = "loopnest"


@dataclass
class Row:
    """One program at one work; times are milliseconds.

    Attributes:
        size: how many loops there are, or how many calls are made at once.
        samples: in the order of the rounds, so that two rows of one work are pairs.
        calls: to the engine for one call.
        stall: the event loop's longest; ``own_stall`` without the time it waited for a processor.
        stalls: the longest of each round, where it is their median that counts.
        memory: of the program's process, in bytes, after the work.
    """

    group: str
    work: str
    size: int
    program: str
    samples: list[float] = field(default_factory=list)
    calls: float | None = None
    stall: float | None = None
    own_stall: float | None = None
    stalls: list[tuple[float, float]] = field(default_factory=list)
    memory: int | None = None
    note: str = ""

    @property
    def median(self) -> float:
        return statistics.median(self.samples) if self.samples else float("nan")

    @property
    def p95(self) -> float:
        return sorted(self.samples)[min(len(self.samples) - 1, int(len(self.samples) * 0.95))]

    def as_dict(self) -> dict[str, Any]:
        facts = {key: value for key, value in vars(self).items() if key != "samples"}
        samples = [round(sample, 4) for sample in self.samples]
        return {**facts, "median": self.median, "p95": self.p95 if samples else None, "samples": samples}


@dataclass(frozen=True)
class Ratio:
    """How many times as long ``other`` took, pair by pair."""

    other: str
    lowest: float
    median: float
    highest: float

    def __str__(self) -> str:
        return f"{_short(self.median)}x ({_short(self.lowest)}-{_short(self.highest)})"


def ratio(ours: Sequence[float], theirs: Sequence[float], other: str) -> Ratio | None:
    """Compare two rows round by round; None where there are no pairs."""
    pairs = sorted(b / a for a, b in zip(ours, theirs, strict=False) if a > 0)
    return Ratio(other, pairs[0], statistics.median(pairs), pairs[-1]) if pairs else None


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 20 else f"{value:.1f}" if value >= 2 else f"{value:.2f}"


@dataclass
class Results:
    """All rows of a run, found again by what they are about."""

    rows: list[Row] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def row(self, group: str, work: str, size: int, program: str) -> Row:
        for row in self.rows:
            if (row.group, row.work, row.size, row.program) == (group, work, size, program):
                return row
        self.rows.append(Row(group, work, size, program))
        return self.rows[-1]

    def ordered(self) -> list[Row]:
        """Each work's rows together, in the order in which the works came."""
        order = list(dict.fromkeys((row.group, row.work, row.size) for row in self.rows))
        return sorted(self.rows, key=lambda row: order.index((row.group, row.work, row.size)))

    def ratios(self, row: Row) -> list[Ratio]:
        """What the others took for the same work, next to ours."""
        if row.program != OURS:
            return []
        others = [it for it in self.rows if (it.group, it.work, it.size) == (row.group, row.work, row.size)]
        found = [ratio(row.samples, it.samples, it.program) for it in others if it.program != OURS]
        return [it for it in found if it]
