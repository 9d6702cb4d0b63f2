"""Supervised fine-tuning, distillation and the policy gradients that everybody knows."""

from __future__ import annotations

import math

import torch
from formula.direct.base import DIRECT, B, at_last, clipped, col, gae, k3, kinds, named, whiten
from torch import Tensor


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
