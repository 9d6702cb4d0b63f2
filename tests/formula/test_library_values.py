"""Library algorithms, value and gradient, against float64 torch written directly here."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import grape

Batch = dict[str, Tensor]


def rollouts(seed: int = 0, pad: int = 0) -> Batch:
    make = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([4, 2, 3, 1, 5, 2])
    width = 5 + pad
    mask = torch.arange(width)[None, :] < lengths[:, None]
    noise = [torch.randn(6, 5, generator=make, dtype=torch.float64) * 0.3 for _ in range(3)]
    logp, old, ref = (torch.nn.functional.pad(-1 + x, (0, pad)) for x in noise)
    reward = torch.tensor([1, 0, 0.5, 0, 2, -1], dtype=torch.float64)
    group = torch.tensor([7, 7, 7, 7, 3, 3])
    return {
        "logp": logp.requires_grad_(),
        "old_logp": old,
        "ref_logp": ref,
        "reward": reward,
        "mask": mask,
        "group": group,
    }


def centred(b: Batch) -> Tensor:
    r = b["reward"]
    return torch.cat([r[:4] - r[:4].mean(), r[4:] - r[4:].mean()])


def deviation(b: Batch) -> Tensor:
    r = b["reward"]
    return torch.cat([r[:4].std().expand(4), r[4:].std().expand(2)])


def surrogate(b: Batch, advantage: Tensor, low: float, high: float) -> Tensor:
    w = (b["logp"] - b["old_logp"]).exp()
    a = advantage[:, None]
    return -torch.minimum(w * a, w.clamp(1 - low, 1 + high) * a)


def k3(b: Batch) -> Tensor:
    d = b["ref_logp"] - b["logp"]
    return d.exp() - d - 1


def per_sequence(b: Batch, x: Tensor) -> Tensor:
    return (x * b["mask"]).sum(1)


def grpo(b: Batch, beta: float) -> Tensor:
    x = surrogate(b, centred(b) / (deviation(b) + 1e-4), 0.2, 0.2) + beta * k3(b)
    return (per_sequence(b, x) / b["mask"].sum(1)).mean()


def dapo(b: Batch) -> Tensor:
    x = surrogate(b, centred(b) / (deviation(b) + 1e-4), 0.2, 0.28)
    return x[b["mask"]].mean()


def dr_grpo(b: Batch) -> Tensor:
    return per_sequence(b, surrogate(b, centred(b), 0.2, 0.2)).sum() / (6 * 8)


def rloo(b: Batch) -> Tensor:
    r = b["reward"]
    others = torch.stack([(r[:4].sum() - r[i]) / 3 for i in range(4)] + [r[5], r[4]])
    return -((r - others) * per_sequence(b, b["logp"])).mean()


def reinforce(b: Batch) -> Tensor:
    advantage = b["reward"] - b["reward"].mean()
    return -(advantage[:, None] * b["logp"])[b["mask"]].mean()


def dpo(b: Batch) -> Tensor:
    gain = per_sequence(b, b["logp"] - b["ref_logp"])
    return -torch.nn.functional.logsigmoid(0.1 * (gain[0::2] - gain[1::2])).mean()


CASES: list[tuple[str, dict[str, float], Callable[[Batch], Tensor]]] = [
    ("sft", {}, lambda b: -b["logp"][b["mask"]].mean()),
    ("grpo", {}, lambda b: grpo(b, 0.0)),
    ("grpo", {"beta": 0.04}, lambda b: grpo(b, 0.04)),
    ("dapo", {}, dapo),
    ("dr_grpo", {"max_tokens": 8}, dr_grpo),
    ("rloo", {}, rloo),
    ("reinforce", {}, reinforce),
    ("dpo", {}, dpo),
]


@pytest.mark.parametrize(("name", "params", "direct"), CASES)
def test_value_and_gradient(
    name: str, params: dict[str, float], direct: Callable[[Batch], Tensor]
) -> None:
    ours, theirs = rollouts(), rollouts()
    found, wanted = grape.algorithm(name, **params).evaluate(ours).loss, direct(theirs)
    found.backward()  # type: ignore[no-untyped-call]
    wanted.backward()  # type: ignore[no-untyped-call]
    assert found.item() == pytest.approx(wanted.item(), abs=1e-9)
    torch.testing.assert_close(ours["logp"].grad, theirs["logp"].grad, atol=1e-9, rtol=0)


@pytest.mark.parametrize("name", ["sft", "grpo", "dapo", "dr_grpo", "rloo", "reinforce"])
def test_padding_and_order_change_nothing(name: str) -> None:
    algorithm = grape.algorithm(name)
    loss = float(algorithm.evaluate(rollouts()).loss)
    assert float(algorithm.evaluate(rollouts(pad=3)).loss) == pytest.approx(loss, abs=1e-12)
    order = torch.tensor([5, 2, 0, 4, 1, 3])
    mixed = {key: value[order] for key, value in rollouts().items()}
    assert float(algorithm.evaluate(mixed).loss) == pytest.approx(loss, abs=1e-12)


def test_equal_rewards_give_no_gradient_and_no_nan() -> None:
    batch = rollouts()
    batch["reward"] = torch.full((6,), 0.1, dtype=torch.float64)
    grape.algorithm("grpo").evaluate(batch).loss.backward()  # type: ignore[no-untyped-call]
    assert batch["logp"].grad is not None
    assert float(batch["logp"].grad.abs().max()) < 1e-10


def test_dpo_golden_number() -> None:
    logp = torch.tensor([[0.8], [-0.4]], dtype=torch.float64)
    batch = {
        "logp": logp,
        "ref_logp": torch.zeros(2, 1, dtype=torch.float64),
        "mask": torch.ones(2, 1, dtype=torch.bool),
        "group": torch.tensor([0, 0]),
    }
    loss = grape.algorithm("dpo", beta=0.1).evaluate(batch).loss
    assert float(loss) == pytest.approx(0.634946, abs=1e-6)


def test_demand_follows_the_parameters() -> None:
    assert grape.algorithm("grpo").needs == {"logp", "old_logp", "reward"}
    assert "ref_logp" in grape.algorithm("grpo", beta=0.1).needs
    assert grape.algorithm("sft").needs == {"logp"}


def test_mistakes_of_the_caller_are_named() -> None:
    with pytest.raises(ValueError, match="grpo"):
        grape.algorithm("grppo")
    with pytest.raises(ValueError, match="clip"):
        grape.algorithm("grpo", clp=0.1)
    batch = rollouts()
    del batch["old_logp"]
    with pytest.raises(ValueError, match="old_logp"):
        grape.algorithm("grpo").evaluate(batch)
