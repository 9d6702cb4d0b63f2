"""Idle sequences of every algorithm: their live values reach neither loss nor gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from formula.batches import BINARY, LIVE, batch
from formula.test_coupling import rows
from formula.test_library_values import CASES
from torch import Tensor

import grape
from grape.runtime.formula import compile_formula, flatten

QUIET: list[float] = [1, 0, 0, 0, 1, 1, 1, 1, 0, 0]
"""The groups of four have a spread and none; the group of two has none."""


def outcome(compiled: Any, values: dict[str, Tensor], layout: Any) -> dict[str, Tensor]:
    leaves = {name: values[name].detach().requires_grad_() for name in LIVE if name in values}
    loss = compiled.loss({**values, **leaves}, layout)
    loss.backward()
    found = {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}
    return {"loss": loss.detach(), **found}


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("reward", [BINARY, QUIET], ids=["binary", "quiet"])
def test_what_is_idle_changes_nothing(
    name: str, options: dict[str, Any], reward: list[float]
) -> None:
    params = {key: value for key, value in options.items() if key != "parts"}
    compiled = compile_formula(grape.algorithm(name, **params).formula)
    layout, values = flatten(compiled.formula, batch(reward=reward))
    early = {name: x for name, x in values.items() if name not in LIVE and "old_" not in name}
    for known in (early, {**early, **{k: x for k, x in values.items() if k.startswith("old_")}}):
        idle = compiled.idle(known, layout)
        before = outcome(compiled, values, layout)
        other = dict(values)
        for quantity, x in values.items():
            if quantity in LIVE or (quantity.startswith("old_") and quantity not in known):
                here = idle[rows(quantity, layout)]
                other[quantity] = torch.where(here.view(-1, *[1] * (x.dim() - 1)), x - 0.3, x)
        after = outcome(compiled, other, layout)
        for what, wanted in before.items():
            torch.testing.assert_close(after[what], wanted, atol=1e-15, rtol=0)
            if what != "loss":
                assert not wanted[idle[rows(what, layout)]].any()


@pytest.mark.parametrize(
    "name",
    [
        "grpo",
        "dapo",
        "dr_grpo",
        "gspo",
        "gmpo",
        "cispo",
        "sapo",
        "rloo",
        "gpg",
        "vespo",
        "luspo",
        "rec",
        "aspo",
        "opmd",
        "lite_ppo",
        "seed_grpo",
        "grape",
    ],
)
def test_groups_without_a_spread_are_idle(name: str) -> None:
    compiled = compile_formula(grape.algorithm(name).formula)
    layout, values = flatten(compiled.formula, batch(reward=QUIET))
    known = {name: x for name, x in values.items() if name not in LIVE and "old_" not in name}
    assert compiled.idle(known, layout).tolist() == [False] * 4 + [True] * 6
