"""A reward model's numbers: its score head over prompt and completion of every rollout."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from grape.runtime.artifacts import Completion, Rollouts
from grape.runtime.core.models import Policy
from grape.runtime.core.packing import Example
from grape.runtime.core.step import Cutting, values_of
from grape.runtime.core.text import completion_ids, encode_prompt
from grape.runtime.errors import StageError


def judged(judge: Policy, rollouts: Rollouts) -> Rollouts:
    """New rows that carry the judge's score as their reward; raises as `scores_of`."""
    rows = [
        replace(row, reward=score, parts={})
        for row, score in zip(rollouts.rows, scores_of(judge, rollouts.rows), strict=True)
    ]
    return replace(rollouts, rows=rows)


def scores_of(judge: Policy, rows: Sequence[Completion]) -> list[float]:
    """The judge's score of every completion.

    Raises StageError for a model without a score head, a completion longer than it reads and a
    score that is no number."""
    if "score" not in judge.heads:
        raise StageError(
            "the judge has no score head",
            hint="a copied or merged model loses its heads; train it with `reward_model` again",
        )
    if not rows:
        return []
    examples = [_example(judge, row) for row in rows]
    for row, example in zip(rows, examples, strict=True):
        size = len(example.prompt) + len(example.completion)
        if size > judge.context_length:
            raise StageError(
                f"a completion has {size} tokens for the judge, which reads "
                f"{judge.context_length}: {row.text[:60]!r}"
            )
    scores: list[float] = values_of(judge, examples, Cutting(), ("score",))["score"].tolist()
    if not all(map(math.isfinite, scores)):
        raise StageError("the judge gives a completion no finite score")
    return scores


def _example(judge: Policy, row: Completion) -> Example:
    """A rollout in the judge's own tokens, as its preferences were read."""
    prompt = encode_prompt(judge.tokenizer, row.prompt)
    ids = completion_ids(judge.tokenizer, row.text)
    return Example(tuple(prompt), tuple(ids), row.group)
