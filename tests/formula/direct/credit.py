"""From the list of papers: who gets which credit, in groups, trees, sets and spans."""

from __future__ import annotations

import torch
from formula.direct.base import B, at_last, clipped, col, dev, gae, k3, kinds, named, whiten
from torch import Tensor


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
    split = good | (sets == "together")
    return -b.tm(clipped(b.w, apart(b, shaped, split, 1e-6), clip_low, clip_high))


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
    a, span = b.z(), b.mask & (b.values['span("<think>", "</think>")'] > 0)
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
    code = b.mask & (b.values['span("```python", "```")'] > 0)
    ordinal = b.n.cumsum(1) - 1
    for g in kinds(b.group):
        rows = b.group == g
        early = rows & (b.r > 0) & code.any(1)
        if early.any():
            p = torch.stack([n[c].min() for n, c in zip(ordinal[early], code[early], strict=True)])
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
