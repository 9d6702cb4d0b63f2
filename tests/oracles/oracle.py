"""What an oracle is: another library's function, on a fixed batch, beside the algorithm it checks.

To add one, write one `Oracle(…)` into the list of `with_trl.py`, `with_verl.py` or
`with_liger.py`, and run `make oracles`. Nothing here is imported by Grape or by its tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

Batch = dict[str, Tensor]
LIVE = ("logp", "logp_all", "score", "value")
"""The quantities of a batch that carry gradient."""

LENGTHS = (4, 2, 3, 1, 5, 2)
WIDTH = max(LENGTHS)


@dataclass(frozen=True, slots=True)
class Oracle:
    """`loss` computes, on the batch, what the algorithm with `params` must give."""

    algorithm: str
    function: str
    """What computes it: `library: function(options)`."""
    batch: Callable[[], Batch]
    loss: Callable[[Batch], Tensor]
    params: dict[str, float | str] = field(default_factory=dict)


def _tokens(seed: int) -> Batch:
    """Six sequences of unequal lengths: log-probs under four policies, inside and outside a clip
    range of 0.2 of each other."""
    make = torch.Generator().manual_seed(seed)
    mask = torch.arange(WIDTH)[None, :] < torch.tensor(LENGTHS)[:, None]

    def near(centre: Tensor, spread: float) -> Tensor:
        noise = torch.randn(6, WIDTH, generator=make, dtype=torch.float64)
        moved = (centre + spread * noise).clamp(max=-0.02)
        return torch.where(mask, (moved * 1e6).round() / 1e6, 0.0)

    logp = near(torch.full((6, WIDTH), -1.5, dtype=torch.float64), 0.6)
    return {
        "mask": mask,
        "logp": logp,
        "old_logp": near(logp, 0.25),
        "ref_logp": near(logp, 0.4),
        "behavior_logp": near(logp, 0.3),
        "teacher_logp": near(logp, 0.5),
    }


def rollouts() -> Batch:
    """A group of four and a group of two, with a reward of two parts."""
    first = torch.tensor([1, 0, 0.5, 0, 1, -1], dtype=torch.float64)
    second = torch.tensor([0, 0.25, 0.5, 0, 1, 0.25], dtype=torch.float64)
    return {
        **_tokens(1),
        "group": torch.tensor([7, 7, 7, 7, 3, 3]),
        "reward": first + second,
        "reward.first": first,
        "reward.second": second,
        "truncated": torch.tensor([0, 0, 1, 0, 1, 0], dtype=torch.float64),
    }


def valued() -> Batch:
    """The same rollouts with a critic's estimates now and before, and greedy companions."""
    make = torch.Generator().manual_seed(6)
    values = torch.randn(2, 6, WIDTH, generator=make, dtype=torch.float64)
    drawn = (torch.randn(6, generator=make, dtype=torch.float64) * 1e6).round() / 1e6
    found = (values * 1e6).round() / 1e6 * rollouts()["mask"]
    return {**rollouts(), "value": found[0], "old_value": found[1], "greedy_reward": drawn}


def covaried() -> Batch:
    """The same rollouts, and a number of each token by which some are drawn."""
    drawn = torch.arange(6 * WIDTH, dtype=torch.float64).reshape(6, WIDTH) / (6 * WIDTH)
    return {**rollouts(), "noise": drawn}


def demos() -> Batch:
    """Six independent sequences."""
    return {**_tokens(2), "group": torch.arange(6)}


def tables() -> Batch:
    """Six independent sequences, with whole distributions over four entries, [S, T, 4]."""
    make = torch.Generator().manual_seed(4)
    logits = [torch.randn(6, WIDTH, 4, generator=make, dtype=torch.float64) for _ in range(2)]
    names = ("logp_all", "teacher_logp_all")
    whole = {name: x.log_softmax(-1) for name, x in zip(names, logits, strict=True)}
    return {**demos(), **whole}


def ratings() -> Batch:
    """Six independent sequences, four of them desirable."""
    desirable = torch.tensor([1, 0, 1, 1, 0, 1], dtype=torch.float64)
    return {**_tokens(5), "group": torch.arange(6), "desirable": desirable}


def preferences() -> Batch:
    """Three pairs; rows 2i and 2i + 1 are the chosen and the rejected one."""
    return {
        **_tokens(3),
        "group": torch.tensor([0, 0, 1, 1, 2, 2]),
        "margin": torch.tensor([0.5, 0.0, 0.25], dtype=torch.float64),
        "score": torch.tensor([1.3, 0.4, -0.2, 0.9, 0.1, 0.05], dtype=torch.float64),
    }


def sums(batch: Batch, name: str = "logp") -> Tensor:
    """A token quantity added up over each sequence, [S]."""
    return (batch[name] * batch["mask"]).sum(1)


def means(batch: Batch, name: str = "logp") -> Tensor:
    """A token quantity averaged over each sequence, [S]."""
    return sums(batch, name) / batch["mask"].sum(1)
