"""Library algorithms, value and gradient, against TRL, verl and Liger.

`make oracles` computed the numbers in `tests/oracles/golden`; every algorithm of the library that
has a file there is held to it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import grape
from grape.runtime.algorithm import LIBRARY

GOLDEN = Path(__file__).parents[1] / "oracles" / "golden"
CLOSE = 1e-6


def cases() -> list[Any]:
    """One parameter set per oracle of every algorithm that the library has."""
    found = []
    for path in sorted(GOLDEN.glob("*.json")):
        if (LIBRARY / path.name).with_suffix(".grape").is_file():
            document = json.loads(path.read_text(encoding="utf-8"))
            for number, case in enumerate(document["cases"]):
                library = case["function"].partition(":")[0]
                name = f"{document['algorithm']}-{number}-{library}"
                found.append(pytest.param(document["algorithm"], document["batch"], case, id=name))
    return found


def tensors(batch: dict[str, Any]) -> dict[str, Tensor]:
    whole = {"mask": torch.bool, "group": torch.long}
    return {
        name: torch.tensor(value, dtype=whole.get(name, torch.float64))
        for name, value in batch.items()
    }


@pytest.mark.parametrize(("name", "values", "case"), cases())
def test_loss_and_gradient_equal_the_oracle(
    name: str, values: dict[str, Any], case: dict[str, Any]
) -> None:
    batch = tensors(values)
    live = {quantity: batch[quantity].requires_grad_() for quantity in case["gradient"]}
    loss = grape.algorithm(name, **case["params"]).evaluate(batch).loss
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.item() == pytest.approx(case["loss"], abs=CLOSE), case["function"]
    for quantity, wanted in case["gradient"].items():
        grad = live[quantity].grad
        assert grad is not None, quantity
        expected = torch.tensor(wanted, dtype=torch.float64)
        assert expected.abs().max() > 1e-4, "an oracle without gradient proves nothing"
        torch.testing.assert_close(grad, expected, atol=CLOSE, rtol=0)


def test_the_first_library_has_oracles_of_several_libraries() -> None:
    libraries = {
        name: {
            case["function"].partition(":")[0]
            for case in json.loads((GOLDEN / f"{name}.json").read_text())["cases"]
        }
        for name in ("sft", "reinforce", "rloo", "grpo", "dapo", "dr_grpo", "dpo")
    }
    assert all(libraries.values())
    for name in ("grpo", "dapo", "dr_grpo"):
        assert libraries[name] == {"trl", "verl", "liger_kernel"}
