"""One stage or one repeat, in memory: inputs from the store, verbs in order, one artifact.

A repeat keeps model, optimizer and every stage's state resident and writes nothing but metrics and
checkpoints; its stages run by the same functions as those outside.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grape.compiler.plan import PlannedStage, Ref
from grape.runtime.artifacts import TEXT_ARTIFACTS
from grape.runtime.context import Context, Emit
from grape.runtime.store import readable_errors
from grape.runtime.verbs import run_of

Open = Callable[[Ref], Any]


def load_artifact(kind: str, folder: Path) -> Any:
    """An artifact from its folder in the store."""
    if kind == "Model":
        from grape.runtime.core.models import Policy

        return Policy.load(folder)
    return TEXT_ARTIFACTS[kind].load(folder)


def execute(stage: PlannedStage, open_input: Open, *, project: Path, work: Path, emit: Emit) -> Any:
    """Run a stage and return its artifact. `open_input` reads an input from the store."""
    if stage.verb == "repeat":
        return _repeat(stage, open_input, project, work, emit)
    inputs = {port: open_input(ref) for port, ref in stage.inputs.items()}
    return run_of(stage.verb)(Context(stage, project, work, _named(stage, emit)), inputs)


def _named(stage: PlannedStage, emit: Emit) -> Emit:
    """Events from below a verb, such as those of a rollout, do not know whose they are."""
    return lambda event: emit({"stage": stage.name, **event})


def _repeat(region: PlannedStage, open_input: Open, project: Path, work: Path, emit: Emit) -> Any:
    rounds = region.settings["rounds"]
    outside = {  # the carried model is trained in place, so a reference has weights of its own
        ref.stage: open_input(Ref(stage=ref.stage))
        for stage in region.body
        for ref in stage.inputs.values()
        if ref.stage != region.name and ref.stage not in {inner.name for inner in region.body}
    }
    policy = open_input(region.inputs["start"])
    states: dict[str, dict[str, Any]] = {stage.name: {} for stage in region.body}
    first = _restore(work, policy, states)
    every = min(
        (stage.settings["checkpoint"] for stage in region.body if stage.verb == "train"),
        default=300.0,
    )
    saved = time.monotonic()
    for number in range(first, rounds):
        made: dict[str, Any] = {**outside, region.name: policy}
        for stage in region.body:
            context = Context(
                stage,
                project,
                work,
                _named(stage, emit),
                round=number,
                rounds=rounds,
                state=states[stage.name],
            )
            inputs = {port: made[ref.stage] for port, ref in stage.inputs.items()}
            start = time.monotonic()
            made[stage.name] = run_of(stage.verb)(context, inputs)
            emit(
                {
                    "event": "timing",
                    "stage": stage.name,
                    "round": number,
                    "seconds": round(time.monotonic() - start, 3),
                }
            )
        assert region.next is not None
        policy = made[region.next]
        emit(
            {
                "event": "progress",
                "stage": region.name,
                "done": number + 1,
                "total": rounds,
                "unit": "rounds",
            }
        )
        if time.monotonic() - saved > every and number + 1 < rounds:
            _save(work, policy, states, number + 1)
            saved = time.monotonic()
    return policy


def _save(work: Path, policy: Any, states: dict[str, dict[str, Any]], done: int) -> None:
    """A checkpoint between two rounds, whole or not at all: the last one stays until then."""
    import torch

    target = work / "checkpoint"
    fresh = work / "state.pt.new"
    trainers = {
        name: state["trainer"].state_dict() for name, state in states.items() if "trainer" in state
    }
    with readable_errors(work), fresh.open("wb") as file:
        torch.save(
            {
                "model": policy.model.state_dict(),
                "adapter": policy.adapter,
                "updates": policy.updates,
                "trainers": trainers,
                "done": done,
            },
            file,
        )
        file.flush()
        os.fsync(file.fileno())
    target.mkdir(exist_ok=True)
    fresh.replace(target / "state.pt")


def _restore(work: Path, policy: Any, states: dict[str, dict[str, Any]]) -> int:
    """Put the last checkpoint back; the round to go on with."""
    path = work / "checkpoint" / "state.pt"
    if not path.is_file():
        return 0
    import torch

    saved = torch.load(path, weights_only=True, map_location=policy.device)
    if saved["adapter"]:
        wrapped = policy.with_adapter(saved["adapter"])
        policy.model, policy.adapter = wrapped.model, wrapped.adapter
    policy.model.load_state_dict(saved["model"])
    policy.updates = saved["updates"]
    for name, state in saved["trainers"].items():
        states[name]["resume"] = state
    return int(saved["done"])
