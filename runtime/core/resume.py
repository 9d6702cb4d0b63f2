"""Checkpoints of one train stage: written whole or not at all, read back to the same bytes."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from grape.runtime.core.models import Policy
from grape.runtime.core.optim import Optimizer

_NAME = "checkpoint"


def save_checkpoint(work: Path, policy: Policy, optimizer: Optimizer, done: int) -> None:
    """Weights, optimizer and the number of updates done, under `work / "checkpoint"`."""
    fresh = work / f"{_NAME}.new"
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    state = {
        "model": policy.model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "done": done,
        "updates": policy.updates,
    }
    torch.save(state, fresh / "state.pt")
    shutil.rmtree(work / _NAME, ignore_errors=True)
    fresh.rename(work / _NAME)


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
