"""Two processes that train together: the gradient of the whole batch, the samples of one process.

Everything runs in one pair of processes over gloo; the launcher is tested in `runtime/`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from core.pair import Pair, together
from core.pipes import Cut, run
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

from grape.runtime import ranks
from grape.runtime.core import exchange
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


def changed(rank_of_change: int) -> str | None:
    """The weight that differs when one process has changed one of them."""
    model = policy("llama")
    weight = dict(model.named_parameters())["model.norm.weight"]
    before = weight.detach().clone()
    with torch.no_grad():
        if ranks.rank() == rank_of_change:
            weight[3] += 1e-12
    found = exchange.apart(model.named_parameters())
    with torch.no_grad():
        weight.copy_(before)
    return found


def test_weights_that_differ_in_one_process_are_named(pair: Pair) -> None:
    assert pair.do(changed, 1) == ["model.norm.weight"] * 2
    assert pair.do(changed, 5) == [None] * 2


def first_alone(processes: int) -> list[int]:
    with ranks.among(processes):
        return ranks.share([5, 9, 1, 4, 4])


def test_rows_are_shared_out_by_what_they_cost(pair: Pair) -> None:
    assert pair.do(first_alone, 2) == [[1, 4], [0, 2, 3]]
    assert pair.do(first_alone, 1) == [[0, 1, 2, 3, 4], []]


GROUPS = """
  stage warm = train(base, sums) {
    algorithm = sft(), lr = 1e-3, updates = 3, sequences_per_update = 5, checkpoint = 1ms
  }
  repeat 2 with policy = warm {
    stage tries = sample(policy, sums) {
      prompts = 3, group = 4, max_tokens = 4, greedy = true
      curriculum = by_rate(success = 0.5)
    }
    stage scored = score(tries, lively())
    stage varied = keep(scored) { where = std(reward per group) > 0, prompts = 3, max_tries = 20 }
    next policy = train(policy, varied) {
      algorithm = grpo(beta = 0.05), lr = 1e-3, epochs = 2, sequences_per_update = 8
      checkpoint = 1ms
    }
    every 2 { stage seen = evaluate(policy, sums, lively()) { prompts = 3, max_tokens = 4 } }
    until policy.loss > 1000
  }
  stage after = evaluate(policy, sums, lively()) { prompts = 5, max_tokens = 4, temperature = 1 }
"""
PAIRS = """
  stage tries = sample(base, sums) { prompts = 4, group = 3, max_tokens = 4 }
  stage pairs = pair(score(tries, lively()))
  stage judge = train(base, pairs) { algorithm = reward_model(), lr = 1e-3 }
  stage tuned = train(base, pairs) { algorithm = dpo(), lr = 1e-3, epochs = 2 }
  repeat 2 with policy = tuned {
    stage drawn = sample(policy, sums) { prompts = 3, group = 2, max_tokens = 3 }
    stage scored = score(drawn, judge)
    next policy = train(policy, scored) {
      algorithm = ppo(), lr = 1e-3, head_lr = 1e-1, epochs = 2, sequences_per_update = 4
      adapter = lora(rank = 2)
    }
  }
"""
BOUNDED = """
  repeat 2 with policy = base {
    stage tries = sample(policy, sums) {
      prompts = 2, max_tokens = 4, sampler = tree(roots = 2, expand = 1)
    }
    stage scored = score(tries, lively())
    next policy = train(policy, scored) { algorithm = trpo(max_kl = 0.01), damping = 1e-3 }
  }
  repeat 1 with other = policy {
    stage again = sample(other, sums) { prompts = 3, group = 4, max_tokens = 3 }
    stage marked = score(again, lively())
    next other = train(other, marked) {
      algorithm = fixpo(max_kl = 0.002), solver = "penalty", penalty = 0, lr = 5e-3, epochs = 2
      ## The group whose rewards differ first: Adam makes a step of the rounding of a zero gradient.
      sequences_per_update = 4, seed = 4
    }
  }
"""
BODIES = {
    "sft, grpo": GROUPS,
    "reward_model, dpo, ppo": PAIRS.replace("pair(score(tries, lively()))", "pair(seen)").replace(
        "  stage pairs", "  stage seen = score(tries, lively())\n  stage pairs"
    ),
    "trpo, fixpo": BOUNDED,
}


def told(folder: Path, used: str, cut: tuple[str, int] | None = None) -> list[dict[str, Any]]:
    """Run a pipeline here, or together; the metrics and samples without times."""
    try:
        pipe = run(folder, BODIES[used], used, cut=cut, exact=True)
    except Cut:
        return []
    return [
        {name: value for name, value in event.items() if name not in ("seconds", "at")}
        for event in pipe.events
        if event["event"] in ("metrics", "samples")
    ]


def alike(one: Any, other: Any, at: str = "") -> None:
    """Assert that two JSON values are the same, numbers to rounding; `at` is their place."""
    if isinstance(one, float):
        assert other == pytest.approx(one, rel=1e-6, abs=1e-6), at
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for name, value in one.items():
            alike(value, other[name], f"{at} {name}")
    elif isinstance(one, list):
        assert len(one) == len(other)
        for place, (left, right) in enumerate(zip(one, other, strict=True)):
            alike(left, right, f"{at} {place}")
    else:
        assert one == other


def same_models(one: Path, other: Path) -> None:
    from safetensors.torch import load_file

    files = sorted(file.relative_to(one) for file in one.glob("made/*/*.safetensors"))
    assert files
    for file in files:
        expected, found = load_file(one / file), load_file(other / file)
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            assert torch.allclose(value, found[name], rtol=1e-6, atol=1e-8), (file, name)


@pytest.mark.parametrize("used", BODIES)
def test_a_pipeline_of_two_processes_tells_and_makes_what_one_does(
    pair: Pair, tmp_path: Path, used: str
) -> None:
    expected = told(tmp_path / "one", used)
    one, other = pair.do(told, tmp_path / "two", used)
    assert len(expected) > 4
    alike(expected, one)
    alike(one, other)
    same_models(tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("cut", [("warm", 2), ("next", 6)])
def test_what_two_processes_began_one_ends(
    pair: Pair, tmp_path: Path, cut: tuple[str, int]
) -> None:
    told(tmp_path / "whole", "sft, grpo")
    pair.do(told, tmp_path / "parted", "sft, grpo", cut)
    stage = "warm" if cut[0] == "warm" else "policy"
    assert (tmp_path / "parted" / "work" / stage / "checkpoint" / "state.pt").is_file()
    told(tmp_path / "parted", "sft, grpo")
    same_models(tmp_path / "whole", tmp_path / "parted")
