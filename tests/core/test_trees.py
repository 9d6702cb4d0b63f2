"""Trees: leaves share nodes token by token, and nodes are worth what their leaves earn."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest
import torch
from core.test_rollouts import tiny

from grape.compiler.formula.levels import Level
from grape.runtime.algorithm import algorithm
from grape.runtime.artifacts import Completion, Item, Rollouts
from grape.runtime.core.examples import of_rollouts
from grape.runtime.core.models import Policy
from grape.runtime.core.packing import Example
from grape.runtime.core.step import Cutting, gradient, layout_of, logprobs
from grape.runtime.core.trees import grow
from grape.runtime.core.vines import continued
from grape.runtime.formula import compile_formula
from grape.runtime.nodes import node_values

ITEMS = [Item(f"i{n}", prompt="some prompt"[: 3 + 2 * n]) for n in range(3)]
SHAPE: dict[str, Any] = {"roots": 2, "rounds": 2, "expand": 2, "width": 2, "branch": "entropy"}


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny("llama")


def grown(policy: Policy, items: list[Item] = ITEMS, **shape: Any) -> Rollouts:
    how = {
        "temperature": 1.0, "top_p": 1.0, "max_tokens": 9, "stop": [], "seed": 5, "round": 1,
        "rows": 16, "emit": lambda event: None,
    }  # fmt: skip
    return grow(policy, items, {**SHAPE, **shape}, how)


def nodes(row: Completion) -> list[tuple[int, list[int], list[float]]]:
    found, at = [], 0
    for node, size in row.path:
        found.append((node, row.ids[at : at + size], row.logps[at : at + size]))
        at += size
    assert at == len(row.ids) and all(size > 0 for _, size in row.path)
    return found


@pytest.mark.parametrize("branch", ["random", "entropy"])
def test_leaves_share_the_tokens_of_their_nodes(policy: Policy, branch: str) -> None:
    rows = grown(policy, branch=branch).rows
    assert [row.group for row in rows] == [number for number in range(3) for _ in range(18)]
    shared = 0
    for group in range(3):
        known: dict[int, Any] = {}
        trees: dict[int, set[float]] = {}
        for row in (row for row in rows if row.group == group):
            for node, ids, logps in nodes(row):
                shared += node in known
                assert known.setdefault(node, (ids, logps)) == (ids, logps)
                trees.setdefault(node, set()).add(row.added["tree"])
        assert all(len(found) == 1 for found in trees.values()), "a node lies in one tree"
    assert shared > 3 * 12, "every branch but the roots begins with nodes of another"


def test_log_probs_are_those_of_the_whole_completion(policy: Policy) -> None:
    rows = grown(policy).rows
    examples = [Example(tuple(row.prompt_ids), tuple(row.ids), row.group) for row in rows]
    now = logprobs(policy, examples, Cutting())
    recorded = torch.tensor([logp for row in rows for logp in row.logps], dtype=now.dtype)
    torch.testing.assert_close(now, recorded, rtol=0, atol=1e-9)


@pytest.mark.parametrize("branch", ["random", "entropy"])
def test_a_tree_does_not_depend_on_the_prompts_beside_it(policy: Policy, branch: str) -> None:
    alone = grown(policy, ITEMS[1:2], branch=branch).rows
    beside = [row for row in grown(policy, branch=branch).rows if row.group == 1]
    assert [(row.ids, row.path) for row in alone] == [(row.ids, row.path) for row in beside]
    again = grown(policy, ITEMS[1:2], branch=branch).rows
    assert [row.ids for row in again] == [row.ids for row in alone]


def test_places_are_the_least_likely_tokens(policy: Policy) -> None:
    rows = grown(policy, ITEMS[:1], roots=1, rounds=1, expand=1, width=1).rows
    root, branch = rows
    inner = range(1, len(root.ids) - 1)
    assert branch.path[0] == root.path[0]
    assert root.path[0][1] == min(inner, key=lambda at: root.logps[at])


def scored(policy: Policy) -> Rollouts:
    found = grown(policy)
    rewarded = [replace(row, reward=float(number % 5)) for number, row in enumerate(found.rows)]
    return replace(found, rows=node_values(rewarded))


def test_a_node_is_worth_the_mean_of_its_leaves(policy: Policy) -> None:
    rows = scored(policy).rows
    for row in rows:
        family = [other for other in rows if other.group == row.group]
        before = fmean(other.reward or 0.0 for other in family)
        for place, (node, _) in enumerate(row.path):
            below = [o.reward for o in family if node in [name for name, _ in o.path]]
            value = fmean(reward or 0.0 for reward in below)
            assert row.steps["node_value"][place] == pytest.approx(value)
            assert row.steps["parent_value"][place] == pytest.approx(before)
            assert row.steps["leaves"][place] == len(below)
            before = value


@pytest.mark.parametrize("name", ["tree_rl", "tree_grpo"])
def test_a_step_is_the_formula_on_the_whole_batch(policy: Policy, name: str) -> None:
    """What a train step supplies gives the loss that `evaluate` gives on padded tensors."""
    algo = algorithm(name, **({"beta": 0.0} if name == "tree_grpo" else {}))
    data = scored(policy)
    data.rows = data.rows[:12] + data.rows[20:30]
    examples = of_rollouts(data, algo.formula.needs)
    how = Cutting(budget=64)
    given = {name: 0.9 * logprobs(policy, examples, how) for name in ("old_logp", "ref_logp")}
    found = []
    for budget in (1, 64, 10**6):
        cut = Cutting(budget=budget)
        step = gradient(policy, compile_formula(algo.formula), examples, given=given, how=cut)
        found.append([weight.grad.clone() for weight in policy.model.parameters()])
        policy.model.zero_grad()
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-9)
    size = max(len(row.ids) for row in data.rows)

    def padded(rows: list[list[float]]) -> torch.Tensor:
        filled = [row + [0.0] * (size - len(row)) for row in rows]
        return torch.tensor(filled, dtype=torch.float64)

    mask = padded([[1.0] * len(row.ids) for row in data.rows]).bool()
    now = torch.zeros(mask.shape, dtype=torch.float64)
    now[mask] = logprobs(policy, examples, how)
    tokens = {
        name: padded([example.tokens[name] for example in examples])
        for name in ("node_value", "parent_value", "leaves")
    }
    batch = {
        **tokens,
        "step": padded([example.tokens["step"] for example in examples]).long(),
        "tree": torch.tensor([int(row.added["tree"]) for row in data.rows]),
        "group": torch.tensor([row.group for row in data.rows]),
        "reward": torch.tensor([row.reward for row in data.rows], dtype=torch.float64),
        "logp": now,
        "old_logp": 0.9 * now,
        "ref_logp": 0.9 * now,
        "mask": mask,
    }
    wanted = float(algo.evaluate(batch).loss)
    assert step.loss == pytest.approx(wanted, abs=1e-9)
    assert abs(wanted) > 1e-6
    layout = layout_of(algo.formula, examples, policy.device)
    assert layout.num_groups == 2 and layout.size(Level.SEQUENCE) == 22


VINE = {"roots": 2, "states": 2, "width": 4, "set_size": 2, "branch": "random"}


def vine(policy: Policy, items: list[Item], **shape: Any) -> list[Completion]:
    how = {
        "temperature": 1.0, "top_p": 1.0, "max_tokens": 9, "stop": [], "seed": 5, "round": 1,
        "rows": 16, "emit": lambda event: None,
    }  # fmt: skip
    return continued(policy, items, {**VINE, **shape}, how).rows


@pytest.mark.parametrize("branch", ["random", "entropy"])
def test_a_vine_goes_on_from_states(policy: Policy, branch: str) -> None:
    """A group is one state: its tokens are prompt, and only what was drawn after it is learned."""
    rows = vine(policy, ITEMS, branch=branch)
    assert len(rows) == 3 * 2 * 2 * 4
    for number in range(12):
        group = [row for row in rows if row.group == number]
        assert len({tuple(row.prompt_ids) for row in group}) == 1
        assert [row.added["set"] for row in group] == [0, 0, 1, 1]
        for members in (group[:2], group[2:]):
            share = len({row.text for row in members}) / 2
            assert [row.added["diversity"] for row in members] == [share, share]
        item = ITEMS[number // 4]
        own = policy.tokenizer(item.prompt).input_ids
        assert group[0].prompt_ids[: len(own)] == own and len(group[0].prompt_ids) > len(own)
        assert all(len(row.ids) + len(row.prompt_ids) <= len(own) + 9 for row in group)
        assert all(len(row.numbered_steps()) == len(row.ids) for row in group)
    examples = [Example(tuple(row.prompt_ids), tuple(row.ids), row.group) for row in rows]
    now = logprobs(policy, examples, Cutting())
    recorded = torch.tensor([logp for row in rows for logp in row.logps], dtype=now.dtype)
    torch.testing.assert_close(now, recorded, rtol=0, atol=1e-9)
    alone = vine(policy, ITEMS[1:2], branch=branch)
    assert [row.ids for row in alone] == [row.ids for row in rows[16:32]]
