"""Joins compiler and store: a checked graph becomes a plan that knows what is already made, and a
saved plan is looked at once more before it runs.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from grape.compiler.estimates.devices import Device
from grape.compiler.graph import Graph
from grape.compiler.keys import Files
from grape.compiler.plan import Plan, PlannedStage
from grape.compiler.planning import Surroundings, library_versions, make_plan
from grape.compiler.reasons import State
from grape.runtime.devices import detect
from grape.runtime.errors import UsageError
from grape.runtime.history import History
from grape.runtime.runs import past_runs
from grape.runtime.store import Store


def root_of(project: Path) -> Path:
    """The folder that holds the store and the runs of a project."""
    return project / ".grape"


def prepare(graph: Graph, file: Path, device: Device | None = None) -> Plan:
    """The plan of a pipeline in the project folder of its file, with the state of every stage and
    estimates for a device (the one of this machine when none is given).

    Raises UsageError when a file that the pipeline reads is not there.
    """
    project = file.resolve().parent
    root = root_of(project)
    store = Store(root / "store")
    target = device or detect()
    last = next((plan for _, plan in past_runs(root) if plan.pipeline == graph.pipeline), None)
    around = Surroundings(
        artifact=lambda key: store.path(key) if store.has(key) else None,
        rounds_of=store.rounds_of,
        settings={stage.name: stage.settings for stage in last.stages} if last else {},
        device=target,
        history=History(root, graph.pipeline, target.kind).of,
    )
    try:
        return make_plan(
            graph,
            project=project,
            file=str(file),
            state_of=lambda key: state_in(store, key),
            previous=last.documents if last else None,
            around=around,
        )
    except ValueError as error:
        raise UsageError(str(error)) from None


def state_in(store: Store, key: str) -> State:
    """What the store has of a key."""
    if store.has(key):
        return "cached"
    return "resume" if store.resumable(key) else "run"


def saved_plan(path: Path) -> tuple[Plan, list[str]]:
    """A plan that was saved, with the states of now, and what is worth a warning.

    Raises UsageError when it is none, or when a file that it reads is not what it was: the run
    would not be the one that was planned."""
    if not path.is_file():
        raise UsageError(f"there is no file `{path}`")
    try:
        plan = Plan.model_validate_json(path.read_bytes())
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"]) or "its start"
        raise UsageError(
            f"`{path}` is not a plan that this version of Grape can run (at {place})",
            hint="make it anew with `grape plan FILE.grape --out plan.json`",
        ) from None
    root = root_of(Path(plan.project))
    _check_files(plan, path, Files(root / "digests.json"))
    store = Store(root / "store")
    stages = [_now(stage, store) for stage in plan.stages]
    now = library_versions()
    drift = [
        f"{name} was {version} when the plan was made and is {now.get(name, 'not installed')} now"
        for name, version in plan.versions.items()
        if now.get(name) != version
    ]
    return plan.model_copy(update={"stages": tuple(stages)}), drift


def _check_files(plan: Plan, path: Path, files: Files) -> None:
    for stage in plan.stages:
        for name, digest in stage.files.items():
            try:
                same = files.digest(Path(name)) == digest
                what = "changed since the plan was made"
            except ValueError:
                same, what = False, "is gone since the plan was made"
            if not same:
                raise UsageError(
                    f"`{name}`, which `{stage.name}` reads, {what}, so that the run would not be "
                    f"the one of `{path}`",
                    hint="put the file back, or make the plan anew with `grape plan`",
                )
    files.save()


def _now(stage: PlannedStage, store: Store) -> PlannedStage:
    state = state_in(store, stage.key)
    if state == stage.state or (state == "run" and stage.done):
        return stage
    reasons = {
        "cached": "in the store",
        "resume": "goes on from its checkpoint",
        "run": "not in the store any more",
    }
    return stage.model_copy(update={"state": state, "reason": reasons[state]})
