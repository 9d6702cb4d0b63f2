"""`keep`: the completions for which an expression holds.

The expression is a formula at group or sequence level, evaluated on the whole batch of rollouts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from grape.compiler.formula.ir import Formula
from grape.runtime.artifacts import Completion, Rollouts, part_values
from grape.runtime.context import Context
from grape.runtime.verbs.selection import none_left, reward_of

SEQUENCE: dict[str, Callable[[Completion], float]] = {
    "reward": reward_of,
    "length": lambda row: float(len(row.ids)),
    "truncated": lambda row: float(row.truncated),
}
"""Quantities with one number for each completion; `reward.PART` beside them."""


def run(context: Context, inputs: dict[str, Any]) -> Rollouts:
    """New rollouts with the rows that pass, in the same order, groups as they were numbered.

    Raises StageError when none passes outside a repeat; inside, a note and no rows.
    """
    rollouts: Rollouts = inputs["rollouts"]
    assert context.stage.formula is not None
    formula = Formula.from_json(context.stage.formula)
    passed = _passes(formula, rollouts.rows) if rollouts.rows else []
    rows = [row for row, yes in zip(rollouts.rows, passed, strict=True) if yes]
    if not rows:
        none_left(context, f"`where` holds for none of {len(rollouts.rows)} completions")
    elif len(rows) < len(rollouts.rows):
        text = f"`{context.stage.name}` keeps {len(rows)} of {len(rollouts.rows)} completions"
        context.emit({"event": "note", "text": text})
    return replace(rollouts, rows=rows)


def _passes(formula: Formula, rows: list[Completion]) -> list[bool]:
    """The value of the expression, broadcast to one truth value for each row."""
    import torch

    from grape.compiler.formula.levels import Level
    from grape.runtime.formula import compile_formula
    from grape.runtime.layout import Layout

    layout = Layout.from_lengths([len(row.ids) for row in rows], [row.group for row in rows])
    values = {name: torch.tensor(_quantity(name, rows)).double() for name in formula.needs}
    value = compile_formula(formula).value(values, layout)
    level = formula.terms[formula.objective].level
    if level is Level.GROUP:
        value = value[layout.sequence_group]
    elif level is Level.BATCH:
        value = value.expand(len(rows))
    return [bool(passed) for passed in value.tolist()]


def _quantity(name: str, rows: list[Completion]) -> list[float]:
    if name.startswith("reward."):
        return part_values(rows, name.removeprefix("reward."))
    if name in ("behavior_logp", "old_logp"):
        return [logp for row in rows for logp in row.logps]
    return [SEQUENCE[name](row) for row in rows]
