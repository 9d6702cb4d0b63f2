"""`pair(scored)`: better and worse completions of the same prompt."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from grape.compiler.verb import Port, Settings, Verb, makes


class PairSettings(Settings):
    by: Literal["extremes", "all"] = "extremes"
    """`extremes`: the best against the worst of a group; `all`: every two that differ."""
    margin: Annotated[float, Field(ge=0)] = 0.0
    """Pairs whose rewards differ by no more than this are left out."""


VERB = Verb(
    "pair",
    "stage",
    PairSettings,
    makes("Preferences"),
    "1",
    ports=(Port("rollouts", "scored Rollouts"),),
)
