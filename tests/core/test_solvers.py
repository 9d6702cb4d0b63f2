"""Constrained steps: the curvature is the Fisher matrix, and bounds hold after every step."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from core.pipes import goes_on
from core.test_exactness import examples, live, policy
from torch import Tensor

import grape
from grape.runtime.core.models import Policy
from grape.runtime.core.packing import Example
from grape.runtime.core.solvers import Curvature, Natural, conjugate, measure, natural_step
from grape.runtime.core.step import Cutting, Known, Stepping, logprobs
from grape.runtime.formula import compile_formula

BOUND = 0.01


def stepping(model: Policy, how: Cutting) -> Stepping:
    """A TRPO step before it moved: what was before the update is the policy itself."""
    algorithm = grape.algorithm("trpo", max_kl=BOUND)
    plain = [Example(one.prompt, one.completion, one.group, {}, one.scalars) for one in batch()]
    old = logprobs(model, plain, how)
    return Stepping(
        model, compile_formula(algorithm.formula), plain, Known({"old_logp": old}, {}, {}), how
    )


def batch() -> list[Example]:
    return examples(grape.algorithm("trpo"))


def fresh(architecture: str) -> Policy:
    policy.cache_clear()
    found = policy(architecture)
    policy.cache_clear()
    return found


def fisher(model: Policy) -> Tensor:
    """The mean over all tokens of the outer product of the gradients of their log-probs: what the
    k3 divergence bends by at the policy itself."""
    weights = list(model.parameters())
    rows = live(model, batch(), 8)["logp"]
    found = []
    for number, one in enumerate(batch()):
        for place in range(len(one.completion)):
            parts = torch.autograd.grad(
                rows[number, place], weights, retain_graph=True, allow_unused=True
            )
            flat = [
                torch.zeros_like(w) if g is None else g for g, w in zip(parts, weights, strict=True)
            ]
            found.append(torch.cat([part.flatten() for part in flat]))
    table = torch.stack(found)
    return table.T @ table / len(table)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize(
    "how", [Cutting(24), Cutting(1), Cutting(10**6, packed=False, fused=False)]
)
def test_the_curvature_is_the_fisher_matrix(architecture: str, how: Cutting) -> None:
    model = fresh(architecture)
    step = stepping(model, how)
    step.fill(step.cut())
    weights = list(model.parameters())
    size = sum(item.numel() for item in weights)
    x = torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    wanted = fisher(model) @ x
    found = Curvature(step, weights).times(x)
    assert wanted.norm() > 1e-3
    assert (found - wanted).norm() <= 1e-9 * wanted.norm()


def test_the_conjugate_gradient_solves_what_it_is_given() -> None:
    make = torch.Generator().manual_seed(2)
    root = torch.randn(12, 12, dtype=torch.float64, generator=make)
    matrix, wanted = (
        root @ root.T + torch.eye(12),
        torch.randn(12, dtype=torch.float64, generator=make),
    )
    found = conjugate(lambda x: matrix @ x, wanted, 40)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, wanted), rtol=1e-4, atol=1e-4)


def test_a_natural_step_gains_and_stays_within_its_bound() -> None:
    model = fresh("llama")
    step = stepping(model, Cutting(24))
    before = step.run().loss
    found = natural_step(step, Natural(damping=1e-3, iterations=20, backtracks=10))
    loss, constraint = measure(step)
    assert found.share > 0 and loss < before
    assert constraint == pytest.approx(found.constraint) and constraint <= 0
    assert constraint + BOUND > BOUND / 4, "a step that hardly moves proves nothing"


def test_a_step_that_nothing_allows_leaves_the_weights_alone() -> None:
    model = fresh("llama")
    step = stepping(model, Cutting(24))
    step.run()
    start = [item.detach().clone() for item in model.parameters()]
    for item in model.parameters():
        assert item.grad is None or item.requires_grad
        if item.grad is not None:
            item.grad.neg_()  # the way up: no length of it gains
    found = natural_step(step, Natural(damping=1e-3, iterations=5, backtracks=3))
    assert found.share == 0
    assert all(torch.equal(a, b) for a, b in zip(start, model.parameters(), strict=True))


LOOP = """
  repeat 3 with policy = base {{
    stage tries = sample(policy, sums) {{ prompts = 3, group = 4, max_tokens = 3 }}
    stage scored = score(tries, lively())
    next policy = train(policy, scored) {{
      algorithm = {algorithm}, {settings}, checkpoint = 1ms
    }}
  }}
"""


def test_trpo_keeps_its_bound_on_every_step(tmp_path: Path) -> None:
    body = LOOP.format(algorithm="trpo(max_kl = 0.01)", settings="damping = 1e-3")
    told = goes_on(tmp_path, body, "trpo", "next", 2).metrics("next")
    assert len(told) == 3
    assert all(update["constraint"] <= 0 for update in told)
    assert any(update["step_share"] > 0 for update in told)
    assert not any(math.isnan(update["loss"]) for update in told)


@pytest.mark.parametrize(
    "algorithm,more",
    [("trpo(max_kl = 0.002)", "penalty = 0.1"), ("fixpo(max_kl = 0.002)", "penalty = 0")],
)
def test_the_penalty_ends_every_batch_with_every_part_within_the_bound(
    tmp_path: Path, algorithm: str, more: str
) -> None:
    settings = f'solver = "penalty", {more}, lr = 5e-3, epochs = 2, sequences_per_update = 4'
    body = LOOP.format(algorithm=algorithm, settings=settings)
    used = algorithm.partition("(")[0]
    told = goes_on(tmp_path, body, used, "next", 9).metrics("next")
    ends = [update for update in told if "fixups" in update]
    assert len(ends) == 3 and len(told) == 3 + 3 * 6
    assert all(update["constraint"] <= 0 for update in ends)
    assert any(update["constraint_before"] > 0 and update["fixups"] > 0 for update in ends)
