"""Completions that branch off each other: the tree sampler.

In: a policy, items, and how often a tree branches. Out: rollouts whose rows are the leaves, each
with its path of nodes; tokens of a shared node are the same ids with the same log-probs. It knows
no rewards: what nodes are worth is `runtime.nodes`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from grape.runtime.artifacts import Completion, Item, Rollouts
from grape.runtime.core.models import Policy
from grape.runtime.core.rollout import generate_for
from grape.runtime.core.rows import Begun, names_of


@dataclass(slots=True)
class Leaf:
    """A completion; with a parent, its tokens before `at` are the parent's."""

    row: Completion
    tree: int
    parent: int | None = None
    at: int = 0


Point = tuple[int, int]
"""A leaf's number in its prompt, and the place of the token that is drawn anew."""


def grow(
    policy: Policy, items: Sequence[Item], sampler: dict[str, Any], how: dict[str, Any]
) -> Rollouts:
    """`roots` trees of each item; in each of `rounds`, `width` completions branch off at `expand`
    tokens of every tree. `how` are the arguments of `generate_for`; rows of a prompt lie together,
    in the order in which they were drawn."""
    roots, names = sampler["roots"], names_of(items)
    first = generate_for(policy, items, **{**how, "group": roots})
    forest: list[list[Leaf]] = [[] for _ in items]
    for number, row in enumerate(first.rows):
        forest[row.group].append(Leaf(row, number % roots))
    for turn in range(sampler["rounds"]):
        found: list[tuple[int, Point]] = []
        begun: list[Begun] = []
        for item, leaves in enumerate(forest):
            for tree in range(roots):
                key = f"{names[item]}/{tree}/{turn}"
                places = points(leaves, tree, sampler, f"{how['seed']}/{how['round']}/{key}")
                for place, (leaf, at) in enumerate(places):
                    row = leaves[leaf].row
                    begun.append(Begun(f"{key}/{place}", row.ids[:at], row.logps[:at]))
                    found.append((item, (leaf, at)))
        more = generate_for(
            policy,
            [items[item] for item, _ in found],
            **{**how, "group": sampler["width"]},
            begun=begun,
        )
        for row in more.rows:
            item, (leaf, at) = found[row.group]
            tree = forest[item][leaf].tree
            forest[item].append(Leaf(replace(row, group=item), tree, leaf, at))
    rows = [row for leaves in forest for row in _with_paths(leaves)]
    group = len(forest[0]) if forest else 0
    return replace(
        first, rows=rows, sampling={**first.sampling, "group": group, "sampler": sampler}
    )


def points(leaves: Sequence[Leaf], tree: int, sampler: dict[str, Any], key: str) -> list[Point]:
    """Where a tree branches next: tokens that were drawn in it, neither the first nor the last of a
    completion, and no place twice, as long as there are others."""
    used = {(leaf.parent, leaf.at) for leaf in leaves if leaf.parent is not None}
    own = [
        (number, at)
        for number, leaf in enumerate(leaves)
        if leaf.tree == tree
        for at in range(leaf.at + (leaf.parent is not None), len(leaf.row.ids))
    ]
    inner = [(n, at) for n, at in own if 0 < at < len(leaves[n].row.ids) - 1]
    free = [point for point in inner if point not in used]
    found = free or inner or own
    if sampler["branch"] == "random":
        random.Random(key).shuffle(found)
    else:
        found.sort(key=lambda point: (leaves[point[0]].row.logps[point[1]], point))
    return [found[number % len(found)] for number in range(sampler["expand"])]


def _with_paths(leaves: Sequence[Leaf]) -> list[Completion]:
    """The leaves of a prompt with their trees and nodes; a node ends where others branch off."""
    cuts: list[set[int]] = [{leaf.at} for leaf in leaves]
    for leaf in leaves:
        if leaf.parent is not None:
            cuts[leaf.parent].add(leaf.at)
    numbers: dict[Point, int] = {}

    def path(number: int, end: int) -> list[list[int]]:
        leaf = leaves[number]
        before = path(leaf.parent, leaf.at) if leaf.parent is not None else []
        starts = [cut for cut in sorted(cuts[number]) if cut < end]
        if not starts:
            return before
        ends = [*starts[1:], end]
        return before + [
            [numbers.setdefault((number, start), len(numbers)), stop - start]
            for start, stop in zip(starts, ends, strict=True)
        ]

    return [
        replace(leaf.row, added={"tree": float(leaf.tree)}, path=path(number, len(leaf.row.ids)))
        for number, leaf in enumerate(leaves)
    ]
