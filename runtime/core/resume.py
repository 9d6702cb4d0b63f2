"""Checkpoints of one train stage: written whole or not at all, read back to the same bytes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol

import torch

from grape.runtime import ranks
from grape.runtime.core.models import Policy
from grape.runtime.store import readable_errors

_NAME = "checkpoint"


class Kept(Protocol):
    """Whatever goes on from plain tensors and numbers."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def save_checkpoint(work: Path, policy: Policy, trainer: Kept, done: int) -> None:
    """Weights, the trainer's state and the number of updates done, under `work / "checkpoint"`;
    of several processes the first one writes."""
    if not ranks.first():
        return
    state = {
        "policy": policy.state_dict(),
        "trainer": trainer.state_dict(),
        "done": done,
    }
    fresh, target = work / "state.pt.new", work / _NAME
    with readable_errors(work), fresh.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    target.mkdir(exist_ok=True)
    fresh.replace(target / "state.pt")  # the last checkpoint stays until this moment


def load_checkpoint(work: Path, policy: Policy, trainer: Kept) -> int:
    """Put a checkpoint back and return how many updates it has done; 0 when there is none."""
    path = work / _NAME / "state.pt"
    if not path.is_file():
        return 0
    state = torch.load(path, weights_only=True, map_location=policy.device)
    policy.load_state_dict(state["policy"])
    trainer.load_state_dict(state["trainer"])
    return int(state["done"])
