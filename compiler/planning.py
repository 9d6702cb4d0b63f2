"""`Graph` to `Plan`: every setting written out, every stage with its key, state and reason.

It reads the files that stages read, to digest them; what the store holds and what the last run was
made of are told by the caller.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from grape.compiler import graph as typed
from grape.compiler.keys import Files, digest, key_document
from grape.compiler.plan import (
    Plan,
    PlannedCheck,
    PlannedOutput,
    PlannedStage,
    PlannedUntil,
    Ref,
)
from grape.compiler.verbs import verb

EDITION = 1
State = Literal["cached", "run", "resume", "skipped"]
_LIBRARIES = ("grape-lang", "torch", "transformers", "peft", "prefect")


def make_plan(
    graph: typed.Graph,
    *,
    project: Path,
    file: str,
    state_of: Callable[[str], Literal["cached", "run", "resume"]],
    previous: Mapping[str, Any] | None,
) -> Plan:
    """The plan of a graph. `state_of` tells of a key what the store has; `previous` maps stage
    names to the key documents of the last run.

    Raises ValueError when a file that a stage reads is not there."""
    files = Files(project / ".grape" / "digests.json")
    documents = documents_of(graph, project, files)
    files.save()
    numbers = estimates(graph.stages)
    stages: list[PlannedStage] = []
    for stage in graph.stages:
        key = digest(documents[stage.name])
        state = state_of(key)
        reason = _reason(stage, documents, state, previous or {})
        stages.append(_planned(stage, key, state, reason, numbers[stage.name]))
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
                doc=check.doc,
            )
            for check in graph.checks
        ),
        outputs=tuple(
            PlannedOutput(ref=Ref(stage=output.source, view=output.view), path=output.path)
            for output in graph.outputs
        ),
        versions=dict(_versions()),
        layers=graph.layers,
        doc=graph.doc,
        skipped=tuple(_left(skipped) for skipped in graph.skipped),
        left_out=graph.left_out,
    )


def _left(skipped: typed.Skipped) -> PlannedStage:
    """A stage of a branch that is not taken: it has neither key nor estimate."""
    planned = _planned(skipped.stage, "", "skipped", skipped.reason, {})
    inside = f"{skipped.region}." if skipped.region else ""
    return planned.model_copy(update={"name": inside + planned.name})


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
    stage: typed.Stage, key: str, state: State, reason: str, estimate: dict[str, Any]
) -> PlannedStage:
    inside = estimates(stage.body)
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
        estimate=estimate,
        doc=stage.doc,
        file=stage.span.source.path,
        line=stage.span.line,
        body=tuple(_planned(inner, "", state, reason, inside[inner.name]) for inner in stage.body),
        next=stage.next,
        layers=stage.layers,
        every=stage.every,
        until=tuple(PlannedUntil(text=until.text, test=until.test) for until in stage.until),
    )


# --- estimates ---------------------------------------------------------------------------------


def estimates(stages: Sequence[typed.Stage]) -> dict[str, dict[str, Any]]:
    """By stage name: the numbers that follow from the settings alone. What only the data tells is
    left out. The numbers of a repeat's body are those of one round."""
    found: dict[str, dict[str, Any]] = {}
    for stage in stages:
        found[stage.name] = _estimate(stage, found)
    return found


def _estimate(stage: typed.Stage, before: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    settings = stage.settings
    match stage.verb:
        case "sample" if settings["prompts"] is not None:
            completions = settings["prompts"] * settings["group"]
            return {
                "prompts": settings["prompts"],
                "completions": completions,
                "max_new_tokens": completions * settings["max_tokens"],
            }
        case "score":
            made = before.get(stage.inputs[0].source, {})
            return {name: made[name] for name in ("prompts", "completions") if name in made}
        case "train":
            source = next((edge.source for edge in stage.inputs if edge.port == "data"), "")
            return _updates(settings, before.get(source, {}))
        case "repeat":
            return _rounds(stage)
    return {}


def _updates(settings: Mapping[str, Any], made: Mapping[str, Any]) -> dict[str, Any]:
    """Optimizer steps on known completions; a group stays in one step, so that a step holds as
    many groups as fit."""
    if "completions" not in made or settings["overlong"] != "error":
        return {}
    group = made["completions"] // made["prompts"]
    size = settings["sequences_per_update"] or made["completions"]
    steps = math.ceil(made["prompts"] / max(1, size // group)) * settings["epochs"]
    limit = settings["updates"]
    return {
        "sequences": made["completions"],
        "updates": steps if limit is None else min(steps, limit),
    }


def _rounds(stage: typed.Stage) -> dict[str, Any]:
    """The sums over all rounds of what is known of every stage that has the number."""
    rounds = stage.settings["rounds"]
    inside = estimates(stage.body)
    total: dict[str, Any] = {"rounds": rounds}
    for verb_name, number in (("sample", "completions"), ("train", "updates")):
        of_verb = [
            inside[item.name]
            for item in stage.body
            if item.verb == verb_name and item.every is None
        ]
        if of_verb and all(number in one for one in of_verb):
            total[number] = rounds * sum(int(one[number]) for one in of_verb)
    return total


# --- reasons ----------------------------------------------------------------------------------


def _reason(
    stage: typed.Stage,
    documents: Mapping[str, dict[str, Any]],
    state: State,
    previous: Mapping[str, Any],
) -> str:
    if state == "cached":
        return "in the store"
    if state == "resume":
        return "goes on from its checkpoint"
    before, now = previous.get(stage.name), documents[stage.name]
    if before is None or before == now:
        return "not made yet"
    changes = list(_changes(before, now, stage.body))
    if before.get("inputs") != now["inputs"]:
        changes += _changed_inputs(stage, documents, previous)
    return ", ".join(changes) or "Grape changed how it makes this"


def _changed_inputs(
    stage: typed.Stage, documents: Mapping[str, dict[str, Any]], previous: Mapping[str, Any]
) -> list[str]:
    """Which inputs are not what they were, in words: a source by itself, the first stage."""
    names = dict.fromkeys(edge.source for edge in stage.inputs)
    changed = [name for name in names if previous.get(name, {}) != documents[name]]
    stages = [name for name in changed if documents[name]["inputs"]]
    if stages:
        return [f"downstream of `{stages[0]}`"]
    return [f"input `{name}` changed" for name in changed] or ["takes other inputs"]


def _changes(
    before: Mapping[str, Any], now: Mapping[str, Any], body: Sequence[typed.Stage], of: str = ""
) -> Iterator[str]:
    """What differs between two key documents apart from the inputs, in words."""
    if before.get("verb") != now["verb"]:
        yield f"{before.get('verb')} → {now['verb']}{of}"
        return
    old, new = before.get("settings", {}), now["settings"]
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            yield f"{name}{of}{_shown(old.get(name), new.get(name))}"
    for name, words in _WORDS:
        if before.get(name) != now.get(name):
            yield f"{words}{of} changed"
    if before.get("files") != now.get("files"):
        yield f"{', '.join(now.get('files', {})) or 'files'}{of} changed on disk"
    pairs = list(zip(before.get("body", ()), now.get("body", ()), body, strict=False))
    if len(before.get("body", ())) != len(body) or before.get("next") != now.get("next"):
        yield "stages of the repeat changed"
    else:
        for one, other, stage in pairs:
            yield from _changes(one, other, (), f" of `{stage.name}`")
            if one.get("inputs") != other["inputs"]:
                yield f"`{stage.name}` takes other inputs"


_WORDS = (
    ("formula", "algorithm"),
    ("reward", "reward"),
    ("every", "rounds of `every`"),
    ("until", "`until`"),
)


def _shown(old: object, new: object) -> str:
    """`: 1 → 2` for values that fit on a line."""
    one, other = (json.dumps(value, ensure_ascii=False) for value in (old, new))
    return f": {one} → {other}" if len(one) + len(other) <= 40 else " changed"


def _versions() -> list[tuple[str, str]]:
    found = []
    for name in _LIBRARIES:
        try:
            found.append((name, version(name)))
        except PackageNotFoundError:
            continue
    return found
