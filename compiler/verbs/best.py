"""`best(scored)`: the best completions of each prompt, to be imitated (rejection sampling)."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from grape.compiler.verb import Port, Settings, Verb, makes


class BestSettings(Settings):
    top: Annotated[int, Field(ge=1)] = 1
    """Completions kept of each prompt."""
    threshold: float | None = None
    """Keep only completions with at least this reward; none: any."""


VERB = Verb(
    "best",
    "stage",
    BestSettings,
    makes("Demos"),
    "1",
    ports=(Port("rollouts", "scored Rollouts"),),
)
