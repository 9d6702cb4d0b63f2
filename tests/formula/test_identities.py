"""Algorithms that must agree with one another, and what a first step (ratio 1) makes of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from formula.batches import BINARY, REAL, Batch, batch, with_parts
from formula.test_idle import written
from torch import Tensor

import grape


def first_step(reward: list[float] | None = None) -> Batch:
    """A batch whose old policy is the current one."""
    found = batch(reward=reward)
    found["old_logp"] = found["logp"].detach().clone()
    found["old_logp_all"] = found["logp_all"].detach().clone()
    return found


def slope(algorithm: Any, found: Batch) -> Tensor:
    """The gradient of the loss by `logp`, [S, T]."""
    found["logp"].grad = None
    algorithm.evaluate(found).loss.backward()
    grad = found["logp"].grad
    assert grad is not None
    return grad.clone()


def same(one: Tensor, other: Tensor) -> None:
    assert other.abs().max() > 1e-6, "an identity of zeros proves nothing"
    torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


def library(name: str, **params: Any) -> Any:
    return grape.algorithm(name, **params)


PLAIN = (
    "let advantage = (reward - mean(reward per group)) / (std(reward per group) + 1e-4)\n"
    "maximize mean(advantage * logp per batch)"
)
PLAIN_SEQUENCE = PLAIN.replace(
    "mean(advantage * logp per batch)", "mean(mean(advantage * logp per sequence) per batch)"
)


@pytest.mark.parametrize("name", ["dapo", "cispo", "vespo", "cpgd", "thor"])
def test_01_first_steps_over_all_tokens_are_plain_policy_gradients(name: str) -> None:
    params = {"cpgd": {"drift_weight": 0.0}, "thor": {"alpha": 0.0}}.get(name, {})
    same(slope(library(name, **params), first_step()), slope(written(PLAIN), first_step()))


@pytest.mark.parametrize("name", ["grpo", "gspo", "sapo", "gmpo"])
def test_01_first_steps_within_sequences_are_plain_policy_gradients(name: str) -> None:
    same(slope(library(name), first_step()), slope(written(PLAIN_SEQUENCE), first_step()))


def test_01_rec_is_a_plain_policy_gradient_on_its_first_step() -> None:
    plain = "maximize mean((reward - mean(reward per group)) * logp per batch)"
    for variant in ("one_side", "two_side", "ring"):
        found = slope(library("rec", variant=variant), first_step())
        same(found, slope(written(plain), first_step()))


def test_02_nft_begins_as_dr_grpo_and_as_grpo_with_the_population() -> None:
    reward = [1.0, 0, 0, 0, 1, 1, 0, 1, 1, 0]
    found = slope(library("nft", normalize=1, max_tokens=10), first_step(reward))
    same(found, slope(library("dr_grpo", max_tokens=1), first_step(reward)))
    population = written(
        "let advantage = (reward - mean(reward per group)) / "
        "max(std(reward per group, ddof = 0), 1e-9)\n"
        "maximize mean(sum(exp(logp - old_logp) * advantage per sequence) per batch)"
    )
    found = slope(library("nft", normalize=2, max_tokens=10), first_step(reward))
    same(found, slope(population, first_step(reward)))


def test_03_rover_begins_as_dr_grpo_twice_rho() -> None:
    """Over all tokens, where `dr_grpo` takes sums: the ratio is the number of tokens."""
    found = first_step()
    tokens = int(found["mask"].sum())
    dr_grpo = slope(library("dr_grpo", max_tokens=1), first_step())
    same(slope(library("rover", rho=0.7), found), 2 * 0.7 * dr_grpo * 10 / tokens)


def test_04_leave_one_out_is_the_centred_reward_times_n_by_n_minus_1() -> None:
    centred = written(
        "let n = count(reward per group)\n"
        "let advantage = n / max(n - 1, 1) * (reward - mean(reward per group))\n"
        "maximize mean(advantage * sum(logp per sequence) per batch)"
    )
    same(slope(library("rloo"), first_step()), slope(centred, first_step()))


def test_04_leave_one_out_of_two_goes_the_way_of_rebel() -> None:
    found = first_step()
    found["group"] = torch.arange(10) // 2
    found["margin"] = found["reward"][::2] - found["reward"][1::2]
    same(slope(library("rebel"), found), 4 * slope(library("rloo"), found))


def test_05_asymre_without_a_shift_is_opmd() -> None:
    asymre = slope(library("asymre", shift=0.0), first_step())
    same(slope(library("opmd", tau=1.0), first_step()), asymre / 2)


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
        "lite_ppo",
        "gpg",
        "nft",
        "rec",
        "grpo_pass_at_k",
        "tree_grpo",
        "grpo_s",
        "gtpo",
        "grpo_lead",
        "xrpo",
        "aspo",
        "seed_grpo",
    ],
)
def test_06_equal_rewards_give_no_nan(name: str) -> None:
    for value in (0.1, 1.0):
        found = first_step([value] * 10)
        grad = slope(library(name, **({"beta": 0.0} if name == "tree_grpo" else {})), found)
        assert grad.isfinite().all()
        if name not in ("nft", "gtpo", "grpo_s", "tree_grpo"):  # these also rank equal rewards
            assert float(grad.abs().max()) < 1e-9


@pytest.mark.parametrize("name", ["gtpo", "grpo_s"])
def test_shaped_by_entropy_being_right_itself_earns_only_where_sets_are_together(name: str) -> None:
    found = first_step([1.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0])
    right = found["reward"] > 0
    pulls = {
        sets: float(-slope(library(name, sets=sets), found)[right].sum())
        for sets in ("together", "apart")
    }
    assert pulls["together"] > 0.1
    assert abs(pulls["apart"]) < 0.3 * pulls["together"]


def test_07_gae_without_values_spreads_the_reward_over_every_token() -> None:
    check = written(
        "log apart = max(abs(gae(reward, 0, 1, 1) - reward) per batch)\n"
        "maximize mean(logp per batch)"
    )
    assert check.evaluate(batch()).logs["apart"] == pytest.approx(0, abs=1e-12)


def test_08_rpg_without_a_penalty_is_importance_weighted() -> None:
    found = slope(library("rpg", form="reinforce", beta=0.0, clip_low=9.0, clip_high=9.0), batch())
    plain = written(
        "let advantage = reward - mean(reward per group)\n"
        "maximize mean(detach(exp(logp - old_logp)) * advantage * logp per batch)"
    )
    same(found, slope(plain, batch()))


def test_09_distilling_a_certain_teacher_is_fine_tuning() -> None:
    found = batch()
    word = torch.zeros(10, 8, dtype=torch.long)
    certain = torch.full((10, 8, 5), -1e4, dtype=torch.float64).scatter(2, word[:, :, None], 0)
    found["teacher_logp_all"] = certain
    taught = library("gkd", beta=0.0).evaluate(found).loss.item()
    found["logp"] = found["logp_all"].detach()[:, :, 0]
    assert taught == pytest.approx(library("sft").evaluate(found).loss.item(), abs=1e-9)


def test_10_grape_of_one_item_is_grpo_and_without_scale_dr_grpo() -> None:
    same(slope(library("grape"), batch()), slope(library("grpo"), batch()))
    found = batch()
    found["reward.only"] = found["reward"]
    found["confidence.only"] = torch.full((10,), 0.25, dtype=torch.float64)
    same(slope(library("grape"), found), slope(library("grpo"), batch()))
    centred = written(
        "let advantage = reward - mean(reward per group)\nlet ratio = exp(logp - old_logp)\n"
        "let gain = min(ratio * advantage, clamp(ratio, 0.8, 1.2) * advantage)\n"
        "maximize mean(mean(gain per sequence) per batch)"
    )
    same(slope(library("grape", scale="none"), found), slope(centred, batch()))
    weighed = slope(library("grape", scale="none", normalise="none"), found)
    same(weighed, 0.25 * slope(centred, batch()))


def test_10_grape_ignores_an_item_without_confidence_and_the_size_of_confidence() -> None:
    found = with_parts(batch())
    base = slope(library("grape", eps=0.0 + 1e-12), found)
    half = {
        **found,
        "confidence.a": found["confidence.a"] / 2,
        "confidence.b": found["confidence.b"] / 2,
    }
    torch.testing.assert_close(slope(library("grape", eps=1e-12), half), base, atol=1e-9, rtol=0)
    silent = {**found, "confidence.b": torch.zeros(10, dtype=torch.float64)}
    without = {name: value for name, value in found.items() if not name.endswith(".b")}
    same(slope(library("grape", eps=1e-12), silent), slope(library("grape", eps=1e-12), without))


def test_10_gdpo_of_one_part_is_grpo_whitened() -> None:
    whitened = written(
        "let z = active * (reward - mean(reward per group)) / (std(reward per group) + 1e-6)\n"
        "let advantage = (z - mean(z per batch)) / sqrt(var(z per batch) + 1e-8)\n"
        "let ratio = exp(logp - old_logp)\n"
        "maximize mean(min(ratio * advantage, clamp(ratio, 0.8, 1.2) * advantage) per batch)"
    )
    same(slope(library("gdpo"), batch()), slope(whitened, batch()))


def test_11_one_tree_per_prompt_doubles_and_a_leaf_alone_adds_its_reward() -> None:
    found = first_step()
    found["tree"] = torch.zeros(10, dtype=torch.long)
    options = {"beta": 0.0, "eps": 1e-6}
    grpo = slope(library("grpo", eps=1e-6), first_step())
    same(slope(library("tree_grpo", **options), found), 2 * grpo)
    found["tree"] = torch.arange(10)
    raw = slope(written("maximize mean(mean(reward * logp per sequence) per batch)"), first_step())
    torch.testing.assert_close(
        slope(library("tree_grpo", **options), found), grpo + raw, atol=1e-5, rtol=0
    )


def test_11_a_tree_of_depth_one_is_twice_the_distance_from_its_root() -> None:
    found = first_step()
    root = torch.full((10, 8), 0.25, dtype=torch.float64)
    found |= {
        "parent_value": root,
        "leaves": torch.ones_like(root),
        "step": torch.zeros(10, 8, dtype=torch.long),
        "node_value": found["reward"][:, None].expand(10, 8),
    }
    plain = written("maximize mean(2 * (reward - 0.25) * logp per batch)")
    same(slope(library("tree_rl"), found), slope(plain, first_step()))


def tabular(beta: float, reference: Tensor, share: Tensor) -> Tensor:
    """The log-probs [K] that minimise DPO over every pair of K answers, where `share[i, j]` of
    judges prefer answer i to j; each answer is one token."""
    logits = reference.clone().requires_grad_()
    places = [(i, j) for i in range(len(reference)) for j in range(len(reference)) if i != j]
    sides = torch.tensor(places).flatten()
    found = {
        "ref_logp": reference[sides, None],
        "mask": torch.ones(len(sides), 1, dtype=torch.bool),
        "group": torch.arange(len(places)).repeat_interleave(2),
    }
    solver = torch.optim.LBFGS(
        [logits],
        max_iter=100,
        tolerance_grad=1e-12,
        tolerance_change=0,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        solver.zero_grad()
        total = torch.zeros((), dtype=torch.float64)
        for number, (i, j) in enumerate(places):
            pair = {name: value[2 * number : 2 * number + 2] for name, value in found.items()}
            own = torch.log_softmax(logits, 0)[sides, None][2 * number : 2 * number + 2]
            one = library("dpo", beta=beta).evaluate({**pair, "logp": own}).loss
            total = total + share[i, j] * one
        total.backward()  # type: ignore[no-untyped-call]
        return total

    solver.step(loss)  # type: ignore[no-untyped-call]
    return torch.log_softmax(logits, 0).detach()


def test_12_the_second_stage_of_sacpo_ends_at_the_first_as_its_weight_goes_to_nought() -> None:
    """With Bradley-Terry judges of safety c the optimum is first · exp(weight · c / beta), which is
    that of both rewards at once; for a weight of 0 it is the first model."""
    start = torch.log_softmax(torch.tensor([0.3, -0.2, 0.1], dtype=torch.float64), 0)
    helpful = torch.tensor([0.5, 0.0, -0.4], dtype=torch.float64)
    safe = torch.tensor([-0.3, 0.6, 0.1], dtype=torch.float64)

    def judged(c: Tensor) -> Tensor:
        return torch.sigmoid(c[:, None] - c[None, :])

    first = tabular(0.5, start, judged(helpful))
    torch.testing.assert_close(
        first, torch.log_softmax(start + helpful / 0.5, 0), atol=1e-6, rtol=0
    )
    apart = []
    for weight in (1.0, 0.1, 0.01):
        second = tabular(0.5 / weight, first, judged(safe))
        both = torch.log_softmax(start + (helpful + weight * safe) / 0.5, 0)
        torch.testing.assert_close(second, both, atol=1e-6, rtol=0)
        apart.append(float((second - first).abs().max()))
    assert apart[0] > 0.5 and apart[2] < 0.02 and apart[2] < apart[1] < apart[0]


@pytest.mark.parametrize("name", ["rloo", "remax", "reinforce_plus_plus", "ppo"])
def test_13_a_penalty_of_zero_in_the_reward_is_the_outcome_reward(name: str) -> None:
    """And demands no reference."""
    assert "ref_logp" not in library(name).needs
    found = batch()
    found["ref_logp"] = found["old_logp"].clone()
    same(slope(library(name, beta=0.5), found), slope(library(name), batch()))


@pytest.mark.parametrize("reward", [REAL, BINARY], ids=["real", "binary"])
def test_clipping_starts_beyond_the_first_step(reward: list[float]) -> None:
    """PPO with and without the dual clip, on its first step."""
    once = slope(library("ppo", dual_clip=0.0), first_step(reward))
    same(slope(library("ppo"), first_step(reward)), once)


def test_rex_rag_raises_the_first_ratio_of_ordinary_rows() -> None:
    """The mixture's log(1 - share) is part of every denominator: 1 / (1 - 0.3) is over 1.2."""
    found = first_step()
    loss = library("rex_rag", beta=0.0, clip=9.0).evaluate(found)
    assert loss.logs["clipped"] == 0
    assert library("rex_rag", beta=0.0).evaluate(found).logs["clipped"] > 0.5
