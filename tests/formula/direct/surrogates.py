"""From the list of papers: other surrogates, penalties and weights."""

from __future__ import annotations

import math

import torch
from formula.direct.base import B, at_last, clipped, col, gae, k3, kinds, named, whiten
from torch import Tensor


@named
def grape(
    b: B,
    clip: float = 0.2,
    beta: float = 0.0,
    eps: float = 1e-4,
    scope: str = "group",
    normalise: str = "sum",
    baseline: str = "mean",
    scale: str = "group",
) -> Tensor:
    if "reward.a" not in b.names:
        parts = [(b.r, torch.ones_like(b.r), torch.ones_like(b.r), 1.0)]
    else:
        every = torch.ones_like(b.r)
        parts = [
            (b.reward_a, b.confidence_a, every, 1.0),
            (b.reward_b, b.confidence_b, b.applies_b, 2.0),
        ]
    up = down = torch.zeros_like(b.r)
    for score, confidence, applies, weight in parts:
        if scope == "group":
            trust = b.per(confidence * applies, torch.sum) / b.per(applies, torch.sum)
        else:
            trust = (confidence * applies).sum() / applies.sum()
        up = up + trust * weight * applies * score
        down = down + trust * weight * applies
    r = up / down if normalise == "sum" else up
    n = b.per(torch.ones_like(r), torch.sum)
    a = (r - b.gm(r)) * (n / (n - 1) if baseline == "others" else 1)
    if scale != "none":
        a = a / ((b.gs(r) if scale == "group" else r.std()) + eps)
    return b.stm(beta * k3(b.ref_logp, b.logp) - clipped(b.w, a, clip, clip))


@named
def fixpo(
    b: B, strength: float = 1.0, value_weight: float = 0.5, gamma: float = 0.99, lam: float = 0.95
) -> Tensor:
    estimate = gae(b, at_last(b, b.r), b.old_value, gamma, lam)
    loss = strength * k3(b.logp, b.old_logp) - b.w * whiten(b, estimate)
    return b.tm(loss) + value_weight * b.tm((b.value - estimate - b.old_value) ** 2)


@named
def dro(b: B, beta: float = 0.1) -> Tensor:
    return b.tm(beta / 2 * (b.logp - b.old_logp) ** 2 - col(b.centred) * b.logp)


@named
def cpgd(
    b: B, clip: float = 0.2, drift_weight: float = 0.001, eps: float = 1e-4, scale: str = "std"
) -> Tensor:
    a = b.z(eps) if scale == "std" else b.centred
    if scale == "filter":
        spread = [bool(b.r[b.group == g].std() > 0) for g in kinds(b.group)]
        a = a * min(len(spread) / max(sum(spread), 1), 3)
    a = col(a)
    up = torch.minimum(b.logp, b.old_logp + math.log(1 + clip))
    down = torch.maximum(b.logp, b.old_logp + math.log(1 - clip))
    drift = (b.w.detach() - 1).clamp(max=2) * b.logp
    return b.tm(-a * torch.where(a > 0, up, down) + drift_weight * drift)


@named
def rpg(
    b: B,
    divergence: str = "reverse",
    form: str = "differentiable",
    beta: float = 1e-4,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    dual_clip: float = 10.0,
) -> Tensor:
    a, w, d = col(b.centred), b.w, b.logp - b.old_logp
    held = torch.where(a >= 0, w.clamp(max=1 + clip_high), w.clamp(1 - clip_low, dual_clip))
    if form == "differentiable":
        penalty = {
            "forward": -b.logp,
            "reverse": w * d,
            "unnormalised_forward": w - d - 1,
            "unnormalised_reverse": w * d - w,
        }[divergence]
        return b.tm(-held * a + beta * penalty)
    weight = {
        "forward": held * a + beta,
        "reverse": held * a - beta * w * (d + 1),
        "unnormalised_forward": held * a - beta * (w - 1),
        "unnormalised_reverse": held * a - beta * w * d,
    }[divergence]
    return -b.tm(weight.detach() * b.logp)


@named
def nft(
    b: B, normalize: int = 1, negative: float = 1.0, max_tokens: int = 1000, threshold: float = 0.5
) -> Tensor:
    good = b.r > threshold
    q = col(b.gm(good).clamp(0.02, 0.98))
    ratio = (b.logp - b.old_logp).clamp(max=10).exp()
    rest = (1 - q * ratio) / (1 - q)
    rest = rest + (rest.clamp(min=1.0) - rest).detach()
    loss = torch.where(col(good), -ratio.log(), -negative * rest.log())
    weight = 1 - q if normalize == 1 else ((1 - q) / q).sqrt()
    return b.ss(weight * loss).sum() / max_tokens


@named
def rover(b: B, rho: float = 1.0) -> Tensor:
    ahead = rho * (b.logp_all - b.old_logp_all).mean(-1)
    target = torch.zeros_like(b.n)
    for i in range(len(b.r)):
        places = b.mask[i].nonzero().flatten().tolist()
        for t, following in zip(places, [*places[1:], None], strict=True):
            later = 0.0 if following is None else ahead[i, following].detach()
            target[i, t] = b.centred[i] + later
    return b.tm((rho * (b.logp - b.old_logp) - target) ** 2)


@named
def rec(
    b: B,
    variant: str = "one_side",
    weight: str = "none",
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    outer_low: float = 0.6,
    outer_high: float = 2.0,
    beta: float = 0.0,
) -> Tensor:
    a, w = col(b.centred), b.w.detach()
    one = ((a >= 0) & (w <= 1 + clip_high)) | ((a < 0) & (w >= 1 - clip_low))
    kept = {
        "one_side": one,
        "two_side": (w >= 1 - clip_low) & (w <= 1 + clip_high),
        "ring": one | ((a >= 0) & (w <= 1 - outer_low)) | ((a < 0) & (w >= 1 + outer_high)),
    }[variant]
    scale = {"none": torch.ones_like(w), "ratio": w, "truncated": w.clamp(max=2)}[weight]
    return b.tm(-kept.double() * scale * a * b.logp + beta * (b.logp - b.old_logp) ** 2)


@named
def opmd(b: B, tau: float = 1.0, baseline: str = "mean") -> Tensor:
    base = b.gm(b.r) if baseline == "mean" else tau * b.gm((b.r / tau).exp()).log()
    return -b.tm(col(b.r - base) * b.logp) / (1 + tau)


@named
def asymre(b: B, shift: float = -0.1) -> Tensor:
    return -b.tm(col(b.centred - shift) * b.logp)
