"""What a formula knows before the model has run: never claimed where the numbers matter."""

from __future__ import annotations

import pytest
import torch

import grape
from grape.compiler.formula.fixed import Foreknown, foreknown
from grape.compiler.formula.vocabulary import TABLES, split
from grape.runtime.algorithm import LIBRARY, Algorithm
from grape.runtime.formula import compile_formula, level_of
from grape.runtime.layout import Layout

STEPS = {"tree_rl"}
"""Their batches have steps, which this one has not."""
NAMES = sorted(path.stem for path in LIBRARY.glob("*.grape"))


def found(name: str) -> Algorithm | None:
    try:
        return grape.algorithm(name)
    except (ValueError, StopIteration):  # needs a parameter, or quantities of a later version
        return None


def gradients(algorithm: Algorithm, on_policy: bool, seed: int) -> torch.Tensor:
    """By the log-probs of four sequences, whose numbers alone depend on `seed`."""
    make = torch.Generator().manual_seed(7)
    layout = Layout.from_lengths([3, 2, 4, 1], [0, 0, 1, 1], algorithm.on == "Preferences")
    values = {
        name: torch.rand(layout.size(level_of(name)), generator=make, dtype=torch.float64)
        for name in sorted(algorithm.needs)
    }
    for name in values:
        if level_of(name).value == "batch":
            values[name] = values[name].squeeze()
    torch.manual_seed(seed)
    logp = torch.log(torch.rand(10, dtype=torch.float64)).requires_grad_()
    values["logp"] = logp
    if "entropy" in values:
        values["entropy"] = torch.rand(10, dtype=torch.float64)
    if on_policy:
        for name in [name for name in values if name.startswith("old_")]:
            values[name] = values[name.removeprefix("old_")].detach()
    loss = compile_formula(algorithm.formula).loss(values, layout)
    return torch.autograd.grad(loss, logp, allow_unused=True)[0]


@pytest.mark.parametrize("on_policy", [True, False])
@pytest.mark.parametrize("name", NAMES)
def test_weights_that_are_known_do_not_depend_on_the_numbers(name: str, on_policy: bool) -> None:
    algorithm = found(name)
    if algorithm is None or name in STEPS:
        return
    if algorithm.needs & TABLES:  # see the next test
        return
    if not foreknown(algorithm.formula, on_policy=on_policy).weights:
        return
    first, second = (gradients(algorithm, on_policy, seed) for seed in (1, 2))
    assert torch.equal(first, second)


@pytest.mark.parametrize("name,known", [("gkd", True), ("rover", False)])
def test_of_distributions_the_part_per_token_is_asked(name: str, known: bool) -> None:
    """A weighted sum of divergences has known weights; a squared difference has not."""
    cut = split(grape.algorithm(name).formula)
    assert cut is not None
    assert foreknown(cut.outer, on_policy=True).weights is known


@pytest.mark.parametrize(
    "name,options,on_policy,wanted",
    [
        ("sft", {}, False, Foreknown(weights=True, logs=False)),
        ("grpo", {}, True, Foreknown(weights=True, logs=True)),
        ("grpo", {}, False, Foreknown(weights=False, logs=False)),
        ("grpo", {"beta": 0.1}, True, Foreknown(weights=False, logs=False)),
        ("dpo", {}, False, Foreknown(weights=False, logs=False)),
    ],
)
def test_what_is_known(
    name: str, options: dict[str, float], on_policy: bool, wanted: Foreknown
) -> None:
    assert foreknown(grape.algorithm(name, **options).formula, on_policy=on_policy) == wanted
