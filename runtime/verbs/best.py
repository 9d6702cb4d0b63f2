"""`best`: the best completions of each prompt become demonstrations (rejection sampling)."""

from __future__ import annotations

from typing import Any

from grape.runtime.artifacts import Completion, Demo, Demos, Rollouts
from grape.runtime.context import Context
from grape.runtime.verbs.selection import by_group, none_left, reward_of


def run(context: Context, inputs: dict[str, Any]) -> Demos:
    """The `top` completions of each group by reward, the earlier one first on a tie, and of those
    only rewards of at least `threshold`. Raises StageError when none is left outside a repeat."""
    rollouts: Rollouts = inputs["rollouts"]
    top, threshold = context.stage.settings["top"], context.stage.settings["threshold"]
    rows: list[Demo] = []
    for group in by_group(rollouts.rows).values():
        ranked = sorted(group, key=lambda row: -reward_of(row))[:top]
        rows += [_demo(row) for row in ranked if threshold is None or reward_of(row) >= threshold]
    if not rows:
        none_left(context, _why(threshold))
    return Demos(rows)


def _demo(row: Completion) -> Demo:
    """Without ids where a served model wrote the text."""
    return Demo(
        row.prompt,
        row.text,
        list(row.prompt_ids) or None,
        list(row.ids) or None,
        observed=row.observed,
    )


def _why(threshold: float | None) -> str:
    if threshold is None:
        return "there are no completions to choose from"
    return f"no completion has a reward of at least {threshold:g}"
