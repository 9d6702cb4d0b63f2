"""Work of a stage: tokens through the model and floating-point operations, by closed form.

A forward pass of a token costs two operations per parameter of the layers and, per layer,
4 · width operations per token that it attends to; a scored position costs two per entry of the
output head. A backward pass costs twice a forward pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grape.compiler.estimates.facts import ModelFacts
from grape.compiler.estimates.ranges import ZERO, Range


@dataclass(frozen=True, slots=True)
class Sequences:
    """What a stage makes or learns from: `groups` of `group` sequences that share a prompt."""

    groups: float
    group: float
    prompt: Range
    completion: Range
    shared: bool
    """Whether the prompt of a group runs once."""

    @property
    def count(self) -> float:
        return self.groups * self.group

    @property
    def prompt_tokens(self) -> Range:
        return self.prompt * (self.groups if self.shared else self.count)

    @property
    def completion_tokens(self) -> Range:
        return self.completion * self.count

    @property
    def tokens(self) -> Range:
        """Input tokens of one pass over all of them."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True)
class Work:
    """Tokens that go through a model, and floating-point operations."""

    tokens: Range = ZERO
    flops: Range = ZERO

    def __add__(self, other: Work) -> Work:
        return Work(self.tokens + other.tokens, self.flops + other.flops)

    def __mul__(self, by: float) -> Work:
        return Work(self.tokens * by, self.flops * by)


def forward(facts: ModelFacts, made: Sequences) -> Range:
    """Operations of one forward pass over sequences, the head on the completions."""
    matrices = made.tokens * (2 * facts.matrix_parameters)
    wide = 4 * facts.layers * facts.heads * facts.head_dim
    seen = made.prompt + made.completion
    attention = Range(
        made.tokens.low * seen.low,
        made.tokens.expected * seen.expected,
        made.tokens.high * seen.high,
    ) * (wide / 2)
    head = made.completion_tokens * (2 * facts.vocab * facts.hidden)
    return matrices + attention + head


def training(
    facts: ModelFacts,
    made: Sequences,
    settings: Mapping[str, Any],
    passes: float,
    extra: int,
    *,
    twice: bool = False,
) -> Work:
    """Forward and backward over `made`, `passes` times, and `extra` forward passes once. With
    `twice` the head runs once more: its gradient has to wait for the log-probs."""
    once = forward(facts, made)
    factor = 2.0 if settings["adapter"] else 3.0
    flops = once * (factor * passes + extra)
    if twice:
        flops = flops + made.completion_tokens * (2 * facts.vocab * facts.hidden * passes)
    return Work(made.tokens * (passes + extra), flops)


def sampling(facts: ModelFacts, made: Sequences) -> Work:
    """One pass over the prompts and one token after the other for every completion."""
    return Work(made.tokens, forward(facts, made))
