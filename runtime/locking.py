"""`grape.lock`: what a pipeline meant when it was locked, and what has drifted since.

It holds what the file does not say: the edition, the defaults of settings, the versions of verbs
and libraries, and the digests of data. What the file says is the file's to change.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from grape.compiler.graph import Graph
from grape.compiler.plan import Plan, PlannedStage
from grape.compiler.planning import verb_version
from grape.dsl.findings import Finding
from grape.runtime.errors import UsageError

NAME = "grape.lock"
FORMAT = 1


def lock_path(plan: Plan) -> Path:
    return Path(plan.project) / NAME


def locked(plan: Plan) -> dict[str, Any]:
    """What a lock holds of one pipeline."""
    project = Path(plan.project)
    return {
        "edition": plan.edition,
        "versions": dict(sorted(plan.versions.items())),
        "stages": {name: _stage(stage) for name, stage in _all(plan)},
        "files": {
            _short(path, project): digest
            for stage in plan.stages
            for path, digest in sorted(stage.files.items())
        },
    }


def _all(plan: Plan) -> Iterator[tuple[str, PlannedStage]]:
    for stage in plan.stages:
        yield stage.name, stage
        for inner in stage.body:
            yield f"{stage.name}.{inner.name}", inner


def _stage(stage: PlannedStage) -> dict[str, Any]:
    defaults = {
        name: value for name, value in sorted(stage.settings.items()) if name not in stage.given
    }
    return {"verb": stage.verb, "version": verb_version(stage.verb), "defaults": defaults}


def _short(path: str, project: Path) -> str:
    """A path below the project as it is from there; one of a package by its last two parts, since
    where packages lie differs from machine to machine."""
    file = Path(path)
    if file.is_relative_to(project):
        return file.relative_to(project).as_posix()
    return "/".join(file.parts[-2:])


def read_lock(path: Path) -> dict[str, Any]:
    """The pipelines of a lock file, by name. Raises UsageError for a file of another make."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        pipelines = document["pipelines"] if document["lock"] == FORMAT else None
    except (OSError, ValueError, KeyError, TypeError):
        pipelines = None
    if not isinstance(pipelines, dict):
        raise UsageError(
            f"`{path}` is not a lock that this version of Grape can read",
            hint="make it anew with `grape lock FILE.grape`",
        )
    return pipelines


def write_lock(plans: list[Plan]) -> Path:
    """Write or renew the entries of these pipelines; the others stay."""
    path = lock_path(plans[0])
    pipelines = read_lock(path) if path.is_file() else {}
    pipelines |= {plan.pipeline: locked(plan) for plan in plans}
    text = json.dumps({"lock": FORMAT, "pipelines": pipelines}, indent=2, sort_keys=True)
    fresh = path.with_suffix(".lock.new")
    fresh.write_text(text + "\n", encoding="utf-8")
    fresh.replace(path)
    return path


def lock_findings(graph: Graph, plan: Plan, *, locked: bool) -> list[Finding]:
    """What is not as the lock says: warnings, or errors when the run is to be `locked`. Raises
    UsageError when it is to be and there is no lock."""
    path = lock_path(plan)
    entry = read_lock(path).get(plan.pipeline) if path.is_file() else None
    if entry is None:
        if locked:
            raise UsageError(
                f"`--locked`, and `{path}` has no pipeline `{plan.pipeline}`",
                hint=f"lock it with `grape lock {plan.file}`",
            )
        return []
    spans = {stage.name: stage.span for stage in graph.stages}
    code = "G541" if locked else "G540"
    hint = f"`grape lock {plan.file}` takes what is now"
    return [
        Finding(code, sentence, spans.get(stage.partition(".")[0], graph.span), hint=hint)
        for stage, sentence in drift(entry, plan)
    ]


def drift(entry: Mapping[str, Any], plan: Plan) -> Iterator[tuple[str, str]]:
    """What differs from a lock's entry: the stage (or nothing) and a sentence."""
    now = locked(plan)
    if entry["edition"] != now["edition"]:
        yield "", f"the lock is of edition {entry['edition']}, this is {now['edition']}"
    for name in sorted(entry["versions"].keys() | now["versions"].keys()):
        old, new = entry["versions"].get(name), now["versions"].get(name)
        if old != new:
            yield "", f"{name} is {new or 'not installed'}, and the lock has {old or 'none'}"
    for name in sorted(entry["files"].keys() & now["files"].keys()):
        if entry["files"][name] != now["files"][name]:
            yield _reader(plan, name), f"`{name}` is not the file that was locked"
    for name, stage in now["stages"].items():
        yield from ((name, text) for text in _stage_drift(name, entry["stages"].get(name), stage))


def _reader(plan: Plan, name: str) -> str:
    project = Path(plan.project)
    for stage in plan.stages:
        if any(_short(path, project) == name for path in stage.files):
            return stage.name
    return ""


def _stage_drift(name: str, old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> Iterator[str]:
    if old is None or old["verb"] != new["verb"]:
        yield f"`{name}` is not in the lock"
        return
    if old["version"] != new["version"]:
        yield f"`{new['verb']}` means something else than when `{name}` was locked"
    for setting in sorted(old["defaults"].keys() & new["defaults"].keys()):
        before, after = old["defaults"][setting], new["defaults"][setting]
        if before != after:
            yield (
                f"the default of `{setting}` of `{name}` is {json.dumps(after)}, and the lock has "
                f"{json.dumps(before)}"
            )
