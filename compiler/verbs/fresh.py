"""`fresh("llama"[, data])`: a new model from a configuration, with random weights."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from grape.compiler.verb import Port, Settings, Verb, makes

Count = Annotated[int, Field(ge=1)]


class FreshSettings(Settings):
    architecture: Literal["llama", "qwen2", "gpt2"]
    """The model family."""
    layers: Count = 2
    """Transformer blocks."""
    hidden: Count = 64
    """Width of the residual stream; a multiple of `heads`."""
    heads: Count = 4
    """Attention heads."""
    kv_heads: Count | None = None
    """Key and value heads; none: as many as `heads`."""
    intermediate: Count | None = None
    """Width of the feed-forward layer; none: four times `hidden`."""
    vocab: Annotated[int, Field(ge=8)] = 512
    """Largest number of tokens of the tokenizer."""
    context: Annotated[int, Field(ge=8)] = 512
    """Longest sequence in tokens."""
    tokenizer: str = "trained"
    """`trained` on the data input, `bytes`, or a folder with a tokenizer."""
    seed: int = 0
    """Of the initial weights."""


VERB = Verb(
    "fresh",
    "model",
    FreshSettings,
    makes("Model"),
    "1",
    ports=(Port("data", "Text", optional=True),),
    literals=("architecture",),
)
