"""`Graph` to `Plan`: every setting written out, every stage with its key, state and reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from grape.compiler import graph as typed
from grape.compiler.keys import Files, digest, key_document
from grape.compiler.plan import Plan, PlannedCheck, PlannedOutput, PlannedStage, Ref
from grape.compiler.verbs import verb

EDITION = 1
State = Literal["cached", "run", "resume"]
_LIBRARIES = ("grape-lang", "torch", "transformers", "peft", "prefect")


def make_plan(
    graph: typed.Graph,
    *,
    project: Path,
    file: str,
    state_of: Callable[[str], State],
    previous: Mapping[str, Any] | None,
) -> Plan:
    """The plan of a graph. `state_of` tells of a key what the store has; `previous` maps stage
    names to the key documents of the last run.

    Raises ValueError when a file that a stage reads is not there."""
    files = Files(project / ".grape" / "digests.json")
    documents = documents_of(graph, project, files)
    files.save()
    stages: list[PlannedStage] = []
    for stage in graph.stages:
        document = documents[stage.name]
        key = digest(document)
        state = state_of(key)
        reason = _reason(stage, document, state, (previous or {}).get(stage.name), stages)
        stages.append(_planned(stage, key, state, reason))
    return Plan(
        edition=EDITION,
        pipeline=graph.pipeline,
        file=file,
        project=str(project),
        params=graph.params,
        stages=tuple(stages),
        checks=tuple(
            PlannedCheck(
                text=check.text,
                test=check.test,
                confidence=check.confidence,
                file=check.span.source.path,
                line=check.span.line,
            )
            for check in graph.checks
        ),
        outputs=tuple(
            PlannedOutput(ref=Ref(stage=output.source, view=output.view), path=output.path)
            for output in graph.outputs
        ),
        versions=dict(_versions()),
    )


def documents_of(graph: typed.Graph, project: Path, files: Files) -> dict[str, dict[str, Any]]:
    """The key document of every stage of the pipeline, by name."""
    documents: dict[str, dict[str, Any]] = {}
    keys: dict[str, str] = {}
    for stage in graph.stages:
        document = _document(stage, keys, project, files)
        documents[stage.name] = document
        keys[stage.name] = digest(document)
    return documents


def _document(
    stage: typed.Stage, inputs: Mapping[str, str], project: Path, files: Files
) -> dict[str, Any]:
    document = key_document(stage, verb_version(stage.verb), inputs, project, files)
    if stage.verb == "repeat":
        # inside, stages are named by their place, so that a new name changes nothing
        local = {edge.source: f"input {place}" for place, edge in enumerate(stage.inputs)}
        local |= {inner.name: f"stage {place}" for place, inner in enumerate(stage.body)}
        local[stage.name] = "carry"
        document["body"] = [_document(inner, local, project, files) for inner in stage.body]
        document["next"] = local[stage.next] if stage.next else None
    return document


def verb_version(name: str) -> str:
    """The version of a verb that takes part in keys."""
    return "1" if name == "repeat" else verb(name).version


def _planned(stage: typed.Stage, key: str, state: State, reason: str) -> PlannedStage:
    return PlannedStage(
        name=stage.name,
        verb=stage.verb,
        type=stage.type.name,
        inputs={edge.port: Ref(stage=edge.source, view=edge.view) for edge in stage.inputs},
        settings=stage.settings,
        formula=stage.formula.to_json() if stage.formula else None,
        reward=stage.reward,
        key=key,
        state=state,
        reason=reason,
        estimate=_estimate(stage),
        doc=stage.doc,
        file=stage.span.source.path,
        line=stage.span.line,
        body=tuple(_planned(inner, "", state, reason) for inner in stage.body),
        next=stage.next,
    )


def _estimate(stage: typed.Stage) -> dict[str, Any]:
    """What follows from the settings alone."""
    settings = stage.settings
    if stage.verb == "repeat":
        return {"rounds": settings["rounds"]}
    if stage.verb == "sample" and settings["prompts"] is not None:
        completions = settings["prompts"] * settings["group"]
        return {
            "prompts": settings["prompts"],
            "completions": completions,
            "max_new_tokens": completions * settings["max_tokens"],
        }
    return {}


# --- reasons ----------------------------------------------------------------------------------


def _reason(
    stage: typed.Stage,
    document: dict[str, Any],
    state: State,
    before: dict[str, Any] | None,
    planned: list[PlannedStage],
) -> str:
    if state == "cached":
        return "in the store"
    if state == "resume":
        return "goes on from its checkpoint"
    if before is None or before == document:
        return "not made yet"
    states = {item.name: item.state for item in planned}
    changed = _difference(before, document)
    upstream = [edge.source for edge in stage.inputs if states.get(edge.source) != "cached"]
    if changed == "inputs" and upstream:
        return f"downstream of `{upstream[0]}`"
    return "inputs changed" if changed == "inputs" else changed


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    """The first thing that differs between two key documents, in words."""
    if before.get("verb") != now["verb"]:
        return f"{before.get('verb')} → {now['verb']}"
    old, new = before.get("settings", {}), now["settings"]
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            return f"{name}: {old.get(name)} → {new.get(name)}"
    for name, words in (("formula", "algorithm changed"), ("reward", "reward changed")):
        if before.get(name) != now.get(name):
            return words
    if before.get("files") != now.get("files"):
        return f"{', '.join(now.get('files', {})) or 'files'} changed on disk"
    for place, (one, other) in enumerate(
        zip(before.get("body", ()), now.get("body", ()), strict=False)
    ):
        if one != other:
            return f"{other['verb']} (stage {place + 1} of the body): {_difference(one, other)}"
    if before.get("inputs") != now["inputs"]:
        return "inputs"
    return "Grape changed how it makes this"


def _versions() -> list[tuple[str, str]]:
    found = []
    for name in _LIBRARIES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return found
