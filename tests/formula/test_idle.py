"""Sequences that a formula provably does not touch: no gradient whatever the live values are."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import grape
from grape.compiler.formula.infer import infer
from grape.dsl import ast
from grape.dsl.parse import parse
from grape.dsl.source import Source
from grape.runtime.formula import Compiled, compile_formula
from grape.runtime.layout import Layout

LENGTHS = [4, 2, 3, 1, 5, 2]
LAYOUT = Layout.from_lengths(LENGTHS, [0, 0, 0, 0, 1, 1])
REWARD = torch.tensor([0.1, 0.1, 0.1, 0.1, 2.0, -1.0], dtype=torch.float64)


def written(body: str, on: str = "Rollouts") -> Compiled:
    file, _ = parse(Source("a.grape", f"grape 1\nalgorithm a() on {on} {{\n{body}\n}}\n"))
    declaration = file.declarations[0]
    assert isinstance(declaration, ast.AlgorithmDecl)
    formula, findings = infer(declaration, {})
    assert formula is not None, findings
    return compile_formula(formula)


def library(name: str, **params: float) -> Compiled:
    return compile_formula(grape.algorithm(name, **params).formula)


def random_tokens(seed: int) -> Tensor:
    make = torch.Generator().manual_seed(seed)
    return torch.randn(sum(LENGTHS), generator=make, dtype=torch.float64) * 0.3 - 1


@pytest.mark.parametrize("name", ["grpo", "dapo", "dr_grpo", "rloo"])
def test_a_group_of_equal_rewards_is_idle(name: str) -> None:
    found = library(name).idle({"reward": REWARD}, LAYOUT)
    assert found.tolist() == [True] * 4 + [False] * 2


def test_another_differentiable_term_wakes_a_sequence() -> None:
    assert not library("grpo", beta=0.1).idle({"reward": REWARD}, LAYOUT).any()


def test_without_constants_nothing_is_idle() -> None:
    assert not library("grpo").idle({}, LAYOUT).any()


def test_a_detached_value_that_scales_others_is_not_idle() -> None:
    compiled = written(
        "let weight = detach(mean(logp per group))\n"
        "maximize mean((reward - 0.1) * weight * logp per batch)"
    )
    values = {"reward": torch.tensor([0.1, 0.1, 0.1, 0.1, 0.1, 2.0], dtype=torch.float64)}
    assert compiled.idle(values, LAYOUT).tolist() == [True] * 4 + [False] * 2


def test_the_switch_of_a_constant_test_keeps_the_other_side_idle() -> None:
    compiled = written("maximize mean((if reward > 0.5 then logp else 0) per batch)")
    found = compiled.idle({"reward": REWARD}, LAYOUT)
    assert found.tolist() == [True] * 4 + [False, True]


def test_only_the_mentioned_side_of_a_pair_is_touched() -> None:
    compiled = written("maximize mean(chosen(sum(logp per sequence)) per batch)", "Preferences")
    layout = Layout.from_lengths([2, 3, 1, 1], [0, 0, 1, 1], paired=True)
    assert compiled.idle({}, layout).tolist() == [False, True, False, True]


@pytest.mark.parametrize("name", ["grpo", "dapo", "dr_grpo", "rloo", "reinforce"])
@pytest.mark.parametrize("seed", [0, 1])
def test_idle_sequences_change_neither_loss_nor_any_gradient(name: str, seed: int) -> None:
    compiled = library(name)
    values = {"reward": REWARD, "old_logp": random_tokens(9)}
    rows = compiled.idle(values, LAYOUT)[LAYOUT.token_sequence]
    losses, gradients = [], []
    for other in (10, 11):
        live = torch.where(rows, random_tokens(other + seed), random_tokens(seed))
        live.requires_grad_()
        loss = compiled.loss({**values, "logp": live}, LAYOUT)
        loss.backward()  # type: ignore[no-untyped-call]
        assert live.grad is not None
        losses.append(loss.item())
        gradients.append(live.grad)
    assert losses[0] == pytest.approx(losses[1], abs=1e-15)
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-15, rtol=0)
    assert not gradients[0][rows].any()


def test_what_a_where_leaves_out_is_idle() -> None:
    found = library("rejection", threshold=1.0).idle({"reward": REWARD}, LAYOUT)
    assert found.tolist() == [True] * 4 + [False, True]
    compiled = written("maximize mean(sum(logp per sequence, where = index < 1) per batch)")
    assert not compiled.idle({}, LAYOUT).any()
