"""One stage or one repeat, in memory: inputs from the store, verbs in order, one artifact.

The stages of a repeat run by the same functions as those outside; `rounds` says in which order.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from grape.compiler.plan import PlannedStage, Ref
from grape.runtime.artifacts import TEXT_ARTIFACTS
from grape.runtime.context import Context, Emit
from grape.runtime.critics.server import SERVED, Served
from grape.runtime.verbs import run_of

Open = Callable[[Ref], Any]


def load_artifact(kind: str, folder: Path) -> Any:
    """An artifact from its folder in the store."""
    if kind == "Model":
        if (folder / SERVED).is_file():
            return Served.load(folder)
        from grape.runtime.core.models import Policy

        return Policy.load(folder)
    return TEXT_ARTIFACTS[kind].load(folder)


def execute(stage: PlannedStage, open_input: Open, *, project: Path, work: Path, emit: Emit) -> Any:
    """Run a stage and return its artifact. `open_input` reads an input from the store."""
    if stage.verb == "repeat":
        from grape.runtime.rounds import run_rounds

        return run_rounds(stage, open_input, project=project, work=work, emit=emit)
    inputs = {port: open_input(ref) for port, ref in stage.inputs.items()}
    return run_of(stage.verb)(Context(stage, project, work, _named(stage, emit)), inputs)


def _named(stage: PlannedStage, emit: Emit) -> Emit:
    """Events from below a verb, such as those of a rollout, do not know whose they are."""
    return lambda event: emit({"stage": stage.name, **event})
