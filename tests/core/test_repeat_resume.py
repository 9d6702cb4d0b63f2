"""A repeat that is cut off between two rounds and goes on ends with the same bytes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import grape
from grape.compiler.plan import PlannedStage, Ref
from grape.runtime.artifacts import Data, Item
from grape.runtime.core.models import Policy
from grape.runtime.errors import StageError
from grape.runtime.execute import execute
from grape.runtime.rounds import Carried
from grape.runtime.verbs.fresh import new_model, train_tokenizer

torch.set_num_threads(1)

TINY = Path(__file__).parents[2] / "pipelines" / "tiny"
ROUNDS = 4
LORA = {"kind": "lora", "rank": 2, "alpha": 4, "targets": "all-linear", "dropout": 0.0}
SMALL = {"prompts": 2, "group": 4, "max_tokens": 3, "checkpoint": 0.0, "lr": 1e-3}


class _Cut(Exception):
    pass


def region(tmp_path: Path, adapter: dict[str, Any] | None) -> PlannedStage:
    """The repeat of the tiny quickstart, smaller, with a checkpoint after every round."""
    project = tmp_path / "project"
    shutil.copytree(TINY, project, dirs_exist_ok=True)
    file = project / "quickstart.grape"
    reward = 'contains("a") + contains("e") + within(2)'  # rarely the same within a group
    file.write_text(file.read_text().replace('exact(extract = "number")', reward))
    program = grape.load(file, params={"rounds": ROUNDS})
    repeat = program.plan().stage("policy")
    body = []
    for stage in repeat.body:
        known = {name: value for name, value in SMALL.items() if name in stage.settings}
        settings = {**stage.settings, **known}
        if "adapter" in settings:
            settings["adapter"] = adapter
        body.append(stage.model_copy(update={"settings": settings}))
    return repeat.model_copy(update={"body": tuple(body)})


def opened(ref: Ref) -> Any:
    """Inputs as the store gives them: a model of its own, and data."""
    if ref.stage == "warm":
        settings = {
            "architecture": "llama",
            "layers": 1,
            "hidden": 16,
            "heads": 2,
            "kv_heads": None,
            "intermediate": None,
            "context": 64,
        }
        return new_model(settings, train_tokenizer(iter(()), 0), 1)
    items = [Item(str(n), prompt=f"{n} + 1 =", answer=str(n + 1)) for n in range(6)]
    return Data(items, {"train": list(range(6)), "test": []})


def run(
    stage: PlannedStage,
    work: Path,
    stop_after: int | None = None,
    notes: list[str] | None = None,
) -> Policy:
    """The repeat to its end, or cut off in the round after `stop_after` rounds; `notes` takes what
    it says."""
    work.mkdir(exist_ok=True)

    def emit(event: dict[str, Any]) -> None:
        if event["event"] == "note" and notes is not None:
            notes.append(event["text"])
        if event["event"] == "metrics" and event["round"] == stop_after:
            raise _Cut

    made = execute(stage, opened, project=work, work=work, emit=emit)
    assert isinstance(made, Carried) and isinstance(made.policy, Policy)
    return made.policy


@pytest.mark.parametrize("adapter", [None, LORA], ids=["weights", "adapter"])
@pytest.mark.parametrize("stop_after", [1, 3])
def test_going_on_gives_the_same_bytes(
    tmp_path: Path, adapter: dict[str, Any] | None, stop_after: int
) -> None:
    stage = region(tmp_path, adapter)
    expected = run(stage, tmp_path / "whole")
    with pytest.raises(_Cut):
        run(stage, tmp_path / "parted", stop_after)
    assert (tmp_path / "parted" / "checkpoint" / "state.pt").is_file()
    found = run(stage, tmp_path / "parted")
    assert found.updates == expected.updates == ROUNDS
    state = found.model.state_dict()
    assert all(
        torch.equal(state[name], value) for name, value in expected.model.state_dict().items()
    )
    start = opened(Ref(stage="warm")).model.state_dict()
    moved = [value for name, value in state.items() if "lora_B" in name and value.any()]
    moved += [
        value for name, value in start.items() if not torch.equal(value, state.get(name, value))
    ]
    assert moved, "a model that learned nothing would prove nothing"


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    stage, work = region(tmp_path, None), tmp_path / "work"
    expected = run(stage, tmp_path / "whole").model.state_dict()
    with pytest.raises(_Cut):
        run(stage, work, stop_after=2)
    last = (work / "checkpoint" / "state.pt").read_bytes()
    (work / "state.pt.new").symlink_to("/dev/full")  # every write there finds the disk full
    with pytest.raises(StageError, match="the disk is full"):
        run(stage, work)
    assert (work / "checkpoint" / "state.pt").read_bytes() == last
    (work / "state.pt.new").unlink()
    found = run(stage, work).model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_a_watchdog_keeps_its_patience(tmp_path: Path, stop_after: int) -> None:
    """Three updates without a whole completion: the third one barks, however they were parted."""
    stage = region(tmp_path, None)
    patient = {"patience": 3, "max_truncated": 0.1}
    body = [
        inner.model_copy(update={"settings": {**inner.settings, **patient}})
        if inner.verb == "train"
        else inner
        for inner in stage.body
    ]
    stage = stage.model_copy(update={"body": tuple(body)})
    whole: list[str] = []
    run(stage, tmp_path / "whole", notes=whole)
    assert [text[:4] for text in whole] == ["G905"] and "in 3 updates" in whole[0]
    parted: list[str] = []
    with pytest.raises(_Cut):
        run(stage, tmp_path / "parted", stop_after, parted)
    run(stage, tmp_path / "parted", notes=parted)
    assert parted == whole
