"""`keep(rollouts) { where = … }`: some of the completions, by an expression, rank or spread."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from grape.compiler.types import ArtifactType
from grape.compiler.verb import Port, Settings, Verb


class KeepSettings(Settings):
    """`where` is no constant and is checked as a formula; the others follow it in this order."""

    top: Annotated[int, Field(ge=1)] | None = None
    """Of each prompt, so many completions with the best rewards."""
    prompts: Annotated[int, Field(ge=1)] | None = None
    """Prompts to be left, no more and no fewer: others are sampled and scored until they are."""
    max_tries: Annotated[int, Field(ge=1)] = 10
    """With `prompts`: times that the sampler may draw before the run stops."""
    replay: Annotated[int, Field(ge=1)] | None = None
    """What was kept in so many rounds before is left too, with the log-probs it was drawn with."""
    count: Annotated[int, Field(ge=1)] | None = None
    """Completions left in all: those whose standardised rewards vary most."""


def _type(inputs: Mapping[str, ArtifactType], settings: Mapping[str, Any]) -> ArtifactType:
    return inputs["rollouts"]


VERB = Verb(
    "keep",
    "stage",
    KeepSettings,
    _type,
    "1",
    ports=(Port("rollouts", "Rollouts"),),
    special=frozenset({"where"}),
)
