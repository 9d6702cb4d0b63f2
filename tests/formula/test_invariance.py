"""What must not change a loss: order, padding, and a second copy of every sequence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from formula.batches import BINARY, LIVE, REAL, batch, doubled, permuted, with_parts
from formula.test_library_values import CASES, NAMES

import grape

PAIRED = {name for name in NAMES if grape.algorithm(name).on == "Preferences"}
ORDER = [5, 2, 9, 0, 7, 4, 8, 1, 3, 6]
PAIR_ORDER = [4, 5, 8, 9, 0, 1, 6, 7, 2, 3]


def value(name: str, params: dict[str, Any], found: dict[str, torch.Tensor]) -> float:
    return grape.algorithm(name, **params).evaluate(found).loss.item()


@pytest.mark.parametrize(("name", "options"), CASES)
def test_the_order_of_sequences_and_groups_changes_nothing(
    name: str, options: dict[str, Any]
) -> None:
    params = {key: item for key, item in options.items() if key != "parts"}
    found = with_parts(batch()) if "parts" in options else batch()
    mixed = permuted(found, PAIR_ORDER if name in PAIRED else ORDER)
    assert value(name, params, mixed) == pytest.approx(value(name, params, found), abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("reward", [REAL, BINARY], ids=["real", "binary"])
def test_padding_changes_neither_loss_nor_gradient(name: str, reward: list[float]) -> None:
    short, long = batch(reward=reward), batch(reward=reward, pad=3)
    losses = [grape.algorithm(name).evaluate(found).loss for found in (short, long)]
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-12)
    for loss in losses:
        loss.backward()  # type: ignore[no-untyped-call]
    for live in LIVE:
        one, other = short[live].grad, long[live].grad
        if one is not None and other is not None:
            wide = other[:, : one.shape[1]] if one.dim() > 1 else other
            torch.testing.assert_close(one, wide, atol=1e-12, rtol=0)
            assert one.dim() == 1 or not other[:, one.shape[1] :].any()


@pytest.mark.parametrize(
    "name", ["sft", "dft", "reinforce", "dr_grpo", "dpo", "simpo", "kto", "gkd", "reward_model"]
)
def test_a_second_copy_of_every_sequence_changes_nothing(name: str) -> None:
    assert value(name, {}, doubled(batch())) == pytest.approx(value(name, {}, batch()), abs=1e-12)


AGGREGATIONS = {
    "mean(x per batch)": 2.1,
    "mean(sum(x per sequence) per batch)": 5.25,
    "mean(mean(x per sequence) per batch)": 2.5,
    "sum(x per batch) / 8": 2.625,
    "sum(x per batch) / (4 * 8)": 0.65625,
}


@pytest.mark.parametrize(("form", "golden"), AGGREGATIONS.items())
def test_aggregations_and_what_a_second_copy_does_to_them(form: str, golden: float) -> None:
    """Token-mean, both sequence means, and the two normalised sums, on the losses 1, 2, 3, 4."""
    from formula.test_idle import written

    compiled = written(f"let x = -logp * reward\nminimize {form}")
    lengths = torch.tensor([4, 2, 3, 1])
    found = {
        "logp": -torch.ones(4, 4, dtype=torch.float64),
        "reward": torch.tensor([1, 2, 3, 4], dtype=torch.float64),
        "mask": torch.arange(4)[None, :] < lengths[:, None],
        "group": torch.zeros(4, dtype=torch.long),
    }
    assert compiled.evaluate(found).loss.item() == pytest.approx(golden, abs=1e-12)
    twice = compiled.evaluate(doubled(found)).loss.item()
    assert twice == pytest.approx(golden * (2 if form.startswith("sum") else 1), abs=1e-12)
