"""`repeat K with N = M { staleness = 1, … }`: what can be set of the rounds themselves."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from grape.compiler.verb import Settings


class RepeatSettings(Settings):
    staleness: Annotated[int, Field(ge=0, le=1)] = 0
    """Rounds by which the weights that draw completions lag behind: 1 draws those of the next round
    while this one trains, with a second copy of the weights."""
