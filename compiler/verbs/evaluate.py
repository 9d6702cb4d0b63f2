"""`evaluate(model, prompts, reward)`: a report of rewards on held-out prompts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from grape.compiler.combine import Combine
from grape.compiler.tools import Turns
from grape.compiler.verb import Duration, Port, Settings, Size, Verb, makes


class EvaluateSettings(Settings):
    group: Annotated[int, Field(ge=1)] = 1
    """Completions of each prompt."""
    temperature: Annotated[float, Field(ge=0)] = 0.0
    """0 takes the likeliest token."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Sample from the likeliest tokens that hold this share of the probability."""
    max_tokens: Annotated[int, Field(ge=1)] = 128
    """Longest completion in tokens."""
    stop: list[str] = Field(default=[])
    """Texts that end a completion."""
    sampler: Turns | None = None
    """Tools that the model may call on the way to its answer; none: one turn."""
    rows: Annotated[int, Field(ge=1)] = 64
    """Completions decoded side by side; changes time and memory only."""
    compact: bool = True
    """Finished completions make room for the next prompts at once; off only to compare."""
    own_layers: bool = True
    """Run layers of known families as Grape writes them; off only to compare."""
    pack_weights: Annotated[Size, Field(ge=0)] = 4 << 30
    """Most memory for a copy of weights, layer by layer, in the order in which a processor reads
    them while decoding; 0: none is made."""
    processes: Annotated[int, Field(ge=1)] = 1
    """Processes that share the prompts, each with the whole model; changes time and memory only."""
    prompts: Annotated[int, Field(ge=1)] | None = None
    """Use only the first so many prompts; none: all."""
    seed: int = 0
    """Of every token, where the temperature is above 0."""
    on_error: Literal["stop"] | float = "stop"
    """What a completion gets when its reward fails: a number, or the run stops and shows it."""
    timeout: Annotated[Duration, Field(gt=0)] = 10.0
    """Longest time for the reward of one completion."""
    retries: Annotated[int, Field(ge=0)] = 0
    """Times that a failing reward is asked again before `on_error` holds."""
    calls_per_minute: Annotated[int, Field(ge=1)] | None = None
    """Most completions that are scored in a minute; none: as fast as it goes."""
    combine: Combine | None = None
    """How a rubric's items become one number; none: `confidence()` for a rubric."""


VERB = Verb(
    "evaluate",
    "stage",
    EvaluateSettings,
    makes("Report"),
    "1",
    ports=(Port("model", "Model", served=True), Port("prompts", "Prompts")),
    reward=True,
)
