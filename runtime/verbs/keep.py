"""`keep`: the completions for which an expression holds, the best, or the most varied ones.

The expression is a formula at group or sequence level, evaluated on a whole batch of rollouts.
Where too few prompts are left, further ones are asked for; who samples them is not known here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from statistics import fmean, stdev
from time import perf_counter
from typing import Any

from grape.compiler.formula.ir import Formula
from grape.runtime import contracts
from grape.runtime.artifacts import Completion, Rollouts, part_values
from grape.runtime.context import Context
from grape.runtime.verbs.selection import by_group, none_left, reward_of

_EPS = 1e-4
"""Added to a deviation, as in GRPO."""

SEQUENCE: dict[str, Callable[[Completion], float]] = {
    "reward": reward_of,
    "length": lambda row: float(row.drawn),
    "truncated": lambda row: float(row.truncated),
}
"""Quantities with one number for each completion; `reward.PART` beside them."""


def run(context: Context, inputs: dict[str, Any]) -> Rollouts:
    """New rollouts with the rows that pass, in the same order, groups as they were numbered; those
    of further attempts follow, with further numbers.

    Raises StageError when none passes outside a repeat (inside, a note and no rows), and when
    `max_tries` attempts leave fewer prompts than `prompts`."""
    rollouts: Rollouts = inputs["rollouts"]
    settings = context.stage.settings
    start, told = perf_counter(), dict[str, float]()
    kept = _selected(context, rollouts)
    seen = len(rollouts.rows)
    if settings.get("prompts") is not None:
        kept, seen = _filled(context, kept, rollouts, told)
    if settings.get("replay") is not None:
        fresh = len(kept.rows)
        kept = _with_earlier(context, kept, told)
        seen += len(kept.rows) - fresh
    if settings.get("count") is not None:
        kept = replace(kept, rows=_varied(kept.rows, settings["count"]))
    rows = kept.rows
    if told:
        context.emit(
            {
                "event": "metrics",
                "stage": context.stage.name,
                "round": context.round,
                "update": context.round,
                "seconds": perf_counter() - start,
                "tokens": sum(len(row.ids) for row in rows),
                **told,
            }
        )
    if not rows:
        why = f"`where` holds for none of {seen} completions"
        none_left(context, why if seen else "there are no completions to choose from")
    elif len(rows) < seen:
        text = f"`{context.stage.name}` keeps {len(rows)} of {seen} completions"
        context.emit({"event": "note", "text": text})
    return kept


def _selected(context: Context, rollouts: Rollouts) -> Rollouts:
    """The rows that `where` and `top` leave."""
    rows, top = rollouts.rows, context.stage.settings.get("top")
    if context.stage.formula is not None and rows:
        passed = _passes(Formula.from_json(context.stage.formula), rows)
        rows = [row for row, yes in zip(rows, passed, strict=True) if yes]
    if top is not None:
        best = {
            id(row)
            for group in by_group(rows).values()
            for row in sorted(group, key=lambda row: -reward_of(row))[:top]
        }
        rows = [row for row in rows if id(row) in best]
    return replace(rollouts, rows=rows)


def _filled(
    context: Context, kept: Rollouts, first: Rollouts, told: dict[str, float]
) -> tuple[Rollouts, int]:
    """Rollouts of exactly `prompts` prompts, the earliest drawn; and how many completions were
    looked at. Sampling more is up to `context.more`."""
    wanted, limit = context.stage.settings["prompts"], context.stage.settings["max_tries"]
    assert context.more is not None, "the checker lets this into a repeat only"
    rows, attempt = list(kept.rows), 1
    looked, following = len(first.rows), _groups_after(first.rows)
    while len(by_group(rows)) < wanted and attempt < limit:
        more = context.more(attempt)
        attempt += 1
        looked += len(more.rows)
        rows += [replace(row, group=row.group + following) for row in _selected(context, more).rows]
        following += _groups_after(more.rows)
    found = list(by_group(rows))
    if len(found) < wanted:
        raise contracts.broken(
            context,
            "G970",
            f"{limit} tries of the sampler left {len(found)} prompts, and `prompts` asks for "
            f"{wanted}",
            "ask for less in `where`, raise `max_tries`, or draw more prompts each time; where "
            "all rewards are equal the task may be too hard or too easy",
        )
    chosen = set(found[:wanted])
    left = [row for row in rows if row.group in chosen]
    told |= {"tries": attempt, "kept": len(rows) / looked}
    return replace(kept, rows=left), looked


def _with_earlier(context: Context, kept: Rollouts, told: dict[str, float]) -> Rollouts:
    """What was kept before comes after what is kept now, in groups of its own. The rounds before
    lie in the stage's memory, and so in checkpoints."""
    memory = context.state.setdefault("memory", {})
    rounds: list[list[dict[str, Any]]] = memory.setdefault("replay", [])
    rows = list(kept.rows)
    for earlier in reversed(rounds):
        following = _groups_after(rows)
        old = [Completion(**row) for row in earlier]
        rows += [replace(row, group=row.group + following) for row in old]
    rounds.append([asdict(replace(row, weights=kept.weights)) for row in kept.rows])
    del rounds[: -context.stage.settings["replay"]]
    if rows and kept.weights.isdecimal():  # a served model counts no updates
        ages = [int(kept.weights) - int(row.weights or kept.weights) for row in rows]
        told |= {
            "replayed": 1 - len(kept.rows) / len(rows),
            "staleness": fmean(ages),
            "staleness_max": max(ages),
        }
    return replace(kept, rows=rows)


def _groups_after(rows: list[Completion]) -> int:
    """The first number that no group has."""
    return max((row.group for row in rows), default=-1) + 1


def _varied(rows: list[Completion], count: int) -> list[Completion]:
    """`count` rows whose advantages vary most; an advantage is the distance of a reward from its
    group's mean, in its group's standard deviations."""
    import torch

    from grape.runtime.segments import widest

    advantages: dict[int, float] = {}
    for group in by_group(rows).values():
        rewards = [reward_of(row) for row in group]
        middle = fmean(rewards)
        spread = stdev(rewards) if len(rewards) > 1 else 0.0
        advantages |= {id(row): (reward_of(row) - middle) / (spread + _EPS) for row in group}
    values = torch.tensor([advantages[id(row)] for row in rows], dtype=torch.float64)
    chosen = widest(values, torch.zeros(len(rows), dtype=torch.long), 1, count).tolist()
    return [row for row, yes in zip(rows, chosen, strict=True) if yes]


def _passes(formula: Formula, rows: list[Completion]) -> list[bool]:
    """The value of the expression, broadcast to one truth value for each row."""
    import torch

    from grape.compiler.formula.levels import SUBGROUPS, Level
    from grape.runtime.formula import compile_formula
    from grape.runtime.layout import Layout

    steps = [step for row in rows for step in row.numbered_steps()]
    layout = Layout.from_lengths(
        [row.drawn for row in rows],
        [row.group for row in rows],
        steps=torch.tensor(steps) if Level.STEP in formula.index_sets else None,
        subgroups={
            level: torch.tensor([int(row.added[level]) for row in rows])
            for level in SUBGROUPS
            if level in formula.index_sets
        },
    )
    values = {name: torch.tensor(_quantity(name, rows)).double() for name in formula.needs}
    value = compile_formula(formula).value(values, layout)
    level = formula.terms[formula.objective].level
    if level is Level.BATCH:
        value = value.expand(len(rows))
    elif level is not Level.SEQUENCE:
        value = value[layout.index(Level.SEQUENCE, level)]
    return [bool(passed) for passed in value.tolist()]


def _quantity(name: str, rows: list[Completion]) -> list[float]:
    if name.startswith("reward."):
        return part_values(rows, name.removeprefix("reward."))
    if name in ("behavior_logp", "old_logp"):
        return [logp for row in rows for logp in row.logps]
    if name in rows[0].added:
        return [row.added[name] for row in rows]
    if name in rows[0].tokens:
        return [value for row in rows for value in row.tokens[name]]
    if name in rows[0].steps:
        return [value for row in rows for value in row.steps[name]]
    return [SEQUENCE[name](row) for row in rows]
