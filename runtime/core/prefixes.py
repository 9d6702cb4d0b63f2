"""Completions that go on from nodes of sampled trees: the sampler of staged prefixes (Tree-OPO).

In: a policy and the scored leaves of trees, which another model may have grown. Out: rollouts
whose prompts end with the tokens of a node, one group for each prompt; each row knows what its
node is worth, `prefix_value`. It scores nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from grape.runtime.artifacts import Completion, Place, Rollouts
from grape.runtime.core.models import Policy
from grape.runtime.core.rollout import generate_for
from grape.runtime.core.rows import Begun
from grape.runtime.errors import StageError

_VALUES: dict[str, Callable[[Sequence[float]], float]] = {"mean": fmean, "max": max, "min": min}


def resumed(
    policy: Policy,
    rollouts: Rollouts,
    groups: Sequence[list[Completion]],
    sampler: Mapping[str, Any],
    how: dict[str, Any],
) -> Rollouts:
    """`width` completions of `count` nodes of each group, all different while there are enough.
    `how` are the arguments of `generate_for`; `max_tokens` counts the node's tokens too. Raises
    StageError where no node leaves room for a token."""
    items: list[Place] = []
    begun: list[Begun] = []
    belongs: list[tuple[int, float]] = []
    for number, leaves in enumerate(groups):
        nodes = _nodes(leaves, _VALUES[sampler["value"]], how["max_tokens"])
        if not nodes:
            raise StageError(f"no node of item {leaves[0].item} leaves room within `max_tokens`")
        key = f"{how['seed']}/{how['round']}/{leaves[0].item}/{number}"
        random.Random(key).shuffle(nodes)
        for place in range(sampler["count"]):
            row, at, worth = nodes[place % len(nodes)]
            name = f"{row.item}#{number}/node/{place}"
            items.append(
                Place(
                    row.item, row.prompt, answer=row.answer, columns=row.columns, ids=row.prompt_ids
                )
            )
            begun.append(Begun(name, row.ids[:at], row.logps[:at]))
            belongs.append((number, worth))
    made = generate_for(policy, items, **{**how, "group": sampler["width"]}, begun=begun)
    rows = []
    for row in made.rows:
        number, worth = belongs[row.group]
        at = len(begun[row.group].ids)
        rows.append(
            replace(
                row,
                group=number,
                prompt_ids=row.prompt_ids + row.ids[:at],
                ids=row.ids[at:],
                logps=row.logps[at:],
                added={"prefix_value": worth},
            )
        )
    size = sampler["count"] * sampler["width"]
    sampling = {**made.sampling, "group": size, "sampler": dict(sampler)}
    return replace(made, rows=rows, sampling=sampling, environment=rollouts.environment)


def _nodes(
    leaves: Sequence[Completion], value: Callable[[Sequence[float]], float], most: int
) -> list[tuple[Completion, int, float]]:
    """The inner nodes of a prompt's trees that leave room, the prompt first: a leaf through each,
    the tokens up to its end, and what it is worth."""
    below: dict[int, list[float]] = {}
    ends: dict[int, tuple[Completion, int]] = {}
    for leaf in leaves:
        at = 0
        for node, size in leaf.path:
            at += size
            assert leaf.reward is not None
            below.setdefault(node, []).append(leaf.reward)
            if at < len(leaf.ids):
                ends.setdefault(node, (leaf, at))
    every = [leaf.reward for leaf in leaves if leaf.reward is not None]
    found = [(leaves[0], 0, value(every))]
    found += [(leaf, at, value(below[node])) for node, (leaf, at) in ends.items()]
    return [one for one in found if one[1] < most]
