"""Numbers that a model gives besides likelihoods: linear heads on its last hidden state.

`value` is one number per token, read where the token is about to be written; `score` one per
completion, read at its last token. A head begins at zero, is trained with the model, and is kept
beside it. Which formula reads it is not decided here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from grape.runtime.artifacts import HEADS

Heads = dict[str, nn.Linear]


def new_head(network: Any) -> nn.Linear:
    """A head that says 0 of everything, in float64 for such a model, else in float32."""
    like = next(network.parameters())
    dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
    head = nn.Linear(network.config.hidden_size, 1, bias=False, dtype=dtype, device=like.device)
    nn.init.zeros_(head.weight)
    return head


def read(head: nn.Linear, states: Tensor) -> Tensor:
    """The numbers [n] of hidden states [n, width]."""
    found: Tensor = head(states.to(head.weight.dtype))[:, 0]
    return found


def state_of(heads: Heads) -> dict[str, Tensor]:
    """The weights of heads, by name."""
    return {name: head.weight.detach() for name, head in sorted(heads.items())}


def restored(weights: Mapping[str, Tensor], device: torch.device) -> Heads:
    """The inverse of `state_of`."""
    found: Heads = {}
    for name, weight in weights.items():
        head = nn.Linear(weight.shape[1], 1, bias=False, dtype=weight.dtype, device=device)
        with torch.no_grad():
            head.weight.copy_(weight)
        found[name] = head
    return found


def save(heads: Heads, folder: Path) -> None:
    """Write `HEADS` where there is a head."""
    if heads:
        save_file(
            {name: w.cpu().contiguous() for name, w in state_of(heads).items()}, folder / HEADS
        )


def load(folder: Path, device: torch.device) -> Heads:
    """The heads of a saved model; none where it has none."""
    path = folder / HEADS
    return restored(load_file(path), device) if path.is_file() else {}
