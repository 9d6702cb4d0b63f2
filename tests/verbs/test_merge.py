"""`merge`: the ends of a line and of an arc, the middle of both, and models that do not mix."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from grape.compiler.plan import PlannedStage, Ref
from grape.runtime.context import Context
from grape.runtime.core.models import Policy
from grape.runtime.errors import StageError
from grape.runtime.verbs import merge
from grape.runtime.verbs.fresh import new_model, train_tokenizer

SHAPE: dict[str, Any] = {
    "architecture": "llama",
    "layers": 1,
    "hidden": 16,
    "heads": 2,
    "kv_heads": None,
    "intermediate": None,
    "context": 64,
}


def model(seed: int, texts: tuple[str, ...] = (), **shape: Any) -> Policy:
    return new_model({**SHAPE, **shape}, train_tokenizer(iter(texts), 300), seed)


def merged(models: list[Policy], weights: list[float], method: str = "linear") -> Policy:
    ports = merge.PORTS[: len(models)]
    stage = PlannedStage(
        name="both",
        verb="merge",
        type="Model",
        inputs={port: Ref(stage=f"m{place}") for place, port in enumerate(ports)},
        settings={"weights": weights, "method": method},
    )
    inputs = dict(zip(ports, models, strict=True))
    return merge.run(Context(stage, Path(), Path(), lambda event: None), inputs)


def states(policy: Policy) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = policy.model.state_dict()
    return found


@pytest.mark.parametrize("method", ["linear", "slerp"])
def test_shares_of_nought_and_one_give_the_models_back(method: str) -> None:
    one, two = model(1), model(2)
    for weights, whole in (([1.0, 0.0], one), ([0.0, 1.0], two)):
        made = states(merged([one, two], weights, method))
        for name, value in states(whole).items():
            assert torch.allclose(made[name], value, atol=0 if method == "linear" else 1e-7)


def test_linear_is_the_weighted_mean_of_every_tensor_and_leaves_its_inputs() -> None:
    parts = [model(seed) for seed in (1, 2, 3)]
    before = {name: value.clone() for name, value in states(parts[0]).items()}
    weights = [0.5, 0.75, -0.25]
    made = states(merged(parts, weights))
    for name, value in made.items():
        expected = sum(w * states(p)[name].double() for w, p in zip(weights, parts, strict=True))
        assert isinstance(expected, torch.Tensor)
        assert torch.equal(value, expected.float())
    assert all(torch.equal(states(parts[0])[name], value) for name, value in before.items())


def test_slerp_goes_along_the_arc() -> None:
    one, two = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    middle = merge._slerp([one, two], [0.5, 0.5])
    assert torch.allclose(middle, torch.full((1, 2), 3 / math.sqrt(2)))
    third = merge._slerp([one, two], [2 / 3, 1 / 3])
    assert torch.allclose(third, 3 * torch.tensor([[math.cos(math.pi / 6), 0.5]]))
    same = merge._slerp([one, one], [0.3, 0.7])
    assert torch.allclose(same, one)


@pytest.mark.parametrize(
    ("other", "why"),
    [
        (model(2, hidden=32), "is .* in one and"),
        (model(2, layers=2), "only one has"),
        (model(2, texts=("the theme then there " * 30,)), "is .* in one and"),
    ],
)
def test_models_that_do_not_mix_say_why(other: Policy, why: str) -> None:
    with pytest.raises(StageError, match=why):
        merged([model(1), other], [0.5, 0.5])


def test_equal_shapes_with_other_tokens_do_not_mix() -> None:
    one, other = model(1), model(2)
    tokens = other.tokenizer.get_vocab()
    names = sorted(tokens)
    swapped = {**tokens, names[0]: tokens[names[1]], names[1]: tokens[names[0]]}

    class Swapped:
        def get_vocab(self) -> dict[str, int]:
            return swapped

    with pytest.raises(StageError, match="tokenizers number the tokens differently"):
        merged([one, Policy(other.model, Swapped())], [0.5, 0.5])
