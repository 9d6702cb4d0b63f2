"""Two processes that train together: the gradient of the whole batch, the samples of one process.

Everything runs in one pair of processes over gloo; the launcher is tested in `runtime/`.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from core.pair import Pair, together
from core.test_exactness import (
    ALL,
    NAMES,
    THREE,
    algorithm_of,
    examples,
    expected,
    gradients,
    policy,
    tables,
)
from torch import Tensor

from grape.runtime.core.step import Cutting, gradient
from grape.runtime.formula import compile_formula

CLOSE = 1e-9
CUTS = (Cutting(THREE), Cutting(ALL, share=False, packed=False, fused=False, skip=False))


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with together() as found:
        yield found


def stepped(name: str, how: Cutting) -> tuple[float, dict[str, float], Tensor]:
    """Loss, logs and gradient of a step in this process and whoever works with it."""
    algorithm, model = algorithm_of(name), policy("llama")
    batch = examples(algorithm)
    compiled, others = compile_formula(algorithm.formula), tables("llama", algorithm, batch)
    step = gradient(model, compiled, batch, given={}, how=how, tables=others)
    return step.loss, step.logs, gradients(model)


@pytest.mark.parametrize("name", NAMES)
def test_the_gradient_of_two_processes_is_that_of_the_formula(pair: Pair, name: str) -> None:
    loss, wanted = expected(name, "llama")
    for how in CUTS:
        one, other = pair.do(stepped, name, how)
        assert abs(one[0] - loss) <= CLOSE * max(1.0, abs(loss)), how
        assert one[0] == other[0] and str(one[1]) == str(other[1])
        assert (one[2] - wanted).norm() <= CLOSE * wanted.norm(), how
        assert torch.equal(one[2], other[2]), "both must step to the same bytes"
