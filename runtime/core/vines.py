"""Continuations of states: the vine sampler.

In: a policy, items, and how many states of how many rollouts are gone on from. Out: rollouts whose
groups are the continuations of one state: what was drawn before it is part of the prompt, and a
step is a token. The rollouts that the states come from are not among them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from grape.runtime.artifacts import Completion, Item, Rollouts
from grape.runtime.core.models import Policy
from grape.runtime.core.rollout import generate_for
from grape.runtime.core.rows import Begun, names_of
from grape.runtime.core.trees import Leaf, points


def continued(
    policy: Policy, items: Sequence[Item], sampler: dict[str, Any], how: dict[str, Any]
) -> Rollouts:
    """`width` continuations of `states` places in each of `roots` rollouts of every item, in sets
    of `set_size`. `how` are the arguments of `generate_for`."""
    roots, names = sampler["roots"], names_of(items)
    first = generate_for(policy, items, **{**how, "group": roots})
    found: list[tuple[int, int]] = []
    begun: list[Begun] = []
    for number, row in enumerate(first.rows):
        key = f"{names[row.group]}/vine/{number % roots}"
        places = points(
            [Leaf(row, 0)],
            0,
            {"expand": sampler["states"], "branch": sampler["branch"]},
            f"{how['seed']}/{how['round']}/{key}",
        )
        for place, (_, at) in enumerate(places):
            begun.append(Begun(f"{key}/{place}", row.ids[:at], row.logps[:at]))
            found.append((row.group, at))
    width = sampler["width"]
    rooted = [items[item] for item, _ in found]
    made = generate_for(policy, rooted, **{**how, "group": width}, begun=begun).rows
    rows = [
        _from(row, found[row.group][1], place % width // sampler["set_size"])
        for place, row in enumerate(made)
    ]
    size = sampler["set_size"]
    rows = [
        replace(row, added={**row.added, "diversity": len({o.text for o in members}) / size})
        for members in (rows[start : start + size] for start in range(0, len(rows), size))
        for row in members
    ]
    sampling = {**first.sampling, "group": width, "sampler": sampler}
    return replace(first, rows=rows, sampling=sampling)


def _from(row: Completion, at: int, number: int) -> Completion:
    """A completion as the continuation of its first `at` tokens, in set `number` of its group."""
    ids = row.ids[at:]
    return replace(
        row,
        prompt_ids=row.prompt_ids + row.ids[:at],
        ids=ids,
        logps=row.logps[at:],
        added={"set": float(number)},
        path=[[place, 1] for place in range(len(ids))],
    )
