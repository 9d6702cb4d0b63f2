"""What earlier runs measured: time and peak memory of stages, for the next plan."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grape.compiler import graph as typed
from grape.compiler.estimates.records import Estimate
from grape.runtime.runs import past_runs

ALIKE = 30
"""How many times more or less work may be told from a measurement."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A stage of an earlier run: what was estimated of it, and what it came to."""

    pipeline: str
    stage: str
    verb: str
    device: str
    flops: float
    seconds: float
    peak_bytes: int | None


class History:
    """The stages that were really made, newest first."""

    def __init__(self, root: Path, pipeline: str, device: str) -> None:
        found = [row for row in _measured(root) if row.device == device]
        self.last = {row.stage: row for row in reversed(found) if row.pipeline == pipeline}
        self.worked = [row for row in found if row.flops > 0]
        self.start = min((row.seconds for row in self.worked), default=0.0)

    def of(self, stage: typed.Stage, estimate: Estimate) -> dict[str, Any]:
        """`seconds` to expect, from the stage of the same verb whose work is most alike, and what
        was `measured` when a stage of this name was made last."""
        found: dict[str, Any] = {}
        seconds = self._seconds(stage.verb, estimate.work.flops.expected)
        if seconds is not None:
            found["seconds"] = round(seconds, 1)
        last = self.last.get(stage.name)
        if last is not None and last.verb == stage.verb:
            found["measured"] = {"seconds": last.seconds, "peak_bytes": last.peak_bytes}
        return found

    def _seconds(self, verb: str, flops: float) -> float | None:
        """Starting takes as long as ever; the rest grows with the work. Work of another order of
        magnitude tells nothing: a small model is slow for reasons that a large one has not."""
        alike = [
            row
            for row in self.worked
            if row.verb == verb and flops / ALIKE <= row.flops <= flops * ALIKE
        ]
        if not alike or flops <= 0:
            return None
        nearest = min(alike, key=lambda row: abs(math.log(row.flops / flops)))
        return self.start + (nearest.seconds - self.start) * flops / nearest.flops


def _measured(root: Path) -> Iterator[Measured]:
    for record, plan in past_runs(root):
        for stage in plan.stages:
            row = record.get("stages", {}).get(stage.name, {})
            if row.get("state") == "completed" and "made_in_seconds" in row and not stage.done:
                yield Measured(
                    record["pipeline"],
                    stage.name,
                    stage.verb,
                    str(plan.device.get("kind")),
                    float(stage.estimate.get("flops", {}).get("expected", 0)),
                    float(row["made_in_seconds"]),
                    row.get("peak_bytes"),
                )
