"""`pair`: better and worse completions of the same prompt become preferences."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from typing import Any

from grape.runtime.artifacts import Completion, Preference, Preferences, Rollouts
from grape.runtime.context import Context
from grape.runtime.verbs.selection import by_group, none_left, reward_of

Pairs = list[tuple[Completion, Completion]]


def extremes(group: list[Completion]) -> Pairs:
    """The best completion against the worst; the earlier ones on a tie."""
    return [(max(group, key=reward_of), min(group, key=reward_of))]


def all_pairs(group: list[Completion]) -> Pairs:
    """Every two completions, the better one first."""
    return [(a, b) if reward_of(a) >= reward_of(b) else (b, a) for a, b in combinations(group, 2)]


BY: dict[str, Callable[[list[Completion]], Pairs]] = {"extremes": extremes, "all": all_pairs}


def run(context: Context, inputs: dict[str, Any]) -> Preferences:
    """Pairs whose rewards differ by more than `margin`. A note tells how many groups gave none;
    StageError when no group gives any outside a repeat."""
    rollouts: Rollouts = inputs["rollouts"]
    margin = context.stage.settings["margin"]
    made: list[Preference] = []
    groups = by_group(rollouts.rows)
    without = 0
    for group in groups.values():
        pairs = BY[context.stage.settings["by"]](group)
        new = [_preference(*pair) for pair in pairs if _gap(*pair) > margin]
        without += not new
        made += new
    if not made:
        none_left(
            context, f"in none of {len(groups)} groups do rewards differ by more than {margin:g}"
        )
    elif without:
        text = f"{without} of {len(groups)} groups gave no pair: their rewards differ too little"
        context.emit({"event": "note", "text": text})
    return Preferences(made)


def _gap(better: Completion, worse: Completion) -> float:
    return reward_of(better) - reward_of(worse)


def _preference(better: Completion, worse: Completion) -> Preference:
    return Preference(
        better.prompt,
        better.text,
        worse.text,
        margin=_gap(better, worse),
        prompt_ids=list(better.prompt_ids),
        chosen_ids=list(better.ids),
        rejected_ids=list(worse.ids),
        chosen_observed=better.observed,
        rejected_observed=worse.observed,
    )
