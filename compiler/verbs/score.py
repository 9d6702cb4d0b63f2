"""`score(rollouts, reward)`: one number for each completion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import Field

from grape.compiler.combine import Combine
from grape.compiler.types import ArtifactType
from grape.compiler.verb import Duration, Port, Settings, Verb


class ScoreSettings(Settings):
    on_error: Literal["stop"] | float = "stop"
    """What a completion gets when its reward fails: a number, or the run stops and shows it."""
    timeout: Annotated[Duration, Field(gt=0)] = 10.0
    """Longest time for one completion."""
    retries: Annotated[int, Field(ge=0)] = 0
    """Times that a failing reward is asked again before `on_error` holds."""
    calls_per_minute: Annotated[int, Field(ge=1)] | None = None
    """Most completions that are scored in a minute; none: as fast as it goes."""
    workers: Annotated[int, Field(ge=0)] = 1
    """In a repeat: processes that score finished completions while the others are still being
    drawn, where a reward takes time. 0, or where several `processes` sample: when all are drawn."""
    cluster: Literal["text", "number", "last_line"] | None = None
    """Completions of a prompt that agree in this part of their text are a `cluster`."""
    combine: Combine | None = None
    """How a rubric's items become one number; none: `confidence()` for a rubric."""


def _type(inputs: Mapping[str, ArtifactType], settings: Mapping[str, Any]) -> ArtifactType:
    made = inputs["rollouts"]
    adds = made.adds | {"cluster"} if settings["cluster"] else made.adds
    return replace(made, scored=True, adds=adds)


VERB = Verb(
    "score",
    "stage",
    ScoreSettings,
    _type,
    "1",
    ports=(Port("rollouts", "Rollouts"),),
    reward=True,
)
