"""Library algorithms, value and gradient, against float64 torch written in `direct.py`."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from formula.batches import BINARY, LIVE, REAL, batch, with_parts
from formula.direct import DIRECT, B

import grape
from grape.runtime.algorithm import LIBRARY

PARTED: dict[str, Any] = {"parts": True}
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "grpo": [{}, {"beta": 0.04}],
    "dr_grpo": [{"max_tokens": 8}],
    "rloo": [{}, {"beta": 0.05}],
    "reinforce_plus_plus": [{}, {"gamma": 0.9, "beta": 0.2}],
    "remax": [{}, {"gamma": 0.9, "beta": 0.2}],
    "ppo": [
        {"beta": 0.3},
        {"gamma": 0.9, "lam": 0.8, "clip_value": 0.1, "value_weight": 0.3},
        {"dual_clip": 0.0, "clip": 0.05},
        {"dual_clip": 1.1, "clip": 0.5},
    ],
    "rejection": [{}, {"threshold": 0.3}],
    "gspo": [{}, {"clip_low": 0.2, "clip_high": 0.2}],
    "luspo": [{}, {"clip_low": 0.2, "clip_high": 0.2}],
    "gmpo": [{}, {"clip_low": 0.1, "clip_high": 0.05}],
    "gpg": [{}, {"alpha": "scored", "norm": 2.0}, {"alpha": "none"}],
    "clip_cov": [{}, {"cov_low": 0.0, "share": 0.2}],
    "kl_cov": [{}, {"share": 0.3, "beta": 1.0}],
    "gdpo": [{}, PARTED],
    "grape": [
        {},
        {"beta": 0.1},
        PARTED,
        {**PARTED, "scope": "batch", "normalise": "none"},
        {**PARTED, "baseline": "others", "scale": "none"},
        {**PARTED, "scale": "batch"},
    ],
    "ipo": [{}, {"average": True}],
    "reward_model": [{}, {"use_margin": True, "centre": 0.1}],
    "kto": [{}, {"point": "mismatched"}, {"good_weight": 1.3, "bad_weight": 0.7, "beta": 0.5}],
    "gkd": [{}, {"beta": 0.0}, {"beta": 1.0}, {"beta": 0.3, "temperature": 1.0}],
    "on_policy_distillation": [{}, {"estimate": "full"}],
    "cpgd": [{}, {"scale": "filter", "drift_weight": 0.5}, {"scale": "none", "clip": 0.1}],
    "rpg": [
        {"divergence": divergence, "form": form, "beta": 0.3, "dual_clip": 1.2}
        for divergence in ("forward", "reverse", "unnormalised_forward", "unnormalised_reverse")
        for form in ("differentiable", "reinforce")
    ],
    "gtpo": [{}, {"sets": "apart"}],
    "grpo_s": [{}, {"sets": "apart"}],
    "nft": [{}, {"normalize": 2, "negative": 0.5}],
    "rover": [{}, {"rho": 0.5}],
    "rebel": [{}, {"eta": 0.5}],
    "rec": [
        {"variant": variant, "weight": weight, "beta": 0.1, "outer_low": 0.1, "outer_high": 0.1}
        for variant in ("one_side", "two_side", "ring")
        for weight in ("none", "ratio", "truncated")
    ],
    "opmd": [{}, {"baseline": "log_mean_exp", "tau": 0.7}],
    "seed_grpo": [{}, {"shape": "linear", "alpha": 0.3}, {"shape": "exponential", "alpha": 0.3}],
    "grpo_lead": [{}, {"onset": 1}],
    "polychromic": [{}, {"window": 1}],
    "tree_grpo": [{}, {"variant": "two_norm"}, {"variant": "inner", "beta": 0.1}],
    "tree_rl": [{}, {"beta": 0.1}],
    "mm_grpo": [{}],
    "d3s": [{}, {"rows": 4, "share": 0.5}],
    "fixpo": [{}, {"gamma": 0.9, "lam": 0.5, "value_weight": 1.0}],
    "thor": [{}, {"dual_clip": 1.1}],
}
NAMES = sorted(path.stem for path in LIBRARY.glob("*.grape"))
CASES = [(name, options) for name in NAMES for options in OPTIONS.get(name, [{}])]


def test_every_algorithm_has_a_direct_counterpart() -> None:
    assert set(NAMES) == set(DIRECT)


@pytest.mark.parametrize(("name", "options"), CASES)
@pytest.mark.parametrize("reward", [REAL, BINARY], ids=["real", "binary"])
def test_value_and_gradient(name: str, options: dict[str, Any], reward: list[float]) -> None:
    if name == "d3s" and "rows" in options and reward is BINARY:
        pytest.skip("advantages that tie: which of them vary most is a matter of their order")
    params = {key: value for key, value in options.items() if key != "parts"}
    ours, theirs = batch(reward=reward), batch(reward=reward)
    if "parts" in options:
        ours, theirs = with_parts(ours), with_parts(theirs)
    found = grape.algorithm(name, **params).evaluate(ours).loss
    wanted = DIRECT[name](B(theirs), **params)
    found.backward()  # type: ignore[no-untyped-call]
    wanted.backward()  # type: ignore[no-untyped-call]
    assert found.item() == pytest.approx(wanted.item(), abs=1e-9)
    for live in LIVE:
        one, other = ours[live].grad, theirs[live].grad
        zero = torch.zeros_like(ours[live])
        torch.testing.assert_close(
            zero if one is None else one, zero if other is None else other, atol=1e-9, rtol=0
        )
