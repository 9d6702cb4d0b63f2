"""What the direct formulas share: a padded batch by attribute, groups, clips, advantages."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

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
