"""What a run publishes: a model folder under the project, swapped in whole, with a model card."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from grape.compiler.plan import Plan, PlannedOutput, PlannedStage
from grape.runtime.artifacts import HEADS, MARK
from grape.runtime.errors import StageError
from grape.runtime.rounds import REPORTS
from grape.runtime.store import MANIFEST, Store


def publish(plan: Plan, output: PlannedOutput, store: Store, run: str) -> Path:
    """Copy a model out of the store. Raises StageError for a path that leaves the project or a
    folder that Grape did not write."""
    project = Path(plan.project).resolve()
    target = (project / output.path).resolve()
    if not target.is_relative_to(project) or target == project:
        raise StageError(f"the output `{output.path}` lies outside the project folder {project}")
    if target.exists() and not (target / MARK).is_file():
        raise StageError(
            f"`{output.path}` is there already, and Grape did not write it",
            hint="move it away, or choose another path in `output`",
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target.parent):
            _swap_in(plan, plan.stage(output.ref.stage), store, run, target)
    except OSError as error:
        raise StageError(
            f"the output `{output.path}` could not be written: {error.strerror or error}",
            hint="every stage is in the store; make room or permission, and run again",
        ) from error
    return target


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While it lasts, no other run publishes into the folder: it would take what is half written
    for something left over."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _swap_in(plan: Plan, stage: PlannedStage, store: Store, run: str, target: Path) -> None:
    """Write the folder beside its place, then let it take the place of the last one."""
    fresh, old = (target.with_name(f".{target.name}.{word}") for word in ("new", "old"))
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    stored = store.path(stage.key)
    shutil.copytree(stored, fresh, ignore=shutil.ignore_patterns(MANIFEST, REPORTS, HEADS))
    if (stored / HEADS).is_file():
        from grape.runtime.core.publishing import with_score

        with_score(stored, fresh)
    (fresh / "README.md").write_text(_card(plan, stage, run), encoding="utf-8")
    mark = {"run": run, "key": stage.key, "pipeline": plan.pipeline, "versions": plan.versions}
    (fresh / MARK).write_text(json.dumps(mark, indent=2), encoding="utf-8")
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _card(plan: Plan, stage: PlannedStage, run: str) -> str:
    """Where the weights come from, one line per ancestor."""
    lines = ["---", "library_name: transformers", "tags: [grape]", "---", ""]
    lines += [f"# {plan.pipeline}", "", f"Made by run `{run}` from `{Path(plan.file).name}`.", ""]
    for ancestor in _ancestors(plan, stage.name):
        given = ", ".join(
            f"{name} = {value}" for name, value in ancestor.settings.items() if value is not None
        )
        lines.append(f"- `{ancestor.name}` = {ancestor.verb} ({given})")
        lines += [f"  - `{inner.name}` = {inner.verb}" for inner in ancestor.body]
    return "\n".join(lines) + "\n"


def _ancestors(plan: Plan, name: str) -> list[PlannedStage]:
    wanted = {name}
    found = []
    for stage in reversed(plan.stages):
        if stage.name in wanted:
            wanted |= {ref.stage for ref in stage.inputs.values()}
            found.append(stage)
    return found[::-1]
