"""Golden numbers: advantages, surrogates, links and schedules with their known values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from formula.test_idle import written
from torch import Tensor

import grape

REWARDS = [1.0, 0.0, 0.5, 0.0]
LENGTHS = torch.tensor([4, 2, 3, 1])


def one_group(reward: list[float] | None = None, **more: Tensor) -> dict[str, Tensor]:
    """Four completions of one prompt, on-policy at log-prob -1."""
    logp = torch.full((4, 4), -1.0, dtype=torch.float64)
    return {
        "logp": logp.clone().requires_grad_(),
        "old_logp": logp,
        "reward": torch.tensor(reward or REWARDS, dtype=torch.float64),
        "mask": torch.arange(4)[None, :] < LENGTHS[:, None],
        "group": torch.zeros(4, dtype=torch.long),
        **more,
    }


def gradient(name: str, found: dict[str, Tensor], **params: Any) -> Tensor:
    """Minus the gradient by `logp`, [S, T]."""
    grape.algorithm(name, **params).evaluate(found).loss.backward()  # type: ignore[no-untyped-call]
    grad = found["logp"].grad
    assert grad is not None
    return -grad


def advantages(name: str, scale: str, **params: Any) -> list[float]:
    """What weighs each completion's first token, in units of its aggregation: of one over all
    tokens, over its own, or over the sequences."""
    size = {"tokens": LENGTHS * 0 + 10, "own": 4 * LENGTHS, "sequences": LENGTHS * 0 + 4}[scale]
    return (gradient(name, one_group(), **params)[:, 0] * size).tolist()


ADVANTAGES: list[tuple[str, str, dict[str, Any], list[float]]] = [
    ("grpo", "own", {"eps": 1e-6}, [1.30558, -0.783348, 0.261116, -0.783348]),
    ("dr_grpo", "sequences", {"max_tokens": 1}, [0.625, -0.375, 0.125, -0.375]),
    ("rloo", "sequences", {}, [0.833333, -0.5, 0.166667, -0.5]),
    ("opo", "sequences", {}, [0.45, -0.55, -0.05, -0.55]),
    ("grpo_pass_at_k", "tokens", {}, [1.044464, 0, 0, 0]),
    ("asymre", "tokens", {}, [0.725, -0.275, 0.225, -0.275]),
]


@pytest.mark.parametrize(("name", "scale", "params", "golden"), ADVANTAGES)
def test_advantages(name: str, scale: str, params: dict[str, Any], golden: list[float]) -> None:
    assert advantages(name, scale, **params) == pytest.approx(golden, abs=2e-6)


def test_opmd_with_the_soft_maximum() -> None:
    found = advantages("opmd", "tokens", baseline="log_mean_exp")
    golden = [0.535165, -0.464835, 0.035165, -0.464835]
    assert [2 * value for value in found] == pytest.approx(golden, abs=2e-6)


def test_grpo_with_the_deviation_of_the_population() -> None:
    compiled = written(
        "let advantage = (reward - mean(reward per group)) / (std(reward per group, ddof = 0) "
        "+ 1e-6)\nmaximize mean(sum(advantage * logp per sequence) per batch)"
    )
    found = one_group()
    compiled.evaluate(found).loss.backward()  # type: ignore[no-untyped-call]
    assert found["logp"].grad is not None
    golden = [1.507553, -0.904532, 0.301511, -0.904532]
    assert (-4 * found["logp"].grad[:, 0]).tolist() == pytest.approx(golden, abs=2e-6)


PART = torch.tensor([[1, 0.2], [0, 0.9], [1, 0.4], [0, 0.1]], dtype=torch.float64)
TRUST = torch.tensor([[1, 0.4], [1, 0.6], [1, 0.2], [1, 0.8]], dtype=torch.float64)
RUBRIC = {
    "reward.a": PART[:, 0],
    "reward.b": PART[:, 1],
    "confidence.a": TRUST[:, 0],
    "confidence.b": TRUST[:, 1],
}


@pytest.mark.parametrize(
    ("params", "golden"),
    [
        ({"normalise": "none", "scale": "none"}, [0.4, -0.25, 0.5, -0.65]),
        ({"normalise": "sum", "scale": "none"}, [0.266667, -0.166667, 0.333333, -0.433333]),
        ({"normalise": "sum", "eps": 1e-9}, [0.7323, -0.4577, 0.9154, -1.1900]),
        ({"normalise": "none", "eps": 1e-9}, [0.7323, -0.4577, 0.9154, -1.1900]),
    ],
)
def test_grape(params: dict[str, Any], golden: list[float]) -> None:
    found = gradient("grape", one_group(None, **RUBRIC), **params)[:, 0] * 4 * LENGTHS
    assert found.tolist() == pytest.approx(golden, abs=1e-4 if "eps" in params else 2e-6)


# --- surrogates: loss and gradient of one token at a ratio ------------------------------------

RATIOS = [0.5, 0.9, 1.1, 1.5, 4.0]


def surrogate(name: str, positive: bool, ratio: float, **params: Any) -> tuple[float, float]:
    """Loss and gradient of one token at this ratio and advantage +1 or -1. A second completion,
    with the ratio 1, makes the group; its share is subtracted."""
    reward = [1.0, -1.0] if positive else [-1.0, 1.0]
    found = {
        "logp": torch.tensor([[ratio], [1.0]], dtype=torch.float64).log().requires_grad_(),
        "old_logp": torch.zeros(2, 1, dtype=torch.float64),
        "reward": torch.tensor(reward, dtype=torch.float64),
        "mask": torch.ones(2, 1, dtype=torch.bool),
        "group": torch.tensor([0, 0]),
    }
    algorithm = grape.algorithm(name, **params)
    alone = {**found, "logp": torch.zeros(2, 1, dtype=torch.float64)}
    loss = algorithm.evaluate(found).loss
    loss.backward()  # type: ignore[no-untyped-call]
    assert found["logp"].grad is not None
    at_one = algorithm.evaluate(alone).loss.item()
    return 2 * (loss.item() - at_one), 2 * float(found["logp"].grad[0, 0])


def no_std(text: str) -> list[tuple[float, float]]:
    """`L / g` pairs of the table."""
    pairs = [item.split("/") for item in text.split("|")]
    return [(float(loss), float(slope)) for loss, slope in pairs]


SURROGATES: list[tuple[str, dict[str, Any], bool, float, str]] = [
    ("dr_grpo", {"max_tokens": 1}, True, -1, "-.5/-.5|-.9/-.9|-1.1/-1.1|-1.2/0|-1.2/0"),
    ("dr_grpo", {"max_tokens": 1}, False, 1, ".8/0|.9/.9|1.1/1.1|1.5/1.5|4/4"),
    (
        "cpgd",
        {"scale": "none", "drift_weight": 0.0},
        True,
        0,
        ".69315/-1|.10536/-1|-.09531/-1|-.18232/0|-.18232/0",
    ),
    (
        "cpgd",
        {"scale": "none", "drift_weight": 0.0},
        False,
        0,
        "-.22314/0|-.10536/1|.09531/1|.40547/1|1.38629/1",
    ),
    ("rec", {}, True, 0, ".69315/-1|.10536/-1|-.09531/-1|0/0|0/0"),
    ("rec", {}, False, 0, "0/0|-.10536/1|.09531/1|.40547/1|1.38629/1"),
]


@pytest.mark.parametrize(("name", "params", "positive", "at_one", "table"), SURROGATES)
def test_surrogates_without_a_deviation(
    name: str, params: dict[str, Any], positive: bool, at_one: float, table: str
) -> None:
    for ratio, (loss, slope) in zip(RATIOS, no_std(table), strict=True):
        found, gradient_found = surrogate(name, positive, ratio, **params)
        assert found + at_one == pytest.approx(loss, abs=1e-5), ratio
        assert gradient_found == pytest.approx(slope, abs=1e-5), ratio


STANDARDISED: list[tuple[str, dict[str, Any], bool, float, str]] = [
    (
        "cispo",
        {},
        True,
        0,
        ".34657/-.5|.09482/-.9|-.10484/-1.1|-.51900/-1.28|-1.77446/-1.28",
    ),
    (
        "sapo",
        {},
        True,
        -2,
        "-1.51016/-.47001|-1.90008/-.89775|-2.09992/-1.09725|-2.48984/-1.41002|-3.81030/-.72283",
    ),
    (
        "sapo",
        {},
        False,
        2 / 1.05,
        "1.41594/.46707|1.80485/.89752|2.00467/1.09697|2.39359/1.40121|3.65299/.63044",
    ),
    (
        "vespo",
        {},
        True,
        0,
        ".77662/-1.12042|.11520/-1.09339|-.08544/-.89639|-.20356/-.50204|-.00274/-.00197",
    ),
    (
        "vespo",
        {},
        False,
        0,
        "-.23552/.33979|-.09381/.89040|.10386/1.08973|.50342/1.24159|.21992/.15864",
    ),
    ("thor", {"alpha": 0.0, "clip_high": 0.2}, False, 1, ".8/0|.9/.9|1.1/1.1|1.5/1.5|3/0"),
]


@pytest.mark.parametrize(("name", "params", "positive", "at_one", "table"), STANDARDISED)
def test_surrogates_of_standardised_advantages(
    name: str, params: dict[str, Any], positive: bool, at_one: float, table: str
) -> None:
    """Two rewards ±1 have the deviation √2, so the advantages are ±1/√2: losses scale with it."""
    scale = 2**0.5
    for ratio, (loss, slope) in zip(RATIOS, no_std(table), strict=True):
        found, gradient_found = surrogate(name, positive, ratio, eps=1e-12, **params)
        assert scale * found + at_one == pytest.approx(loss, abs=1e-5), ratio
        assert scale * gradient_found == pytest.approx(slope, abs=1e-5), ratio


NFT = {
    True: ".51986/-.75|.07902/-.75|-.07148/-.75|-.30410/-.75|-1.03972/-.75",
    False: "-.11561/.10714|-.02459/.21774|0/.275|0/.375|0/1.0",
}


@pytest.mark.parametrize("correct", [True, False])
def test_nft(correct: bool) -> None:
    """One of four is right, so its rate is 1/4; all others stay at the ratio 1, where each term's
    value is 0."""
    for ratio, (loss, slope) in zip(RATIOS, no_std(NFT[correct]), strict=True):
        row = 0 if correct else 1
        logp = torch.zeros(4, 1, dtype=torch.float64)
        logp[row] = torch.tensor(ratio).double().log()
        found = {
            "logp": logp.requires_grad_(),
            "old_logp": torch.zeros(4, 1, dtype=torch.float64),
            "reward": torch.tensor([1, 0, 0, 0], dtype=torch.float64),
            "mask": torch.ones(4, 1, dtype=torch.bool),
            "group": torch.zeros(4, dtype=torch.long),
        }
        value = grape.algorithm("nft", max_tokens=1).evaluate(found).loss
        value.backward()  # type: ignore[no-untyped-call]
        assert found["logp"].grad is not None
        assert value.item() == pytest.approx(loss, abs=1e-5)
        assert float(found["logp"].grad[row, 0]) == pytest.approx(slope, abs=1e-5)


@pytest.mark.parametrize(
    ("d", "k1", "k2", "k3"), [(0.5, 0.5, 0.125, 0.106531), (-0.5, -0.5, 0.125, 0.148721)]
)
def test_estimators_of_the_kl_divergence(d: float, k1: float, k2: float, k3: float) -> None:
    compiled = written(
        "let d = logp - ref_logp\nlog k1 = mean(d per batch)\nlog k2 = mean(d ^ 2 / 2 per batch)\n"
        "minimize mean(exp(-d) + d - 1 per batch)"
    )
    found = {
        "logp": torch.full((1, 1), -1.0, dtype=torch.float64),
        "ref_logp": torch.full((1, 1), -1.0 - d, dtype=torch.float64),
        "mask": torch.ones(1, 1, dtype=torch.bool),
        "group": torch.zeros(1, dtype=torch.long),
    }
    result = compiled.evaluate(found)
    assert (result.logs["k1"], result.logs["k2"]) == pytest.approx((k1, k2), abs=1e-9)
    assert result.loss.item() == pytest.approx(k3, abs=1e-6)


# --- links: z of the chosen is .8 over 4 tokens, of the rejected -.4 over 2 ---------------------


def pair(**more: Tensor) -> dict[str, Tensor]:
    mask = torch.tensor([[True] * 4, [True] * 2 + [False] * 2])
    ref = torch.full((2, 4), -1.0, dtype=torch.float64)
    return {
        "logp": ref + torch.tensor([[0.2], [-0.2]], dtype=torch.float64),
        "ref_logp": ref,
        "mask": mask,
        "group": torch.tensor([0, 0]),
        **more,
    }


AVERAGES = {"logp": torch.tensor([[-0.5] * 4, [-1.2] * 4], dtype=torch.float64)}
LINKS: list[tuple[str, dict[str, Any], dict[str, Tensor], float]] = [
    ("dpo", {}, {}, 0.634946),
    ("cdpo", {}, {}, 0.646946),
    ("robust_dpo", {}, {}, 0.619946),
    ("hinge", {}, {}, 0.88),
    ("ipo", {}, {}, 21.16),
    ("ipo", {"average": False}, {}, 14.44),
    ("apo_zero", {}, {}, 0.970012),
    ("apo_down", {}, {}, 0.990025),
    ("nca", {}, {}, 1.357594),
    ("sppo", {}, {}, 38.8),
    ("bco_pair", {}, {}, 1.327294),
    ("exo", {"smoothing": 0.1}, {}, 0.446785),
    ("simpo", {"beta": 2.0, "margin": 0.5}, AVERAGES, 0.341154),
    ("orpo", {}, AVERAGES, 0.5 + 0.1 * 0.246552),
    (
        "reward_model",
        {},
        {"score": torch.tensor([1.3, 0.4], dtype=torch.float64)},
        0.341154,
    ),
    (
        "rebel",
        {},
        {
            "old_logp": torch.full((2, 4), -1.0, dtype=torch.float64)
            + torch.tensor([[0.05], [-0.05]], dtype=torch.float64),
            "margin": torch.tensor([1.3], dtype=torch.float64),
        },
        0.16,
    ),
]


@pytest.mark.parametrize(("name", "params", "more", "golden"), LINKS)
def test_links(name: str, params: dict[str, Any], more: dict[str, Tensor], golden: float) -> None:
    loss = grape.algorithm(name, **params).evaluate(pair(**more)).loss
    assert loss.item() == pytest.approx(golden, abs=1e-6)


def test_kto_of_a_desirable_completion() -> None:
    found = pair(
        desirable=torch.tensor([1, 1]), mismatched=torch.full((2,), 0.2, dtype=torch.float64)
    )
    alone = {name: value[:1] for name, value in found.items()}
    loss = grape.algorithm("kto", point="mismatched").evaluate(alone).loss
    assert loss.item() == pytest.approx(0.485004, abs=1e-6)


@pytest.mark.parametrize(("right", "weight"), [(1, 1.492638), (3, 0.95)])
def test_lead_weighs_hard_prompts_more(right: int, weight: float) -> None:
    """Right completions of a prompt that one in four solves, and of one that three in four do."""
    reward = [1.0] * right + [0.0] * (4 - right)
    found = gradient("grpo_lead", one_group(reward))[:, 0] * 4 * LENGTHS
    shaped = torch.tensor([1.0] * right + [-1.0] * (4 - right), dtype=torch.float64)
    plain = (shaped - shaped.mean()) / (shaped.std() + 1e-6)
    assert float(found[0] / plain[0]) == pytest.approx(weight, abs=1e-6)
    other = {1: 0.95, 3: 1.492638}[right]  # a wrong one weighs by the rate of the wrong
    assert float(found[3] / plain[3]) == pytest.approx(other, abs=1e-6)
