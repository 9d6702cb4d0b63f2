"""Coupling is exact: a gradient summed over units of the reported level is the whole gradient.

This is what the step engine does: the formula on the whole batch, with the live values of one unit
in their places and those of all others replaced by something else.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from formula.batches import LIVE, batch
from formula.test_library_values import CASES
from torch import Tensor

import grape
from grape.compiler.formula.levels import Level
from grape.runtime.formula import Compiled, compile_formula, flatten
from grape.runtime.layout import Layout


def units(layout: Layout, level: Level) -> list[list[int]]:
    """The sequences of each unit of a coupling level."""
    if level is Level.BATCH:
        return [list(range(layout.num_sequences))]
    if level in (Level.PAIR, Level.GROUP):
        index = layout.index(Level.SEQUENCE, level).tolist()
        return [[s for s, unit in enumerate(index) if unit == one] for one in sorted(set(index))]
    return [[s] for s in range(layout.num_sequences)]


def rows(name: str, layout: Layout) -> Tensor:
    """The sequence of each entry of a live quantity."""
    sequence = torch.arange(layout.num_sequences)
    return sequence if name == "score" else layout.token_sequence


def gradients(
    compiled: Compiled, values: dict[str, Tensor], layout: Layout, level: Level, on_policy: bool
) -> dict[str, Tensor]:
    live = {name: values[name].detach() for name in LIVE if name in values}
    total = {name: torch.zeros_like(value) for name, value in live.items()}
    for number, unit in enumerate(units(layout, level)):
        leaves, filled = {}, dict(values)
        for name, value in live.items():
            make = torch.Generator().manual_seed(number)
            other = -torch.rand(value.shape, generator=make, dtype=value.dtype) - 0.3
            inside = torch.isin(rows(name, layout), torch.tensor(unit))
            inside = inside[:, None] if value.dim() == 2 else inside
            leaves[name] = torch.where(inside, value, other).requires_grad_()
            filled[name] = leaves[name]
        if on_policy:
            filled |= {f"old_{k}": v.detach() for k, v in leaves.items() if f"old_{k}" in values}
        compiled.loss(filled, layout).backward()  # type: ignore[no-untyped-call]
        for name, leaf in leaves.items():
            inside = torch.isin(rows(name, layout), torch.tensor(unit))
            if leaf.grad is not None:
                total[name][inside] += leaf.grad[inside]
    return total


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("on_policy", [False, True], ids=["old given", "old is current"])
def test_the_gradient_by_units_is_the_gradient(
    name: str, options: dict[str, Any], on_policy: bool
) -> None:
    params = {key: value for key, value in options.items() if key != "parts"}
    formula = grape.algorithm(name, **params).formula
    compiled = compile_formula(formula)
    layout, values = flatten(formula, batch())
    level = formula.coupling if on_policy else formula.coupling_given_old
    found = gradients(compiled, values, layout, level, on_policy)
    whole = gradients(compiled, values, layout, Level.BATCH, on_policy)
    for quantity, wanted in whole.items():
        torch.testing.assert_close(found[quantity], wanted, atol=1e-12, rtol=0)


NONLINEAR = [
    ("mean((logp - mean(logp per group)) ^ 2 per batch)", "group"),
    ("mean(exp(logp - mean(logp per batch)) per batch)", "batch"),
    ("mean(var(logp per position) per batch)", "group"),
    ("mean(std(logp per step) per batch)", "sequence"),
    ("mean(max(logp per tree) per batch)", "group"),
    ("mean(median(logp per batch) + logp per batch)", "batch"),
    ("mean(cumsum(logp) per batch)", "token"),
    ("mean(cumsum(logp) ^ 2 per batch)", "sequence"),
    ("mean(detach(mean(logp per group)) * logp per batch)", "group"),
    ("mean(detach(mean(logp per group)) + logp per batch)", "token"),
    ("mean(rank(logp per batch) * logp per batch)", "batch"),
    ("mean(logp per batch, where = entropy > 1)", "batch"),
    ("mean(sum(logp per sequence, where = entropy > 1) per batch)", "sequence"),
    ("mean((if entropy > 1 then logp else 0) per batch)", "token"),
    ("mean(sum(exp(logp_all) * logp_all per token) per batch)", "token"),
    ("mean(old_logp * logp per batch)", "token"),
    ("mean(std(old_logp per group) * logp per batch)", "group"),
]


@pytest.mark.parametrize(("objective", "level"), NONLINEAR)
def test_coupling_of_a_formula(objective: str, level: str) -> None:
    from formula.test_idle import written

    compiled = written(f"maximize {objective}")
    formula = compiled.formula
    assert formula.coupling == level
    layout, values = flatten(formula, batch())
    found = gradients(compiled, values, layout, formula.coupling, on_policy=True)
    whole = gradients(compiled, values, layout, Level.BATCH, on_policy=True)
    for quantity, wanted in whole.items():
        torch.testing.assert_close(found[quantity], wanted, atol=1e-12, rtol=0)
