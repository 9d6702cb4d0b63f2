"""Losses of pairs and of single completions called good or bad."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from formula.direct.base import DIRECT, B, named
from torch import Tensor
from torch.nn.functional import logsigmoid as lsig


def ratios(b: B) -> tuple[Tensor, Tensor]:
    z = b.ss(b.logp - b.ref_logp)
    return z[::2], z[1::2]


def link(name: str, f: Callable[..., Tensor]) -> None:
    def direct(b: B, beta: float = 0.1, **more: float) -> Tensor:
        c, r = ratios(b)
        return f(beta, c, r, **more).mean()

    DIRECT[name] = direct


link("dpo", lambda t, c, r: -lsig(t * (c - r)))
link(
    "cdpo",
    lambda t, c, r, smoothing=0.1: (
        -(1 - smoothing) * lsig(t * (c - r)) - smoothing * lsig(-t * (c - r))
    ),
)
link(
    "robust_dpo",
    lambda t, c, r, smoothing=0.1: (
        (-(1 - smoothing) * lsig(t * (c - r)) + smoothing * lsig(-t * (c - r)))
        / (1 - 2 * smoothing)
    ),
)
link(
    "discopop",
    lambda t, c, r, tau=0.05: (
        torch.sigmoid(t * (r - c) / tau) * -lsig(t * (c - r))
        + torch.sigmoid(t * (c - r) / tau) * (t * (r - c)).exp()
    ),
)
link("hinge", lambda t, c, r: torch.relu(1 - t * (c - r)))
link(
    "exo",
    lambda t, c, r, smoothing=1e-3: (
        torch.sigmoid(t * (c - r)) * (lsig(t * (c - r)) - math.log(1 - smoothing))
        + torch.sigmoid(t * (r - c)) * (lsig(t * (r - c)) - math.log(smoothing))
    ),
)
link("nca", lambda t, c, r: -lsig(t * c) - 0.5 * lsig(-t * c) - 0.5 * lsig(-t * r))
link("bco_pair", lambda t, c, r: -lsig(t * c) - lsig(-t * r))
link("apo_zero", lambda t, c, r: 1 - torch.sigmoid(t * c) + torch.sigmoid(t * r))
link("apo_down", lambda t, c, r: torch.sigmoid(t * c) + 1 - torch.sigmoid(t * (c - r)))
link("sppo", lambda t, c, r: (c - 1 / (2 * t)) ** 2 + (r + 1 / (2 * t)) ** 2)


@named
def ipo(b: B, beta: float = 0.1, average: bool = True) -> Tensor:
    z = b.ss(b.logp - b.ref_logp) / (b.len if average else 1)
    return ((z[::2] - z[1::2] - 1 / (2 * beta)) ** 2).mean()


@named
def dpo_norm(b: B, beta: float = 0.1) -> Tensor:
    z = b.sm(b.logp - b.ref_logp)
    return -lsig(beta * (z[::2] - z[1::2])).mean()


@named
def rpo(b: B, beta: float = 0.1, alpha: float = 1.0) -> Tensor:
    c, r = ratios(b)
    return -lsig(beta * (c - r)).mean() - alpha * b.logp[::2][b.mask[::2]].mean()


@named
def simpo(b: B, beta: float = 2.0, margin: float = 0.5) -> Tensor:
    z = b.sm(b.logp)
    return -lsig(beta * (z[::2] - z[1::2]) - margin).mean()


@named
def cpo(b: B, beta: float = 0.1, alpha: float = 1.0) -> Tensor:
    z = b.ss(b.logp)
    nll = -b.logp[::2][b.mask[::2]].mean()
    return -lsig(beta * (z[::2] - z[1::2])).mean() + alpha * nll


@named
def orpo(b: B, beta: float = 0.1) -> Tensor:
    a = b.sm(b.logp)
    odds = a - (1 - a.exp()).log()
    return -b.logp[::2][b.mask[::2]].mean() - beta * lsig(odds[::2] - odds[1::2]).mean()


@named
def rebel(b: B, eta: float = 1.0) -> Tensor:
    z = b.ss(b.logp - b.old_logp)
    return ((z[::2] - z[1::2] - eta * b.margin) ** 2).mean()


@named
def reward_model(b: B, centre: float = 0.0, use_margin: bool = False) -> Tensor:
    c, r = b.score[::2], b.score[1::2]
    return (-lsig(c - r - (b.margin if use_margin else 0)) + centre * (c + r) ** 2).mean()


@named
def kto(
    b: B, beta: float = 0.1, good_weight: float = 1.0, bad_weight: float = 1.0, point: str = "batch"
) -> Tensor:
    z = b.ss(b.logp - b.ref_logp)
    anchor = (z.detach() if point == "batch" else b.mismatched).mean().clamp(min=0)
    good = good_weight * (1 - torch.sigmoid(beta * (z - anchor)))
    bad = bad_weight * (1 - torch.sigmoid(beta * (anchor - z)))
    return torch.where(b.desirable, good, bad).mean()


@named
def bco(b: B, beta: float = 0.1, shift: float = 0.0) -> Tensor:
    z = beta * b.ss(b.logp - b.ref_logp)
    return -torch.where(b.desirable, lsig(z - shift), lsig(shift - z)).mean()
