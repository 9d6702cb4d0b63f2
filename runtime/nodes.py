"""What the nodes of trees are worth, from the rewards of the completions that go through them.

In come scored leaves with their paths, out come the same with one number for each step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from grape.runtime.artifacts import Completion


def node_values(rows: Sequence[Completion]) -> list[Completion]:
    """Scored leaves with, for each step, the mean reward of the leaves below it (`node_value`),
    that of the step before (`parent_value`; of the first step, the mean of the prompt's leaves) and
    how many there are (`leaves`)."""
    below: dict[tuple[int, int], list[float]] = {}
    prompts: dict[int, list[float]] = {}
    for row in rows:
        assert row.reward is not None
        prompts.setdefault(row.group, []).append(row.reward)
        for node, _ in row.path:
            below.setdefault((row.group, node), []).append(row.reward)
    made = []
    for row in rows:
        nodes = [below[row.group, node] for node, _ in row.path]
        values = [fmean(rewards) for rewards in nodes]
        steps = {
            "node_value": values,
            "parent_value": [fmean(prompts[row.group]), *values][: len(values)],
            "leaves": [float(len(rewards)) for rewards in nodes],
        }
        made.append(replace(row, steps={**row.steps, **steps}))
    return made
