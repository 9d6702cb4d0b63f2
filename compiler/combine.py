"""The values of `combine`, a setting of `score`: how a rubric's items become one reward.

`docs/rubrics.md` has the formulas. The computing is in `runtime.rubric`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from grape.compiler.verb import Settings


class _Shared(Settings):
    normalize: Literal["sum", "none"] = "sum"
    """`sum`: the weighted mean of the scores; `none`: their weighted sum."""
    uncertain: Literal["weights", "drop", "stop"] = "weights"
    """Where every confidence is 0: the written weights alone, no such completion, or no run."""


class Confidence(_Shared):
    """GRAPE: an item weighs its written weight times the critic's average confidence on it."""

    kind: Literal["confidence"] = "confidence"
    """Which rule."""
    scope: Literal["group", "batch", "running"] = "group"
    """What the average is over: the completions of a prompt, all of the stage that are of the
    category, or those of all rounds so far, older ones counting less and less."""
    decay: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """`running`: what a round's average keeps of its weight in the next."""


class RowConfidence(_Shared):
    """Each completion's own confidences instead of their average: not GRAPE."""

    kind: Literal["row_confidence"] = "row_confidence"
    """Which rule."""


class Weights(_Shared):
    """The written weights alone; confidences are kept and not used."""

    kind: Literal["weights"] = "weights"
    """Which rule."""


Combine = Confidence | RowConfidence | Weights
