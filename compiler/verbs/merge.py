"""`merge(a, b)`: one model whose weights lie between those of others."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from grape.compiler.verb import Port, Settings, Verb, makes


class MergeSettings(Settings):
    weights: Annotated[list[float], Field(min_length=2)] | None = None
    """The share of each model, in their order, summing to 1; none: equal shares."""
    method: Literal["linear", "slerp"] = "linear"
    """`linear` averages the weights; `slerp` goes along the arc between two models."""


VERB = Verb(
    "merge",
    "stage",
    MergeSettings,
    makes("Model"),
    "1",
    ports=(
        Port("first", "Model"),
        Port("second", "Model"),
        Port("third", "Model", optional=True),
        Port("fourth", "Model", optional=True),
    ),
)
