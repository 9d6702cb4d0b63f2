"""A train stage that is cut off and goes on ends with the same bytes as one that never stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from grape.compiler.plan import PlannedStage, Ref
from grape.runtime.algorithm import algorithm
from grape.runtime.artifacts import Data, Item
from grape.runtime.context import Context
from grape.runtime.core.models import Policy
from grape.runtime.verbs import fresh, train

SETTINGS: dict[str, Any] = {
    "lr": 1e-3,
    "epochs": 1,
    "sequences_per_update": 2,
    "updates": None,
    "warmup": 0.0,
    "schedule": "linear",
    "weight_decay": 0.0,
    "betas": [0.9, 0.999],
    "clip_norm": 1.0,
    "adapter": None,
    "micro_tokens": 4096,
    "share_prompts": True,
    "packed": True,
    "fused_head": True,
    "skip_idle": True,
    "own_layers": True,
    "overlong": "error",
    "max_length": None,
    "checkpoint": 0.0,
    "seed": 0,
}


class _Cut(Exception):
    pass


def _data() -> Data:
    items = [Item(str(n), prompt=f"{n} + 1 =", completion=f" {n + 1}") for n in range(12)]
    return Data(items, {"train": list(range(12))})


def _model() -> Policy:
    settings = {
        "architecture": "llama",
        "layers": 1,
        "hidden": 16,
        "heads": 2,
        "kv_heads": None,
        "intermediate": None,
        "vocab": 300,
        "context": 64,
        "tokenizer": "bytes",
        "seed": 1,
    }
    stage = PlannedStage(name="m", verb="fresh", type="Model", inputs={}, settings=settings)
    return fresh.run(Context(stage, Path(), Path(), lambda event: None), {})


def _train(work: Path, stop_at: int | None) -> Policy:
    stage = PlannedStage(
        name="warm",
        verb="train",
        type="Model",
        inputs={"model": Ref(stage="m"), "data": Ref(stage="d")},
        settings=SETTINGS,
        formula=algorithm("sft").formula.to_json(),
        key="k",
    )

    def emit(event: dict[str, Any]) -> None:
        if event["event"] == "metrics" and event["update"] == stop_at:
            raise _Cut

    return train.run(Context(stage, Path(), work, emit), {"model": _model(), "data": _data()})


def test_going_on_gives_the_same_bytes(tmp_path: Path) -> None:
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    whole.mkdir()
    parted.mkdir()
    expected = _train(whole, None).model.state_dict()
    with pytest.raises(_Cut):
        _train(parted, 3)
    assert (parted / "checkpoint" / "state.pt").is_file()
    found = _train(parted, None).model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())
