"""What the stored reports and metrics of a run say about learning: numbers in, verdicts out.

No files and no model; a seed's gain is a paired difference over the same held-out prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from grape.runtime.stats import paired_difference


@dataclass(frozen=True, slots=True)
class Outcome:
    """One seed: mean reward before and after, and the gain with its 95 % interval."""

    seed: int
    start: float
    end: float
    gain: float
    low: float
    high: float
    items: int
    seconds: float
    """Of the whole repeat, the start of its process included."""

    @property
    def rises(self) -> bool:
        return self.low > 0


def outcome(
    seed: int, before: Mapping[str, float], after: Mapping[str, float], seconds: float
) -> Outcome:
    """From the mean reward of every item. Raises ValueError for reports on different items."""
    if before.keys() != after.keys():
        raise ValueError("a paired comparison needs the same items on both sides")
    starts = list(before.values())
    ends = [after[item] for item in before]
    gain, low, high, _ = paired_difference(ends, starts, 0.95)
    return Outcome(seed, fmean(starts), fmean(ends), gain, low, high, len(starts), seconds)


def verdict(outcomes: Sequence[Outcome]) -> str:
    """`learns` only where every seed's interval lies above 0."""
    rising = sum(one.rises for one in outcomes)
    if outcomes and rising == len(outcomes):
        return "learns"
    if any(one.high < 0 for one in outcomes):
        return "falls"
    return f"not shown ({rising} of {len(outcomes)})"


@dataclass(frozen=True, slots=True)
class Bound:
    """How a constraint was kept over all seeds."""

    limit: float
    looked: int
    """Updates of the natural gradient, or batches after their further steps."""
    left: float | None
    """The largest value that ordinary updates left; None where the solver makes none."""
    end: float
    """The largest value when a step had ended."""
    still: int
    """Updates for which no step was taken."""
    fixups: int
    """Steps on the constraint alone."""

    @property
    def kept(self) -> bool:
        return self.end <= self.limit


def bound(limit: float, rows: Sequence[Mapping[str, Any]]) -> Bound:
    """From the metrics of `train`, where `constraint` is the value less the limit. Raises
    ValueError when no row tells of a constraint."""
    told = [row for row in rows if "constraint" in row]
    if not told:
        raise ValueError("no update tells of a constraint")
    left = [row["constraint_before"] for row in told if "constraint_before" in row]
    return Bound(
        limit=limit,
        looked=len(told),
        left=limit + max(left) if left else None,
        end=limit + max(row["constraint"] for row in told),
        still=sum(row.get("step_share") == 0 for row in told),
        fixups=sum(row.get("fixups", 0) for row in told),
    )
