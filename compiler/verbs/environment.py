"""`environment("reasoning_gym:NAME", option = …)`: generated tasks with their own verifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from grape.compiler.sources import Split
from grape.compiler.types import ArtifactType
from grape.compiler.verb import Settings, Verb


class EnvironmentSettings(Settings):
    name: Annotated[
        str, Field(pattern=r"^reasoning_gym:[a-z0-9_]+$", examples=["reasoning_gym:chain_sum"])
    ]
    """Which tasks: `reasoning_gym:NAME`."""
    options: dict[str, Any] = Field(default={})
    """Options of the task, as the environment documents them."""
    size: Annotated[int, Field(ge=1)] = 500
    """Number of items generated."""
    prompt: str = "{question}"
    """Template of what the model is given."""
    answer: str = "{answer}"
    """Template of the reference answer."""
    completion: str | None = None
    """Template of what the model should answer, for imitation."""
    split: Split | None = None
    """Share of the items in `.train`; the rest is `.test`. none: not split."""
    seed: int = 0
    """Of the generated items and of the split."""


def _type(inputs: Mapping[str, ArtifactType], settings: Mapping[str, Any]) -> ArtifactType:
    columns = {"prompt", "answer", "environment"}
    if settings["completion"] is not None:
        columns.add("completion")
    return ArtifactType("Data", columns=frozenset(columns), split=settings["split"] is not None)


VERB = Verb(
    "environment", "data", EnvironmentSettings, _type, "1", literals=("name",), options=True
)
