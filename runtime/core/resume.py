"""Checkpoints of one train stage: written whole or not at all, read back to the same bytes."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from grape.runtime.core.models import Policy
from grape.runtime.core.optim import Optimizer
from grape.runtime.store import readable_errors

_NAME = "checkpoint"


def save_checkpoint(work: Path, policy: Policy, optimizer: Optimizer, done: int) -> None:
    """Weights, optimizer and the number of updates done, under `work / "checkpoint"`."""
    state = {
        "model": policy.model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "done": done,
        "updates": policy.updates,
    }
    fresh, target = work / "state.pt.new", work / _NAME
    with readable_errors(work), fresh.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())
    target.mkdir(exist_ok=True)
    fresh.replace(target / "state.pt")  # the last checkpoint stays until this moment


def load_checkpoint(work: Path, policy: Policy, optimizer: Optimizer) -> int:
    """Put a checkpoint back and return how many updates it has done; 0 when there is none."""
    path = work / _NAME / "state.pt"
    if not path.is_file():
        return 0
    state = torch.load(path, weights_only=True, map_location=policy.device)
    policy.model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    policy.updates = state["updates"]
    return int(state["done"])
