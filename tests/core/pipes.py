"""Whole pipelines in this process: every stage through `execute`, every edge through a folder."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import grape
from grape.compiler.plan import Ref
from grape.runtime import ranks
from grape.runtime.execute import execute, load_artifact

torch.set_num_threads(1)

DATA = Path(__file__).parents[2] / "pipelines" / "tiny" / "data"
HEAD = """grape 1

use {used} from "std/algorithms"

## Often different within a group, so that there is something to learn.
reward lively() = contains("a") + contains("e") + within(2)

pipeline tried(seed: int = 7, processes: int = 2) {{
  model base = fresh("llama") {{
    layers = 1, hidden = 16, heads = 2, context = 64, tokenizer = "bytes"
  }}
  data sums = jsonl("data/sums.jsonl") {{
    prompt = "{{a}} + {{b}} =", completion = " {{sum}}", answer = "{{sum}}"
  }}
{body}
}}
"""


class Cut(Exception):
    """What ends a run in the middle."""


@dataclass(slots=True)
class Pipe:
    """A pipeline under way: artifacts in `folder`, everything that was told in `events`."""

    folder: Path
    kinds: dict[str, str] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)

    def open(self, ref: Ref) -> Any:
        return load_artifact(self.kinds[ref.stage], self.folder / "made" / ref.stage)

    def metrics(self, stage: str) -> list[dict[str, Any]]:
        return [e for e in self.events if e["event"] == "metrics" and e["stage"] == stage]

    def weights(self, stage: str) -> dict[str, torch.Tensor]:
        """Every tensor of a saved model, heads too."""
        from safetensors.torch import load_file

        found: dict[str, torch.Tensor] = {}
        for file in sorted((self.folder / "made" / stage).glob("*.safetensors")):
            found |= {f"{file.stem}/{name}": value for name, value in load_file(file).items()}
        return found


def run(
    folder: Path,
    body: str,
    used: str,
    *,
    cut: tuple[str, int] | None = None,
    extra: str = "",
    on_metrics: Callable[[], None] = lambda: None,
    exact: bool = False,
) -> Pipe:
    """Run `body` inside a small pipeline. `cut` names a stage and how many of its updates are told
    before the run ends with `Cut`; run again, it goes on from the last checkpoint. `exact` makes
    the first model one of float64."""
    file = folder / "tried.grape"
    if ranks.first():
        shutil.copytree(DATA, folder / "data", dirs_exist_ok=True)
        file.write_text(
            HEAD.format(used=used, body=body).replace("pipeline tried", extra + "pipeline tried")
        )
    ranks.meet()
    plan = grape.load(file).plan()
    pipe = Pipe(folder, {stage.name: stage.type for stage in plan.stages})
    told: dict[str, int] = {}

    def emit(event: dict[str, Any]) -> None:
        pipe.events.append({**event, "at": time.monotonic()})
        if event["event"] == "metrics":
            on_metrics()
            told[event["stage"]] = told.get(event["stage"], 0) + 1
            if (event["stage"], told[event["stage"]]) == cut:
                raise Cut

    made = {path.name for path in (folder / "made").glob("*")}
    ranks.meet()
    for stage in plan.stages:
        target, work = folder / "made" / stage.name, folder / "work" / stage.name
        if stage.name in made:
            continue
        work.mkdir(parents=True, exist_ok=True)
        artifact = execute(stage, pipe.open, project=folder, work=work, emit=emit)
        if exact and stage.verb == "fresh":
            artifact.model.double()
        if ranks.first():
            target.mkdir(parents=True)
            artifact.save(target)
        ranks.meet()
    return pipe


def goes_on(tmp_path: Path, body: str, used: str, stage: str, at: int, extra: str = "") -> Pipe:
    """Assert that a run cut off in a train stage ends with the bytes of one that was not."""
    import pytest

    whole = run(tmp_path / "whole", body, used, extra=extra)
    with pytest.raises(Cut):
        run(tmp_path / "parted", body, used, cut=(stage, at), extra=extra)
    parted = run(tmp_path / "parted", body, used, extra=extra)
    models = [name for name, kind in whole.kinds.items() if kind == "Model"]
    for name in models:
        expected, found = whole.weights(name), parted.weights(name)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected), name
    return whole
