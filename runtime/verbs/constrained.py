"""Updates under `subject to`: which solver makes the step, and the steps that mend a broken bound.

The natural gradient keeps the bound on every update. The penalty takes ordinary steps on objective
and constraints together and, after the last update of a batch, steps on the constraints alone
until every part of the batch is within them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from grape.compiler.formula.ir import Formula
from grape.compiler.formula.penalised import WEIGHT, constraints_alone, penalised
from grape.runtime import contracts
from grape.runtime.context import Context
from grape.runtime.core.optim import Optimizer
from grape.runtime.core.solvers import Natural, measure, natural_step
from grape.runtime.core.step import Stepping
from grape.runtime.formula import Compiled, compile_formula

_FACTOR = 2.0
"""What the weight of a penalty is multiplied or divided by after a batch."""
_RANGE = 1000.0
"""How far it may go from its first value, either way."""


def compiled_for(formula: Formula, settings: Mapping[str, Any]) -> Compiled:
    """What the gradient of an update is taken of."""
    if formula.constraints and settings["solver"] == "penalty":
        formula = penalised(formula)
    return compile_formula(formula)


def first_memory(formula: Formula, settings: Mapping[str, Any]) -> dict[str, float]:
    """The weight that a penalty begins with."""
    applies = bool(formula.constraints) and settings["solver"] == "penalty"
    return {WEIGHT: float(settings["penalty"])} if applies else {}


def natural(
    context: Context, stepping: Stepping, optimizer: Optimizer, settings: Mapping[str, Any]
) -> dict[str, float]:
    """Take a natural-gradient step in place of the optimizer's; what there is to tell of it."""
    how = Natural(settings["damping"], settings["cg_iterations"], settings["backtracks"])
    found = natural_step(stepping, how)
    optimizer.skip()
    if found.constraint > 0 and not context.state.setdefault("told broken", False):
        context.state["told broken"] = True
        text = (
            f"{context.stage.name}: a constraint is broken before the step, by "
            f"{found.constraint:.3g}; no step is taken on such a batch"
        )
        context.emit({"event": "note", "text": text})
    return {
        "step_share": found.share,
        "backtracks": float(found.backtracks),
        "constraint": found.constraint,
    }


def mend(
    context: Context,
    formula: Formula,
    parts: Iterable[Callable[[Compiled], Stepping]],
    optimizer: Optimizer,
    memory: dict[str, float],
) -> None:
    """Step on the constraints alone, part by part, until each holds on every part of the batch;
    the weight of the penalty follows how the updates left them. G960 when that takes too long."""
    alone = compile_formula(constraints_alone(formula))
    steps = [make(alone) for make in parts]
    worst = max(measure(step)[1] for step in steps)
    most, made, now = context.stage.settings["fixups"], 0, worst
    while now > 0:
        for step in steps:
            if measure(step)[1] <= 0:
                continue
            if made == most:
                raise contracts.broken(
                    context,
                    "G960",
                    f"a constraint of `{formula.name}` is still over its bound by {now:.3g} after "
                    f"{made} steps on it alone",
                    "lower `lr` or raise `penalty`; `fixups` allows more steps",
                )
            step.run()
            optimizer.step(further=True)
            made += 1
        now = max(measure(step)[1] for step in steps)
    memory[WEIGHT] = _followed(memory[WEIGHT], worst, formula, context.stage.settings["penalty"])
    context.emit(
        {
            "event": "metrics",
            "stage": context.stage.name,
            "round": context.round,
            "update": optimizer.done - 1,
            "seconds": 0.0,
            "tokens": 0,
            "constraint_before": worst,
            "constraint": now,
            "fixups": made,
            "penalty": memory[WEIGHT],
        }
    )


def _followed(weight: float, worst: float, formula: Formula, first: float) -> float:
    """Up where the updates broke a bound, down where they stayed within half of it."""
    bound = min(abs(bound) for _, bound in formula.constraints)
    factor = _FACTOR if worst > 0 else 1 / _FACTOR if worst < -bound / 2 else 1.0
    return min(max(weight * factor, first / _RANGE), first * _RANGE)
