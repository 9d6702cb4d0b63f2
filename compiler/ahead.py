"""Which stages of a repeat with `staleness = 1` run while the round before them still trains.

They are those that need nothing which training makes: the samplers, and what scores and selects
their completions. The same for a typed graph and for a plan.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grape.compiler.graph import Stage
    from grape.compiler.plan import PlannedStage

_VERBS = frozenset({"sample", "score", "keep", "best", "pair"})


@dataclass(frozen=True, slots=True)
class Inner:
    """What decides about one stage of a body; `sources` are the names of its inputs."""

    name: str
    verb: str
    every: int | None
    sources: frozenset[str]


def inner_of(stage: Stage) -> Inner:
    sources = frozenset(edge.source for edge in stage.inputs)
    return Inner(stage.name, stage.verb, stage.every, sources)


def planned_inner(stage: PlannedStage) -> Inner:
    sources = frozenset(ref.stage for ref in stage.inputs.values())
    return Inner(stage.name, stage.verb, stage.every, sources)


def ahead_of(body: Iterable[Inner]) -> list[str]:
    """Their names, in the order of the body, in which inputs come first."""
    stages = list(body)
    names = {stage.name for stage in stages}
    found: list[str] = []
    for stage in stages:
        inside = stage.sources & names
        if stage.verb in _VERBS and stage.every is None and inside <= set(found):
            found.append(stage.name)
    return found
