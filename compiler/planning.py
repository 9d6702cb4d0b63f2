"""`Graph` to `Plan`: every setting written out, every stage with its key, state and reason.

It reads the files that stages read, to digest them; what the store holds and what the last run was
made of are told by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from grape.compiler import graph as typed
from grape.compiler.estimates.counts import counts
from grape.compiler.estimates.devices import Device
from grape.compiler.estimates.records import Estimate
from grape.compiler.estimates.stages import estimate_stages
from grape.compiler.keys import Files, digest, key_document, reads
from grape.compiler.plan import (
    Plan,
    PlannedCheck,
    PlannedOutput,
    PlannedStage,
    PlannedUntil,
    Ref,
)
from grape.compiler.reasons import Because, State, because
from grape.compiler.verbs import verb

EDITION = 1
_LIBRARIES = ("grape-lang", "torch", "transformers", "peft", "prefect")


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the planner may be told besides states and the last run."""

    artifact: Callable[[str], Path | None] = lambda key: None
    """Where the artifact of a key is."""
    rounds_of: Callable[[str, int], int] = lambda family, rounds: 0
    """The rounds that are there of a repeat of this family and fewer than so many rounds."""
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings of the last run, by stage."""
    device: Device | None = None
    """What to estimate for; none: no estimate of memory and work."""
    history: Callable[[typed.Stage, Estimate], dict[str, Any]] = lambda stage, estimate: {}
    """What earlier runs tell of a stage: `seconds` to expect, what was `measured` last time."""


def make_plan(
    graph: typed.Graph,
    *,
    project: Path,
    file: str,
    state_of: Callable[[str], State],
    previous: Mapping[str, Any] | None,
    around: Surroundings | None = None,
) -> Plan:
    """The plan of a graph. `state_of` tells of a key what the store has; `previous` maps stage
    names to the key documents of the last run.

    Raises ValueError when a file that a stage reads is not there."""
    around = around or Surroundings()
    files = Files(project / ".grape" / "digests.json")
    documents = documents_of(graph, project, files)
    estimated = _estimates(graph, documents, project, around)
    numbers = counts(graph.stages)
    stages: list[PlannedStage] = []
    for stage in graph.stages:
        found = estimated.get(stage.name, Estimate())
        known = numbers[stage.name]
        planned = _stage(stage, documents, state_of, previous or {}, around, found, known)
        digests = _digests(stage, project, files)
        stages.append(planned.model_copy(update={"files": digests}))
    files.save()
    return Plan(
        edition=EDITION,
        pipeline=graph.pipeline,
        file=file,
        project=str(project),
        params=graph.params,
        layers=graph.layers,
        device=asdict(around.device) if around.device else {},
        stages=tuple(stages),
        checks=tuple(_check(check) for check in graph.checks),
        outputs=tuple(
            PlannedOutput(ref=Ref(stage=output.source, view=output.view), path=output.path)
            for output in graph.outputs
        ),
        versions=library_versions(),
        documents=documents,
        doc=graph.doc,
        skipped=tuple(_left(skipped) for skipped in graph.skipped),
        left_out=graph.left_out,
    )


def _stage(
    stage: typed.Stage,
    documents: Mapping[str, dict[str, Any]],
    state_of: Callable[[str], State],
    previous: Mapping[str, Any],
    around: Surroundings,
    found: Estimate,
    known: Mapping[str, Any],
) -> PlannedStage:
    """One stage with its key, state, reason and estimate."""
    document = documents[stage.name]
    key, family = digest(document), family_of(stage, document)
    state, done = state_of(key), 0
    if state == "run" and family:
        done = around.rounds_of(family, stage.settings["rounds"])
        state = "resume" if done else state
    last = around.settings.get(stage.name)
    why = because(stage, documents, state, previous, done=done, settings=last)
    if done:
        left = (stage.settings["rounds"] - done) / stage.settings["rounds"]
        found = replace(found, work=found.work * left)
    estimate = {**known, **found.to_json(), **around.history(stage, found)}
    planned = _planned(stage, key, state, why, estimate, found)
    return planned.model_copy(update={"family": family, "done": done})


def _check(check: typed.Check) -> PlannedCheck:
    return PlannedCheck(
        text=check.text,
        test=check.test,
        confidence=check.confidence,
        file=check.span.source.path,
        line=check.span.line,
        doc=check.doc,
    )


def _left(skipped: typed.Skipped) -> PlannedStage:
    """A stage of a branch that is not taken: it has neither key nor estimate."""
    why = Because(skipped.reason, "none")
    planned = _planned(skipped.stage, "", "skipped", why, {}, Estimate())
    inside = f"{skipped.region}." if skipped.region else ""
    return planned.model_copy(update={"name": inside + planned.name})


def _estimates(
    graph: typed.Graph,
    documents: Mapping[str, dict[str, Any]],
    project: Path,
    around: Surroundings,
) -> dict[str, Estimate]:
    if around.device is None:
        return {}
    return estimate_stages(
        graph.stages,
        project=project,
        device=around.device,
        stored=lambda name: around.artifact(digest(documents[name])),
    )


def family_of(stage: typed.Stage, document: Mapping[str, Any]) -> str:
    """The key of a repeat but for its number of rounds; empty where more rounds are not simply
    some more: a schedule, a warm-up, `progress` or an order by a column depends on how many there
    are in all, and an `until` may have ended them."""
    settings = dict(document["settings"])
    settings.pop("rounds", None)
    if stage.verb != "repeat" or stage.until or any(settings.values()):
        return ""
    for inner in stage.body:
        if inner.formula is not None and "progress" in inner.formula.needs:
            return ""
        if (inner.settings.get("curriculum") or {}).get("kind") == "by_column":
            return ""
        if inner.verb == "train" and (
            inner.settings.get("schedule", "constant") != "constant"
            or inner.settings.get("warmup", 0)
        ):
            return ""
    return digest({**document, "settings": settings})


def _digests(stage: typed.Stage, project: Path, files: Files) -> dict[str, str]:
    """Digests of what a stage, and a repeat's body, reads."""
    found = {str(path): files.digest(path) for _, path in reads(stage, project)}
    for inner in stage.body:
        found |= _digests(inner, project, files)
    return found


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
        if stage.until:
            document["until"] = [_placed(until.test, local) for until in stage.until]
    if stage.every is not None:
        document["every"] = stage.every
    return document


def _placed(test: dict[str, Any], local: Mapping[str, str]) -> dict[str, Any]:
    """A test with its stages named by their places."""
    if test["op"] == "metric":
        return {**test, "stage": local[test["stage"]]}
    return (
        {**test, "args": [_placed(arg, local) for arg in test["args"]]} if "args" in test else test
    )


def verb_version(name: str) -> str:
    """The version of a verb that takes part in keys."""
    return "1" if name == "repeat" else verb(name).version


def _planned(
    stage: typed.Stage,
    key: str,
    state: State,
    why: Because,
    estimate: dict[str, Any],
    found: Estimate,
) -> PlannedStage:
    inside = counts(stage.body)
    return PlannedStage(
        name=stage.name,
        verb=stage.verb,
        type=stage.type.name,
        inputs={edge.port: Ref(stage=edge.source, view=edge.view) for edge in stage.inputs},
        settings=stage.settings,
        given=tuple(sorted(stage.given)),
        formula=stage.formula.to_json() if stage.formula else None,
        reward=stage.reward,
        key=key,
        state=state,
        reason=why.text,
        change=why.change,
        differs=why.differs,
        upstream=why.upstream,
        estimate=estimate,
        doc=stage.doc,
        file=stage.span.source.path,
        line=stage.span.line,
        body=tuple(_inner(inner, state, why, inside, found) for inner in stage.body),
        next=stage.next,
        layers=stage.layers,
        every=stage.every,
        until=tuple(PlannedUntil(text=until.text, test=until.test) for until in stage.until),
    )


def _inner(
    stage: typed.Stage,
    state: State,
    why: Because,
    numbers: Mapping[str, dict[str, Any]],
    region: Estimate,
) -> PlannedStage:
    found = region.body.get(stage.name, Estimate())
    estimate = {**numbers[stage.name], **found.to_json()}
    return _planned(stage, "", state, Because(why.text, why.change), estimate, found)


def library_versions() -> dict[str, str]:
    """The versions of what decides about results, by distribution name."""
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
