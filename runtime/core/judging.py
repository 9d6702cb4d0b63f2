"""A reward model's numbers: its score head over prompt and completion of every rollout."""

from __future__ import annotations

import math
from dataclasses import replace

from grape.runtime.artifacts import Completion, Rollouts
from grape.runtime.core.models import Policy
from grape.runtime.core.packing import Example
from grape.runtime.core.step import Cutting, values_of
from grape.runtime.core.text import completion_ids, encode_prompt
from grape.runtime.errors import StageError


def judged(judge: Policy, rollouts: Rollouts) -> Rollouts:
    """New rows that carry the judge's score as their reward.

    Raises StageError for a model without a score head, a completion longer than it reads and a
    score that is no number."""
    if "score" not in judge.heads:
        raise StageError(
            "the judge has no score head",
            hint="a copied or merged model loses its heads; train it with `reward_model` again",
        )
    if not rollouts.rows:
        return rollouts
    examples = [_example(judge, row) for row in rollouts.rows]
    for row, example in zip(rollouts.rows, examples, strict=True):
        size = len(example.prompt) + len(example.completion)
        if size > judge.context_length:
            raise StageError(
                f"a completion has {size} tokens for the judge, which reads "
                f"{judge.context_length}: {row.text[:60]!r}"
            )
    scores = values_of(judge, examples, Cutting(), ("score",))["score"].tolist()
    if not all(map(math.isfinite, scores)):
        raise StageError("the judge gives a completion no finite score")
    rows = [
        replace(row, reward=score, parts={})
        for row, score in zip(rollouts.rows, scores, strict=True)
    ]
    return replace(rollouts, rows=rows)


def _example(judge: Policy, row: Completion) -> Example:
    """A rollout in the judge's own tokens, as its preferences were read."""
    prompt = encode_prompt(judge.tokenizer, row.prompt)
    ids = completion_ids(judge.tokenizer, row.text)
    return Example(tuple(prompt), tuple(ids), row.group)
