"""The estimate of every stage of a graph: what it is made of is followed along the edges.

A stage whose model nobody knows yet (a hub model that is not in the cache) has no estimate, and a
note says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from grape.compiler.ahead import ahead_of, inner_of
from grape.compiler.estimates import memory
from grape.compiler.estimates.devices import Device
from grape.compiler.estimates.facts import fresh_facts
from grape.compiler.estimates.headers import Header, folder_header, read_header
from grape.compiler.estimates.memory import Line
from grape.compiler.estimates.records import Estimate, Known, Model
from grape.compiler.estimates.sampling import drawn_by, revised
from grape.compiler.estimates.texts import texts_of
from grape.compiler.estimates.training import trained
from grape.compiler.estimates.work import Work
from grape.compiler.graph import Stage
from grape.compiler.plan import processes_of
from grape.compiler.verbs import verb


def estimate_stages(
    stages: Sequence[Stage],
    *,
    project: Path,
    device: Device,
    stored: Callable[[str], Path | None] = lambda name: None,
) -> dict[str, Estimate]:
    """The estimate of every stage, by name. `stored` gives the artifact of a stage that is made
    already: its header is more exact than what can be told from settings."""
    known = Known(project, device, stored)
    return {stage.name: _together(_estimate(stage, known), stage, known) for stage in stages}


def _together(alone: Estimate, stage: Stage, known: Known) -> Estimate:
    """The estimate of a stage that several processes make: each holds all of it, and processes on
    one CPU share its memory."""
    count = processes_of(stage)
    if count == 1:
        return alone
    lines = alone.lines
    if any(line.phase == memory.UPDATE for line in lines):
        lines += (memory.exchange(count),)
    if known.device.kind == "cpu":
        lines += (memory.further(lines, count - 1),)
    return replace(alone, lines=lines)


def _estimate(stage: Stage, known: Known) -> Estimate:
    found, critics = _without_critics(stage, known), _critics(stage, known)
    lines = found.lines
    if critics and stage.verb == "score":
        lines = () if known.inside else (memory.process(True),)
    return replace(found, lines=(*lines, *critics))


def _critics(stage: Stage, known: Known) -> list[Line]:
    """The models that the reward of a stage asks, beside those of its own inputs."""
    if stage.reward is None:
        return []
    own = {port.name for port in verb(stage.verb).ports}
    held = {edge.source for edge in stage.inputs if edge.port == "model"} | {known.policy}
    lines: list[Line] = []
    for source in dict.fromkeys(e.source for e in stage.inputs if e.port not in own):
        model = known.models.get(source)
        if model is not None:
            made = memory.judging(model.facts, model.width)
            lines += made[1:] if known.inside and source in held else made
    return lines


def _without_critics(stage: Stage, known: Known) -> Estimate:
    match stage.verb:
        case "pretrained" | "fresh":
            return _source(stage, known)
        case "train":
            return trained(stage, known)
        case "sample" | "evaluate":
            return drawn_by(stage, known)
        case "revise":
            return revised(stage, known)
        case "repeat":
            return _repeat(stage, known)
        case "export":
            return _export(stage, known)
        case "merge":
            return _merge(stage, known)
    if stage.type.name == "Data":
        texts = texts_of(stage.verb, stage.settings, known.project)
        if texts is not None:
            known.texts[stage.name] = texts
    else:
        _selected(stage, known)
    return Estimate((memory.process(False),))


# --- models -----------------------------------------------------------------------------------


def _source(stage: Stage, known: Known) -> Estimate:
    width = known.device.number_bytes(stage.settings)
    try:
        header = _header(stage, known)
    except ValueError as error:
        return Estimate((memory.process(True),), notes=(str(error),))
    facts = header.facts
    model = Model(facts, header.tokens, facts.number_bytes or width)
    known.models[stage.name] = model
    gguf = stage.settings.get("source", "").endswith(".gguf")
    lines = (
        memory.process(True),
        memory.weights(facts, model.width),
        memory.loading(facts, model.width, gguf=gguf),
    )
    notes = () if header.tokens else ("tokens are assumed from bytes: no tokenizer to read",)
    return Estimate(lines, Work(), header.stored + model.bytes, facts.parameters, notes)


def _header(stage: Stage, known: Known) -> Header:
    folder = known.stored(stage.name)
    if folder is not None and (folder / "config.json").is_file():
        return folder_header(folder)
    if stage.verb == "fresh":
        return Header(fresh_facts(stage.settings), None, 0)
    return read_header(stage.settings["source"], known.project)


def _export(stage: Stage, known: Known) -> Estimate:
    model = known.model(stage, "model")
    if model is None:
        return Estimate((memory.process(True),))
    held = memory.weights(model.facts, model.width)
    return Estimate((memory.process(True), held), moved=2 * model.bytes)


def _merge(stage: Stage, known: Known) -> Estimate:
    """All models at once, and the one that they become."""
    models = [known.models[edge.source] for edge in stage.inputs if edge.source in known.models]
    if not models:
        return Estimate((memory.process(True),))
    known.models[stage.name] = first = models[0]
    lines = [memory.process(True), memory.weights(first.facts, first.width, "merged weights")]
    lines += [memory.weights(model.facts, model.width) for model in models]
    moved = first.bytes + sum(model.bytes for model in models)
    return Estimate(tuple(lines), moved=moved, parameters=first.facts.parameters)


# --- selections and repeats -------------------------------------------------------------------


def _selected(stage: Stage, known: Known) -> None:
    """What score, keep, best and pair leave; a selection is taken to keep all that it may."""
    made = known.sequences(stage, "rollouts")
    if made is None:
        return
    match stage.verb:
        case "best":
            made = replace(made, group=min(made.group, stage.settings.get("top") or 1))
        case "pair":
            made = replace(made, group=2)
    known.made[stage.name] = made


def _repeat(stage: Stage, known: Known) -> Estimate:
    """One process holds the policy, its optimizer and every model that the body names."""
    start = known.model(stage, "start")
    inside = replace(
        known, inside=True, policy=stage.name, models=dict(known.models), made=dict(known.made)
    )
    if start is None:
        return Estimate((memory.process(True),), notes=("the size of its model is not known yet",))
    known.models[stage.name] = inside.models[stage.name] = start
    body = {inner.name: _estimate(inner, inside) for inner in stage.body}
    lines = [memory.process(True), memory.weights(start.facts, start.width)]
    ahead: set[str] = set()
    if stage.settings["staleness"]:
        ahead = set(ahead_of(inner_of(inner) for inner in stage.body))
        lines.append(memory.weights(start.facts, start.width, "weights before"))
    total, others = Work(), 0
    for inner in stage.body:
        found = body[inner.name]
        if inner.verb in ("train", "sample", "score", "evaluate", "revise"):
            own = [line for line in found.lines if line.name not in ("process", "allocator")]
            lines += memory.beside_training(own) if inner.name in ahead else own
            total = total + found.work * (1 / (inner.every or 1))
        others += sum(
            line.bytes.expected > 0 and line.name.endswith(" model") for line in found.lines
        )
    lines.append(memory.allocator(lines))
    rounds = stage.settings["rounds"]
    moved = start.bytes * (2 + others)
    return Estimate(tuple(lines), total * rounds, moved, start.facts.parameters, body=body)
