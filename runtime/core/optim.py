"""The optimizer of a train stage: AdamW, a schedule over all its updates, gradient clipping."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from grape.runtime.errors import StageError


def factor(schedule: str, warmup: float, done: int, total: int) -> float:
    """What the learning rate is multiplied by at update `done` (from 0) of `total`."""
    ramp = warmup * total
    if done < ramp:
        return (done + 1) / (ramp + 1)
    rest = (done - ramp) / max(1.0, total - ramp)
    if schedule == "linear":
        return max(0.0, 1 - rest)
    if schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * min(1.0, rest)))
    return 1.0


class Optimizer:
    """Steps the trainable parameters of a model; its state is plain tensors and numbers."""

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        settings: dict[str, Any],
        total: int,
        heads: Iterable[Tensor] = (),
    ) -> None:
        """`heads` are further parameters, with the learning rate `head_lr` where that is set."""
        own: list[Tensor] = [item for item in parameters if item.requires_grad]
        groups: list[dict[str, Any]] = [{"params": own, "peak": settings["lr"]}]
        apart = list(heads)
        if apart:
            rate = settings.get("head_lr")
            groups.append({"params": apart, "peak": settings["lr"] if rate is None else rate})
        self.parameters = own + apart
        self.settings = settings
        self.total = total
        self.done = 0
        self.inner = torch.optim.AdamW(
            groups,
            lr=settings["lr"],
            betas=tuple(settings["betas"]),
            weight_decay=settings["weight_decay"],
            fused=True,
        )

    @property
    def progress(self) -> float:
        """Share of all updates that are done, 0 to 1."""
        return min(1.0, self.done / max(1, self.total))

    def skip(self) -> None:
        """Count an update that was made by other means, and forget the gradient."""
        self.inner.zero_grad(set_to_none=True)
        self.done += 1

    def step(self, *, further: bool = False) -> dict[str, float]:
        """Clip, step, forget the gradient. Returns `lr` and `grad_norm`. A `further` step belongs
        to the last update: it goes at that one's learning rate and does not count.

        Raises StageError when the gradient is not finite; the weights are then untouched."""
        settings = self.settings
        share = factor(
            settings["schedule"], settings["warmup"], max(0, self.done - further), self.total
        )
        limit = settings["clip_norm"] or math.inf
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, limit))
        if not math.isfinite(norm):
            raise StageError(
                f"the gradient of update {self.done + 1} is not finite",
                hint="lower lr; if it happens at the first update, look for extreme rewards",
            )
        for group in self.inner.param_groups:
            group["lr"] = group["peak"] * share
        self.inner.step()
        self.inner.zero_grad(set_to_none=True)
        self.done += not further
        return {"lr": settings["lr"] * share, "grad_norm": norm}

    def state_dict(self) -> dict[str, Any]:
        return {"done": self.done, "total": self.total, "inner": self.inner.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.done, self.total = state["done"], state["total"]
        self.inner.load_state_dict(state["inner"])
