"""What a verb gets beside its inputs: its stage, its folder, its clock, and a way to be heard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grape.compiler.plan import PlannedStage
from grape.runtime.artifacts import Completion, Rollouts

if TYPE_CHECKING:
    from grape.runtime.rewards.overlap import Overlap

Finished = Callable[[Sequence[Completion], Mapping[str, Any] | None, object], None]
"""Hears of finished completions: the group, the tasks' environment, and which turn drew it."""
Emit = Callable[[dict[str, Any]], None]


def answers_of(work: Path) -> Path:
    """Where remembered answers of critics lie: beside the stages' work, in the store."""
    return work.parents[1] / "answers"


def file_name(stage: str) -> str:
    """A stage's name as that of a file: all but `/`, and the `%` that stands for it, stays."""
    return stage.replace("%", "%25").replace("/", "%2F")


@dataclass(slots=True)
class Context:
    """The surroundings of one execution of one stage.

    Events are JSON objects with an `event` field: `progress` (`stage`, `done`, `total`, `unit`,
    optional `rate`, `text`), `metrics` (`stage`, `round`, `update`, `seconds`, `tokens`, and
    every logged value), `note` (`text`). Metrics become lines of the run's `metrics.jsonl`.
    """

    stage: PlannedStage
    project: Path
    """Folder that relative paths in the pipeline start from."""
    work: Path
    """A scratch folder of this execution; checkpoints go to `work / "checkpoint"`."""
    emit: Emit
    round: int = 0
    """Round of the enclosing repeat, from 0; 0 outside."""
    rounds: int = 1
    state: dict[str, Any] = field(default_factory=dict)
    """What the stage keeps from round to round (an optimizer, a cursor). Empty at first."""
    attempt: int = 0
    """How often this round has sampled before, for a selection that is not full yet."""
    finished: Finished | None = None
    """In a repeat, for a sampler whose completions are scored while it goes on."""
    apart: Overlap | None = None
    """For what scores them: what was found while they were drawn."""
    drawn: int | None = None
    """In a repeat with `staleness`: updates of the model that drew the completions of this round;
    none where the model as it is drew them."""
    more: Callable[[int], Rollouts] | None = None
    """In a repeat, for a selection: what attempt number 1, 2, … brings to its input."""
