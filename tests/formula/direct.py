"""Every algorithm of the library written directly in torch, on padded tensors.

Written from the formulas alone, with loops over groups and rows, and sharing no code with Grape.
Each function returns what is minimised.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid as lsig

Direct = Callable[..., Tensor]
DIRECT: dict[str, Direct] = {}


def named(function: Direct) -> Direct:
    DIRECT[function.__name__.rstrip("_")] = function
    return function


class B:
    """A padded batch by attribute; `n` is the mask as numbers, `len` the tokens that count."""

    def __init__(self, batch: dict[str, Tensor]) -> None:
        self.values = {name.replace(".", "_"): value for name, value in batch.items()}
        self.names = set(batch)
        self.n: Tensor = batch["mask"].double()
        self.len: Tensor = self.n.sum(1)

    def __getattr__(self, name: str) -> Tensor:
        return self.values[name]

    # token means and sums
    def tm(self, x: Tensor) -> Tensor:
        return x.expand_as(self.n)[self.mask].mean()

    def ss(self, x: Tensor) -> Tensor:
        return torch.where(self.mask, x, 0.0).sum(1)

    def sm(self, x: Tensor) -> Tensor:
        return self.ss(x) / self.len

    def stm(self, x: Tensor) -> Tensor:
        return self.sm(x).mean()

    # groups
    def per(self, x: Tensor, f: Callable[[Tensor], Tensor], *ids: Tensor) -> Tensor:
        """f over the rows that share all ids (the group, if none is given), spread back."""
        keys = ids or (self.group,)
        out = torch.zeros(len(x), dtype=torch.float64)
        for i in range(len(x)):
            same = torch.ones(len(x), dtype=torch.bool)
            for key in keys:
                same &= key == key[i]
            out = torch.cat([out[:i], f(x[same].double()).reshape(1), out[i + 1 :]])
        return out

    def gm(self, x: Tensor) -> Tensor:
        return self.per(x, torch.mean)

    def gs(self, x: Tensor, ddof: int = 1) -> Tensor:
        return self.per(x, lambda v: dev(v, ddof))

    @property
    def r(self) -> Tensor:
        return self.reward

    @property
    def w(self) -> Tensor:
        return (self.logp - self.old_logp).exp()

    @property
    def centred(self) -> Tensor:
        return self.r - self.gm(self.r)

    def z(self, eps: float = 1e-4) -> Tensor:
        return self.centred / (self.gs(self.r) + eps)


def kinds(x: Tensor) -> list[int]:
    """The different ids, in order."""
    return sorted({int(one) for one in x})


def dev(v: Tensor, ddof: int = 1) -> Tensor:
    return v.std(correction=ddof) if len(v) > ddof else torch.zeros((), dtype=torch.float64)


def col(a: Tensor) -> Tensor:
    return a[:, None] if a.dim() == 1 else a


def clipped(w: Tensor, a: Tensor, low: float, high: float) -> Tensor:
    a = col(a)
    return torch.minimum(w * a, w.clamp(1 - low, 1 + high) * a)


def k3(other: Tensor, own: Tensor) -> Tensor:
    return (other - own).exp() - (other - own) - 1


def gae(b: B, reward: Tensor, value: Tensor, gamma: float, lam: float) -> Tensor:
    """Walks backwards over the tokens that count and passes over the others."""
    out = torch.zeros_like(b.n)
    for i in range(len(out)):
        following = running = 0.0
        for t in reversed(range(out.shape[1])):
            if b.mask[i, t]:
                delta = float(reward[i, t]) + gamma * following - float(value[i, t])
                running = delta + gamma * lam * running
                following = float(value[i, t])
                out[i, t] = running
    return out


def at_last(b: B, x: Tensor) -> Tensor:
    out = torch.zeros_like(b.n)
    for i in range(len(out)):
        out[i, int(b.mask[i].nonzero().max())] = x[i]
    return out


def whiten(b: B, x: Tensor, eps: float = 1e-8) -> Tensor:
    inside = x[b.mask]
    return (x - inside.mean()) / (inside.var() + eps).sqrt()


# --- supervised -------------------------------------------------------------------------------


@named
def sft(b: B) -> Tensor:
    return -b.tm(b.logp)


@named
def dft(b: B) -> Tensor:
    return -b.tm(b.logp.detach().exp() * b.logp)


@named
def rejection(b: B, threshold: float = 1.0) -> Tensor:
    kept = b.mask & (b.r >= threshold)[:, None]
    return -b.logp[kept].mean() if kept.any() else 0 * b.logp.sum()


@named
def raft(b: B) -> Tensor:
    best = (b.r == b.per(b.r, torch.max)).double()
    share = best / b.per(best, torch.sum)
    return -(share * b.ss(b.logp)).sum() / (share * b.len).sum()


# --- policy gradients -------------------------------------------------------------------------


@named
def reinforce(b: B) -> Tensor:
    return -b.tm(col(b.r - b.r.mean()) * b.logp)


@named
def reinforce_plus_plus(b: B, clip: float = 0.2, beta: float = 0.0, gamma: float = 1.0) -> Tensor:
    earned = at_last(b, b.r) - beta * (b.old_logp - b.ref_logp)
    to_go = gae(b, earned, torch.zeros_like(b.n), gamma, 1)
    return -b.tm(clipped(b.w, whiten(b, to_go), clip, clip))


@named
def reinforce_plus_plus_baseline(b: B, clip: float = 0.2) -> Tensor:
    a = col(b.centred).expand_as(b.n)
    return -b.tm(clipped(b.w, whiten(b, a), clip, clip))


@named
def rloo(b: B, beta: float = 0.0) -> Tensor:
    r = b.r - beta * b.ss(b.old_logp - b.ref_logp)
    a = torch.stack(
        [
            r[i] - r[[j for j in range(len(r)) if j != i and b.group[j] == b.group[i]]].mean()
            for i in range(len(r))
        ]
    )
    return -(a * b.ss(b.logp)).mean()


@named
def remax(b: B, clip: float = 0.2, beta: float = 0.0, gamma: float = 1.0) -> Tensor:
    earned = at_last(b, b.r) - beta * (b.old_logp - b.ref_logp)
    a = gae(b, earned, torch.zeros_like(b.n), gamma, 1) - col(b.greedy_reward)
    return -b.tm(clipped(b.w, a, clip, clip))


@named
def opo(b: B) -> Tensor:
    base = b.per(b.len * b.r, torch.sum) / b.per(b.len, torch.sum)
    return -((b.r - base) * b.ss(b.logp)).mean()


@named
def ppo(
    b: B,
    clip: float = 0.2,
    dual_clip: float = 3.0,
    clip_value: float = 0.5,
    value_weight: float = 1.0,
    beta: float = 0.0,
    gamma: float = 1.0,
    lam: float = 1.0,
) -> Tensor:
    earned = at_last(b, b.r) - beta * (b.old_logp - b.ref_logp)
    estimate = gae(b, earned, b.old_value, gamma, lam)
    goal = estimate + b.old_value
    a = whiten(b, estimate)
    loss = -clipped(b.w, a, clip, clip)
    if dual_clip:
        loss = torch.where(a < 0, torch.minimum(loss, -dual_clip * a), loss)
    near = b.old_value + (b.value - b.old_value).clamp(-clip_value, clip_value)
    values = torch.maximum((b.value - goal) ** 2, (near - goal) ** 2)
    return b.tm(loss) + value_weight * 0.5 * b.tm(values)


@named
def trpo(b: B) -> Tensor:
    return -b.tm(b.w * col(b.centred))


@named
def grpo(b: B, clip: float = 0.2, beta: float = 0.0, eps: float = 1e-4) -> Tensor:
    gain = clipped(b.w, b.z(eps), clip, clip)
    return b.stm(beta * k3(b.ref_logp, b.logp) - gain)


DIRECT["ps_grpo"] = grpo


@named
def mm_grpo(b: B, beta: float = 0.04) -> Tensor:
    return grpo(b, beta=beta)


@named
def dapo(b: B, clip_low: float = 0.2, clip_high: float = 0.28) -> Tensor:
    return -b.tm(clipped(b.w, b.z(), clip_low, clip_high))


@named
def dr_grpo(b: B, max_tokens: int = 256, clip: float = 0.2) -> Tensor:
    return -b.ss(clipped(b.w, b.centred, clip, clip)).sum() / (len(b.r) * max_tokens)


@named
def gspo(b: B, clip_low: float = 3e-4, clip_high: float = 4e-4) -> Tensor:
    # The pure sequence form: its gradient is that of the token form.
    s = b.sm(b.logp - b.old_logp).exp()
    return -torch.minimum(s * b.z(), s.clamp(1 - clip_low, 1 + clip_high) * b.z()).mean()


@named
def gmpo(b: B, clip_low: float = 0.4, clip_high: float = 0.4) -> Tensor:
    d = b.logp - b.old_logp
    a = b.z()
    held = torch.where(
        col(a) > 0,
        torch.minimum(d, d.clamp(-clip_low, clip_high)),
        torch.maximum(d, d.clamp(-clip_low, clip_high)),
    )
    return -(a * b.sm(held).exp()).mean()


@named
def cispo(b: B, clip_low: float = 1.0, clip_high: float = 0.28) -> Tensor:
    return -b.tm(b.w.detach().clamp(1 - clip_low, 1 + clip_high) * col(b.z()) * b.logp)


@named
def sapo(b: B, tau: float = 1.0, tau_negative: float = 1.05) -> Tensor:
    a = col(b.z())
    t = tau + (tau_negative - tau) * (a <= 0).double()
    return -b.stm(4 / t * torch.sigmoid(t * (b.w - 1)) * a)


@named
def lite_ppo(b: B, clip: float = 0.2, eps: float = 1e-4) -> Tensor:
    return -b.tm(clipped(b.w, b.centred / (b.r.std() + eps), clip, clip))


@named
def gpg(b: B, alpha: str = "spread", norm: float = 1.0) -> Tensor:
    counted = {"spread": b.gs(b.r) > 0, "scored": b.r != 0, "none": b.r == b.r}[alpha]
    scale = len(b.r) / max(int(counted.sum()), 1)
    return -b.tm(col(scale * b.centred / norm) * b.logp)


def covariance(b: B, a: Tensor) -> Tensor:
    a, lp = col(a).expand_as(b.n), b.logp.detach()
    return (a - a[b.mask].mean()) * (lp - lp[b.mask].mean())


@named
def clip_cov(
    b: B, clip: float = 0.2, cov_low: float = 1.0, cov_high: float = 5.0, share: float = 2e-4
) -> Tensor:
    a = b.z()
    cov, gain = covariance(b, a), clipped(b.w, a, clip, clip)
    cut_already = b.w.clamp(1 - clip, 1 + clip) * col(a) < b.w * col(a)
    open_ = [
        (float(b.noise[i, t]), i, t)
        for i in range(len(a))
        for t in range(b.n.shape[1])
        if b.mask[i, t] and cov_low < cov[i, t] < cov_high and not cut_already[i, t]
    ]
    keep = torch.ones_like(b.n)
    for _, i, t in sorted(open_)[: max(int(share * b.n.sum()), 1)]:
        keep[i, t] = 0
    return -b.tm(keep * gain)


@named
def kl_cov(b: B, beta: float = 0.1, share: float = 2e-4) -> Tensor:
    a = b.z()
    cov = torch.where(b.mask, covariance(b, a), float("-inf"))
    top = cov.flatten().topk(max(int(share * b.n.sum()), 1)).indices
    held = torch.zeros(b.n.numel(), dtype=torch.float64).index_fill(0, top, 1).view_as(b.n)
    return b.tm(-b.w * col(a) + held * beta * (b.logp - b.old_logp).abs())


@named
def gdpo(b: B, clip: float = 0.2, eps: float = 1e-6) -> Tensor:
    parts = [(b.reward_a, 1.0), (b.reward_b, 2.0)] if "reward.a" in b.names else [(b.r, 1.0)]
    total = sum(w * (x - b.gm(x)) / (b.gs(x) + eps) for x, w in parts)
    assert isinstance(total, Tensor)
    return -b.tm(clipped(b.w, whiten(b, col(total).expand_as(b.n)), clip, clip))


@named
def grpo_pass_at_k(b: B, clip: float = 0.2, eps: float = 1e-6) -> Tensor:
    a = torch.zeros_like(b.r)
    for g in kinds(b.group):
        rows = (b.group == g).nonzero().flatten()
        best, second = b.r[rows].topk(2).values
        a[rows[b.r[rows].argmax()]] = (best - second) / (b.r[rows].std() + eps)
    return -b.tm(clipped(b.w, a, clip, clip))


@named
def vespo(b: B) -> Tensor:
    a = b.z()
    log_w = b.ss((b.logp - b.old_logp).clamp(-20, 20)).detach()
    log_w = log_w.clamp(math.log(1e-8), 20)
    k, lam = torch.where(a >= 0, 2.0, 3.0), torch.where(a >= 0, 3.0, 2.0)
    return -b.tm(col((lam + k * log_w - lam * log_w.exp()).exp() * a) * b.logp)


@named
def luspo(b: B, clip_low: float = 2e-3, clip_high: float = 2.5e-3) -> Tensor:
    s = b.sm(b.logp - b.old_logp).exp()
    return -(b.len * torch.minimum(s * b.z(), s.clamp(1 - clip_low, 1 + clip_high) * b.z())).mean()


# --- preferences ------------------------------------------------------------------------------


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


# --- distillation -----------------------------------------------------------------------------


@named
def gkd(b: B, beta: float = 0.5, temperature: float = 1.0) -> Tensor:
    s = torch.log_softmax(b.logp_all / temperature, -1)
    t = torch.log_softmax(b.teacher_logp_all / temperature, -1)
    if beta == 0:
        return b.tm((t.exp() * (t - s)).sum(-1))
    if beta == 1:
        return b.tm((s.exp() * (s - t)).sum(-1))
    m = ((1 - beta) * s.exp() + beta * t.exp()).log()
    return b.tm((beta * t.exp() * (t - m) + (1 - beta) * s.exp() * (s - m)).sum(-1))


@named
def on_policy_distillation(b: B, estimate: str = "sampled") -> Tensor:
    if estimate == "full":
        return b.tm((b.logp_all.exp() * (b.logp_all - b.teacher_logp_all)).sum(-1))
    return b.tm((b.logp - b.teacher_logp).detach() * b.logp)


# --- from the list of papers ------------------------------------------------------------------


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


def apart(b: B, x: Tensor, good: Tensor, eps: float) -> Tensor:
    """Standardised among the right and among the wrong items of each group, apart; x is [S, T]
    with a mask, or [S]."""
    inside = b.mask if x.dim() == 2 else torch.ones_like(good)
    side, group = (col(good), col(b.group)) if x.dim() == 2 else (good, b.group)
    out = torch.zeros_like(x)
    for g in kinds(b.group):
        for which in (True, False):
            here = inside & (group == g) & (side == which)
            if here.any():
                out[here] = (x[here] - x[here].mean()) / (dev(x[here]) + eps)
    return out


@named
def gtpo(
    b: B,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    alpha: float = 1.0,
    bonus: float = 0.1,
    sets: str = "together",
) -> Tensor:
    good, heat = b.r > 0, b.entropy.detach()
    shaped = torch.zeros_like(b.n)
    ordinal = b.mask.long().cumsum(1) - 1  # place among the tokens that count
    for i, t in b.mask.nonzero().tolist():
        peers = [
            (j, u)
            for j, u in b.mask.nonzero().tolist()
            if b.group[j] == b.group[i] and good[j] == good[i] and ordinal[j, u] == ordinal[i, t]
        ]
        values = [float(heat[j, u]) if good[i] else 1 / float(heat[j, u]) for j, u in peers]
        own = float(heat[i, t]) if good[i] else 1 / float(heat[i, t])
        size = alpha + bonus * own / sum(values) * len(peers)
        shaped[i, t] = size if good[i] else -size
    return -b.tm(
        clipped(b.w, apart(b, shaped, good | (sets == "together"), 1e-6), clip_low, clip_high)
    )


@named
def grpo_s(
    b: B,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
    alpha: float = 1.0,
    bonus: float = 0.1,
    sets: str = "together",
) -> Tensor:
    good, heat = b.r > 0, b.sm(b.entropy.detach())
    shaped = torch.zeros_like(b.r)
    for i in range(len(b.r)):
        peers = [j for j in range(len(b.r)) if b.group[j] == b.group[i] and good[j] == good[i]]
        own = heat if good[i] else 1 / heat
        size = alpha + bonus * own[i] / own[peers].sum() * len(peers)
        shaped[i] = size if good[i] else -size
    a, w = apart(b, shaped, good | (sets == "together"), 1e-6), b.sm(b.w)
    return -torch.minimum(w * a, w.clamp(1 - clip_low, 1 + clip_high) * a).mean()


@named
def seed_grpo(b: B, clip: float = 0.2, alpha: float = 0.02, shape: str = "inverse") -> Tensor:
    likely = b.sm(b.old_logp).exp()
    factor = torch.zeros_like(b.r)
    for g in kinds(b.group):
        rows = b.group == g
        total = likely[rows].sum()
        p = torch.stack(
            [likely[rows & (b.cluster == c)].sum() / total for c in kinds(b.cluster[rows])]
        )
        u = alpha * -p.log().mean() / torch.log(rows.sum().double())
        factor[rows] = {"inverse": 1 / (1 + u), "linear": 1 - u, "exponential": (-u).exp()}[shape]
    return -b.stm(clipped(b.w, factor * b.centred, clip, clip))


@named
def egpo(b: B, clip: float = 0.2, bonus: float = 0.1, kappa: float = 0.5) -> Tensor:
    a, span = b.z(), b.mask & (b.thought > 0)
    heat = torch.stack([h[s].mean() for h, s in zip(b.entropy.detach(), span, strict=True)])
    return -b.stm(clipped(b.w, a + torch.minimum(bonus * heat, kappa * a.abs()), clip, clip))


@named
def xrpo(b: B, clip: float = 0.2, bonus: float = 2.5, kappa: float = 0.5) -> Tensor:
    a, s = b.z(), b.sm(b.old_logp)
    extra = torch.minimum((bonus * (1 - (s - b.gm(s)).exp())).clamp(min=0), kappa * a)
    return -b.stm(clipped(b.w, torch.where(a > 0, a + extra, a), clip, clip))


@named
def grpo_lead(b: B, clip: float = 0.2, alpha: float = 0.05, onset: int = 4000) -> Tensor:
    r, rate = torch.full_like(b.r, -1), torch.zeros_like(b.r)
    for g in kinds(b.group):
        rows = b.group == g
        good = rows & (b.r > 0)
        rate[rows] = good.sum() / rows.sum()
        if good.any():
            lengths = b.len[good]
            late = lengths.sort().values[:3].mean() > onset
            z = (lengths - lengths.mean()) / (dev(lengths) + 1e-6)
            r[good] = (-alpha * z).exp() if late else torch.ones_like(z)
    a = (r - b.gm(r)) / (b.gs(r) + 1e-6)
    x = torch.where(a > 0, rate, 1 - rate)
    return -b.stm(clipped(b.w, a * (0.4 + 1.1 / (1 + (10 * (x - 0.75)).exp())), clip, clip))


@named
def aspo(b: B, delta: float = -2.0, kappa: float = 0.7) -> Tensor:
    a = b.z()
    out = a.clone()
    for g in kinds(b.group):
        rows = b.group == g
        early = rows & (b.r > 0) & (b.uses_code > 0)
        if early.any():
            p = b.code_position[early]
            raw = delta * (p - p.mean()) / b.len[rows].mean()
            most = kappa * a[early].abs()
            out[early] += torch.maximum(torch.minimum(raw, most), -most)
    return -b.tm(clipped(b.w, out, 0.2, 0.28))


@named
def polychromic(
    b: B, window: int = 5, gamma: float = 1.0, lam: float = 0.95, beta: float = 0.01
) -> Tensor:
    quality = b.per(b.r, torch.mean, b.group, b.set) * b.per(
        b.diversity, torch.mean, b.group, b.set
    )
    shared = quality.clone()
    for g in kinds(b.group):
        rows = b.group == g
        sets = [quality[rows & (b.set == s)][0] for s in kinds(b.set[rows])]
        shared[rows] -= torch.stack(sets).mean()
    estimate = gae(b, at_last(b, b.r), b.old_value, gamma, lam)
    number = torch.zeros_like(b.n)
    for i in range(len(b.r)):
        known = kinds(b.step[i][b.mask[i]])
        for t in b.mask[i].nonzero().flatten().tolist():
            number[i, t] = known.index(int(b.step[i, t]))
    a = torch.where(number < window, col(shared), estimate)
    gain = clipped(b.w, a, 0.2, 0.2) - beta * k3(b.ref_logp, b.logp) + 0.01 * b.entropy
    return -b.tm(gain) + 0.5 * b.tm((b.value - estimate - b.old_value) ** 2)


@named
def tree_grpo(b: B, beta: float = 0.001, variant: str = "tree", eps: float = 1e-6) -> Tensor:
    def z(x: Tensor, *ids: Tensor) -> Tensor:
        mean = b.per(x, lambda v: v.mean() if len(v) > 1 else 0 * v[0], *ids)
        spread = b.per(x, lambda v: v.std() if len(v) > 1 else 0 * v[0] + 1, *ids)
        return (x - mean) / (spread + eps)

    outer = z(b.r, b.group)
    inner = z(outer if variant == "two_norm" else b.r, b.group, b.tree)
    a = outer + inner if variant == "tree" else inner
    return b.stm(beta * k3(b.ref_logp, b.logp) - clipped(b.w, a, 0.2, 0.2))


@named
def tree_rl(b: B, beta: float = 0.0) -> Tensor:
    root = torch.stack([p[m][0] for p, m in zip(b.parent_value, b.mask, strict=True)])
    a = (2 * b.node_value - col(root) - b.parent_value) / b.leaves.sqrt()
    return b.tm(beta * k3(b.ref_logp, b.logp) - clipped(b.w, a, 0.2, 0.2))


@named
def tree_opo(b: B, alpha: float = 0.5) -> Tensor:
    r = b.r - alpha * b.prefix_value
    return -b.stm(clipped(b.w, r - b.gm(r), 0.2, 0.2))


@named
def dgpo(b: B, beta: float = 0.1, gamma: float = 1.0, lam: float = 1.0) -> Tensor:
    estimate = gae(b, at_last(b, b.r), b.old_value, gamma, lam)
    pull = (b.r <= 0).double()[:, None] * beta * k3(b.teacher_logp, b.logp)
    loss = pull - clipped(b.w, whiten(b, estimate), 0.2, 0.2)
    return b.tm(loss) + 0.5 * b.tm((b.value - estimate - b.old_value) ** 2)


@named
def rex_rag(b: B, clip: float = 0.2, beta: float = 0.001) -> Tensor:
    share = b.probe.mean()
    mixture = (1 - share) * b.old_logp.exp() + share * col(b.probe) * b.proposal_logp.exp()
    w = (b.logp - mixture.log()).exp()
    return b.stm(beta * k3(b.ref_logp, b.logp) - clipped(w, b.z(), clip, clip))


@named
def thor(b: B, dual_clip: float = 3.0, alpha: float = 0.01) -> Tensor:
    a = col(b.z())
    loss = -clipped(b.w, a, 0.2, 0.28)
    loss = torch.where(a < 0, torch.minimum(loss, -dual_clip * a), loss)
    ahead = b.mask & (a > 0)
    return b.tm(loss) - alpha * b.logp[ahead].mean()


@named
def munchausen(b: B, alpha: float = 0.9, tau: float = 0.03, gamma: float = 1.0) -> Tensor:
    earned = at_last(b, b.r) + alpha * (tau * b.old_logp).clamp(-1, 0)
    to_go = gae(b, earned, torch.zeros_like(b.n), gamma, 1)
    ordinal, a = b.mask.long().cumsum(1) - 1, to_go.clone()
    for i, t in b.mask.nonzero().tolist():
        same = b.mask & (col(b.group) == b.group[i]) & (ordinal == ordinal[i, t])
        a[i, t] = to_go[i, t] - to_go[same].mean()
    return -b.tm(a * b.logp)


@named
def d3s(b: B, rows: int = 64, share: float = 0.2) -> Tensor:
    from itertools import combinations

    a = b.z()
    size = min(rows, len(a))
    best = max(combinations(range(len(a)), size), key=lambda some: float(a[list(some)].var()))
    row = torch.zeros(len(a), dtype=torch.bool).index_fill(0, torch.tensor(best), True)
    inside = b.mask & row[:, None]
    weight = torch.where(inside, a.abs()[:, None] * b.entropy.detach(), -1.0)
    k = max(int(share * inside.sum() + 1e-9), 1)
    kept = inside & (weight >= weight[inside].sort(descending=True).values[k - 1])
    return -clipped(b.w, a, 0.2, 0.2)[kept].mean()
