"""Whether a paired check has enough items to see a plausible difference.

In comes a graph, and a count of the items of data where it is known; out come warnings. The
reckoning, documented in `catalogue/G237.md`: rewards between 0 and 1, a share of the items on which
the two models differ, 80 % power.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import ceil, sqrt
from pathlib import Path
from typing import TextIO

from grape.compiler.graph import Check, Edge, Graph, Stage
from grape.dsl.findings import Finding

DISCORDANCE = 0.10
"""Share of the items on which the two models differ, where the difference is no larger."""
PLAUSIBLE = 0.05
"""The difference of means that a check should be able to find."""
POWER = 0.80

Count = Callable[[Stage], int | None]
"""The rows of a data source; None where they are not known."""


def detectable(items: int, confidence: float) -> float:
    """The smallest difference of means that a one-sided paired test finds with 80 % power."""
    reach = _reach(confidence) ** 2 / items
    return reach if reach > DISCORDANCE else sqrt(reach * DISCORDANCE)


def needed(confidence: float) -> int:
    """How many items find the plausible difference."""
    return ceil(_reach(confidence) ** 2 * DISCORDANCE / PLAUSIBLE**2)


def _reach(confidence: float) -> float:
    from statistics import NormalDist

    normal = NormalDist()
    return normal.inv_cdf(confidence) + normal.inv_cdf(POWER)


def weak_checks(graph: Graph, count: Count) -> Iterator[Finding]:
    """A warning for each paired check with too few items."""
    stages = {stage.name: stage for stage in graph.stages}
    for check in graph.checks:
        items = _items(check, stages, count)
        if check.confidence is None or not items:
            continue
        smallest = detectable(items, check.confidence)
        if smallest > PLAUSIBLE:
            message = (
                f"on {items} items this check finds a difference of {100 * smallest:.0f} points or "
                f"more; it will be inconclusive about a smaller one"
            )
            hint = (
                f"about {needed(check.confidence)} items find {100 * PLAUSIBLE:.0f} points (80 % "
                "power, the models differing on 10 % of the items)"
            )
            yield Finding("G237", message, check.span, hint=hint)


def _items(check: Check, stages: dict[str, Stage], count: Count) -> int | None:
    """The items that both reports of a paired check have."""
    sides = [stages[arg["stage"]] for arg in check.test.get("args", ()) if arg["op"] == "metric"]
    known = [_evaluated(stage, stages, count) for stage in sides]
    return min((number for number in known if number is not None), default=None)


def _evaluated(stage: Stage, stages: dict[str, Stage], count: Count) -> int | None:
    edge = next(edge for edge in stage.inputs if edge.port == "prompts")
    limit: int | None = stage.settings["prompts"]
    there = _view(edge, stages[edge.source], count)
    known = [number for number in (limit, there) if number is not None]
    return min(known, default=None)


def _view(edge: Edge, data: Stage, count: Count) -> int | None:
    rows = count(data)
    if rows is None or edge.view is None:
        return rows
    train: int = round(rows * data.settings["split"])
    return train if edge.view == "train" else rows - train


def stated(data: Stage) -> int | None:
    """The rows that a file tells without being read: those of generated data."""
    return int(data.settings["size"]) if data.verb == "environment" else None


def counted(project: Path) -> Count:
    """Counts the rows of data files, for a plan."""

    def count(data: Stage) -> int | None:
        if data.verb not in ("jsonl", "csv"):
            return stated(data)
        with (project / data.settings["path"]).open(encoding="utf-8", errors="replace") as file:
            rows = sum(1 for line in file if line.strip()) if data.verb == "jsonl" else _rows(file)
        limit = data.settings["limit"]
        return rows if limit is None else min(rows, limit)

    return count


def _rows(file: TextIO) -> int:
    import csv

    return max(0, sum(1 for row in csv.reader(file) if row) - 1)
