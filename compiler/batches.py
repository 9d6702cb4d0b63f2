"""The arithmetic of batches: prompts × group = completions, cut into updates of whole groups."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from grape.compiler.plan import Plan, PlannedStage


@dataclass(frozen=True, slots=True)
class Batches:
    """One training on rollouts. `held` are the sequences of a full update, `last` those of the
    last one of a pass."""

    name: str
    prompts: int
    group: int
    wanted: int | None
    """`sequences_per_update` as the file gives it."""
    updates: int
    """Updates of a round."""
    rounds: int

    @property
    def completions(self) -> int:
        return self.prompts * self.group

    @property
    def held(self) -> int:
        size = self.wanted or self.completions
        return min(self.completions, max(self.group, size // self.group * self.group))

    @property
    def last(self) -> int:
        return self.completions % self.held or self.held


def batches(plan: Plan) -> Iterator[Batches]:
    """Of every training whose number of rollouts follows from the settings."""
    yield from _of(plan.stages, 1, "")
    for stage in plan.stages:
        if stage.verb == "repeat":
            yield from _of(stage.body, stage.settings["rounds"], f"{stage.name}.")


def _of(stages: tuple[PlannedStage, ...], rounds: int, region: str) -> Iterator[Batches]:
    known = {stage.name: stage for stage in stages}
    for stage in stages:
        source = stage.inputs.get("data")
        if stage.verb != "train" or source is None or source.stage not in known:
            continue
        made = known[source.stage].estimate
        if "completions" not in made or not made.get("prompts"):
            continue
        group = made["completions"] // made["prompts"]
        wanted = stage.settings["sequences_per_update"]
        whole = max(1, (wanted or made["completions"]) // group)
        updates = stage.estimate.get("updates", math.ceil(made["prompts"] / whole))
        yield Batches(f"{region}{stage.name}", made["prompts"], group, wanted, updates, rounds)
