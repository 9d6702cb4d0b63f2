"""What an algorithm remembers from update to update, and constraints beside the objective."""

from __future__ import annotations

import pytest
import torch
from formula.batches import batch
from formula.test_idle import written

import grape
from grape.compiler.formula.ir import Formula

CONTROLLER = (
    "let kl = mean(logp - ref_logp per batch)\n"
    "state beta = 0.2 then beta * (1 + 0.1 * clamp(kl / 0.1 - 1, -0.2, 0.2))\n"
    "log beta = beta\nminimize beta * kl"
)


def test_evaluation_begins_at_the_first_number_and_changes_nothing() -> None:
    compiled = written(CONTROLLER)
    first, again = compiled.evaluate(batch()), compiled.evaluate(batch())
    assert first.logs["beta"] == again.logs["beta"] == 0.2
    assert first.state == again.state
    kl = float((batch()["logp"] - batch()["ref_logp"])[batch()["mask"]].mean())
    step = min(max(kl / 0.1 - 1, -0.2), 0.2)
    assert first.state["beta"] == pytest.approx(0.2 * (1 + 0.1 * step), abs=1e-12)


def test_a_choice_of_two_numbers_keeps_their_digits() -> None:
    found = batch()
    chosen = written("let k = if reward > 0 then 0.1 else 0.3\nmaximize mean(k * logp per batch)")
    wanted = torch.where(found["reward"] > 0, 0.1 + 0 * found["reward"], 0.3 + 0 * found["reward"])
    mean = (wanted[:, None] * found["logp"])[found["mask"]].mean()
    assert -chosen.evaluate(found).loss.item() == pytest.approx(mean.item(), abs=1e-14)


def test_a_batch_may_hold_the_number_of_before() -> None:
    compiled = written(CONTROLLER)
    found = batch()
    kept = compiled.evaluate(found).state["beta"]
    after = compiled.evaluate({**found, "state.beta": torch.tensor(kept)})
    assert after.logs["beta"] == pytest.approx(kept, rel=1e-6)
    assert after.state["beta"] / kept == pytest.approx(kept / 0.2, rel=1e-5)


def test_a_state_carries_no_gradient_and_is_no_demand() -> None:
    compiled = written(CONTROLLER)
    assert compiled.formula.needs == {"logp", "ref_logp"}
    found = batch()
    compiled.evaluate(found).loss.backward()  # type: ignore[no-untyped-call]
    assert found["logp"].grad is not None
    tokens = int(found["mask"].sum())
    assert float(found["logp"].grad.sum()) == pytest.approx(0.2, abs=1e-12)
    assert float(found["logp"].grad.max()) == pytest.approx(0.2 / tokens, abs=1e-12)


def test_a_formula_with_memory_and_constraints_survives_json() -> None:
    for formula in (written(CONTROLLER).formula, grape.algorithm("trpo").formula):
        assert Formula.from_json(formula.to_json()) == formula


def test_fixpo_learns_its_weight() -> None:
    """Up by the rate times how far the divergence is over its target; never below zero."""
    found = batch()
    drift = (found["logp"] - found["old_logp"])[found["mask"]]
    kl = float((drift.exp() - 1 - drift).mean())
    state = grape.algorithm("fixpo", rate=2.0).evaluate(found).state
    assert state["strength"] == pytest.approx(1 + 2.0 * (kl - 0.2 / 3), abs=1e-9)
    low = grape.algorithm("fixpo", initial=0.0, max_kl=9.0).evaluate(found).state
    assert low["strength"] == 0


def test_bco_follows_the_mean_of_both_kinds() -> None:
    found = batch()
    gain = 0.1 * ((found["logp"] - found["ref_logp"]) * found["mask"]).sum(1).detach()
    good, bad = gain[found["desirable"]].mean(), gain[~found["desirable"]].mean()
    state = grape.algorithm("bco").evaluate(found).state
    assert state["shift"] == pytest.approx(0.1 * float(good + bad) / 2, abs=1e-12)


def test_a_constraint_is_apart_from_the_objective() -> None:
    found = batch()
    result = grape.algorithm("trpo", max_kl=0.5).evaluate(found)
    drift = (found["logp"] - found["old_logp"])[found["mask"]]
    kl = (drift.exp() - 1 - drift).mean()
    assert result.constraints[0].item() == pytest.approx(kl.item() - 0.5, abs=1e-12)
    result.constraints[0].backward()  # type: ignore[no-untyped-call]
    assert found["logp"].grad is not None and found["logp"].grad.abs().max() > 0
    at_least = written("maximize mean(logp per batch)\nsubject to mean(entropy per batch) >= 0.3")
    entropy = found["entropy"][found["mask"]].mean().item()
    assert at_least.evaluate(found).constraints[0].item() == pytest.approx(0.3 - entropy)
