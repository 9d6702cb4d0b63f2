"""The estimate of every stage of a graph: what it is made of is followed along the edges.

A stage whose model nobody knows yet (a hub model that is not in the cache) has no estimate, and a
note says why.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from grape.compiler.ahead import ahead_of, inner_of
from grape.compiler.engines import OWN
from grape.compiler.estimates import memory, work
from grape.compiler.estimates.devices import Device
from grape.compiler.estimates.facts import ModelFacts, fresh_facts
from grape.compiler.estimates.headers import Counter, Header, folder_header, read_header
from grape.compiler.estimates.memory import Line, Update
from grape.compiler.estimates.ranges import ZERO, Range
from grape.compiler.estimates.texts import Texts, texts_of
from grape.compiler.estimates.work import Sequences, Work
from grape.compiler.formula.fixed import foreknown
from grape.compiler.graph import Stage
from grape.compiler.plan import processes_of
from grape.compiler.verbs import verb

ANSWER = Range(0.1, 0.5, 1)
"""Share of `max_tokens` that a completion is assumed to take."""
END = Range.known(1)
"""The token that ends a completion."""
FEW = 16
"""Sequences of one update on data, where the file does not say."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model on an edge: its sizes, its tokenizer where it can be read, bytes of a number."""

    facts: ModelFacts
    counter: Counter | None
    width: int

    @property
    def bytes(self) -> int:
        return self.facts.parameters * self.width


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is known of a stage before it runs."""

    lines: tuple[Line, ...] = ()
    work: Work = Work()
    moved: int = 0
    """Bytes of models read from the store and written to it."""
    parameters: int | None = None
    notes: tuple[str, ...] = ()
    body: Mapping[str, Estimate] = field(default_factory=dict)

    @property
    def peak(self) -> Range:
        """Bytes of memory."""
        return memory.peak(self.lines)

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.lines:
            found["memory"] = self.peak.to_json()
            found["memory_lines"] = memory.to_json(self.lines)
        if self.parameters is not None:
            found["parameters"] = self.parameters
        if self.work.tokens.high:
            found["tokens"] = self.work.tokens.to_json()
            found["flops"] = self.work.flops.to_json()
        if self.moved:
            found["bytes_moved"] = self.moved
        if self.notes:
            found["notes"] = list(self.notes)
        return found


@dataclass(slots=True)
class Known:
    """What has been followed so far, by stage name."""

    project: Path
    device: Device
    stored: Callable[[str], Path | None]
    models: dict[str, Model] = field(default_factory=dict)
    texts: dict[str, Texts] = field(default_factory=dict)
    made: dict[str, Sequences] = field(default_factory=dict)
    inside: bool = False
    """In the body of a repeat, where the policy is in memory already."""
    policy: str = ""
    """The repeat, whose model that is."""

    def model(self, stage: Stage, port: str) -> Model | None:
        return self.models.get(source_of(stage, port))

    def sequences(self, stage: Stage, port: str) -> Sequences | None:
        return self.made.get(source_of(stage, port))


def source_of(stage: Stage, port: str) -> str:
    return next((edge.source for edge in stage.inputs if edge.port == port), "")


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
            return _train(stage, known)
        case "sample" | "evaluate":
            return _draw(stage, known)
        case "revise":
            return _revise(stage, known)
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


# --- training ---------------------------------------------------------------------------------


def _train(stage: Stage, known: Known) -> Estimate:
    model, made = known.model(stage, "model"), _learned(stage, known)
    if model is None:
        return Estimate((memory.process(True),), notes=("the size of its model is not known yet",))
    known.models[stage.name] = model
    lines = [] if known.inside else [memory.process(True), memory.weights(model.facts, model.width)]
    moved = model.bytes * (0 if known.inside else 2)
    for port, edge in (("reference", "ref_logp"), ("teacher", "teacher_logp")):
        other = known.model(stage, port)
        needs = stage.formula.needs if stage.formula is not None else frozenset()
        if other is None or not needs & {edge, f"{edge}_all"}:
            continue
        lines.append(memory.weights(other.facts, other.width, f"{port} model"))
        moved += 0 if known.inside else other.bytes
        if f"{edge}_all" in needs and made is not None:
            scored = _whole_update(stage, made).completion_tokens
            lines.append(memory.states(other.facts, other.width, scored, f"{port} states"))
    if stage.formula is not None:
        lines += memory.trained_beside(model.facts, model.width, stage.formula, stage.settings)
    if made is None:
        notes = ("what it learns from is not known yet: no activations are counted",)
        lines += memory.training(model.facts, model.width, Update(ZERO, ZERO, True, stage.settings))
        return Estimate(tuple(lines), Work(), moved, model.facts.parameters, notes)
    lines += memory.training(model.facts, model.width, _update(stage, made, known.inside))
    lines += _distributions(stage, model, made)
    if not known.inside:
        lines.append(memory.allocator(lines))
    done = _training_work(stage, model, made)
    return Estimate(tuple(lines), done, moved, model.facts.parameters)


def _distributions(stage: Stage, model: Model, made: Sequences) -> list[memory.Line]:
    """What a formula over whole distributions holds of the model itself."""
    needs = stage.formula.needs if stage.formula is not None else frozenset()
    wanted = sorted(name for name in needs if name.endswith("_all"))
    if not wanted:
        return []
    facts, width = model.facts, model.width
    scored = _whole_update(stage, made).completion_tokens
    lines = [memory.states(facts, width, scored, "own states")] if "logp_all" in wanted else []
    if "old_logp_all" in wanted and updates_of(stage, made) > 1:
        lines.append(
            memory.states(facts, width, made.completion_tokens, "states before", head=True)
        )
    return [*lines, memory.tables(facts, scored, len(wanted))]


def _whole_update(stage: Stage, made: Sequences) -> Sequences:
    return replace(made, groups=sequences_of_update(stage, made) / made.group)


def _learned(stage: Stage, known: Known) -> Sequences | None:
    """The sequences that a train stage learns from."""
    source = source_of(stage, "data")
    if source in known.made:
        return known.made[source]
    texts, model = known.texts.get(source), known.model(stage, "model")
    if texts is None or model is None:
        return None
    view = next(edge.view for edge in stage.inputs if edge.port == "data")
    prompt = texts.tokens("prompt", model.counter)
    if stage.formula is not None and stage.formula.on == "Preferences":
        sides = [texts.tokens(part, model.counter) + END for part in ("chosen", "rejected")]
        return Sequences(texts.count(view), 2, prompt, (sides[0] + sides[1]) * 0.5, True)
    answer = texts.tokens("completion", model.counter) + END
    return Sequences(texts.count(view), 1, prompt, answer, False)


def sequences_of_update(stage: Stage, made: Sequences) -> float:
    """Sequences of one optimizer step: whole groups, at least one."""
    given: int | None = stage.settings["sequences_per_update"]
    learns = stage.formula.on if stage.formula is not None else ""
    size: float = given or (made.count if learns == "Rollouts" else FEW)
    return max(made.group, min(size, made.count) // made.group * made.group) if made.group else 0.0


def updates_of(stage: Stage, made: Sequences) -> int:
    """Optimizer steps of a train stage."""
    per_update = sequences_of_update(stage, made)
    steps = math.ceil(made.count / per_update) * stage.settings["epochs"] if per_update else 0
    limit: int | None = stage.settings["updates"]
    return steps if limit is None else min(steps, limit)


def _update(stage: Stage, made: Sequences, again: bool) -> Update:
    """The largest forward pass: as many tokens as `micro_tokens` allows, a unit never cut."""
    coupled = stage.formula is not None and stage.formula.coupling.value in ("group", "pair")
    unit = made.group if coupled else 1
    budget = stage.settings["micro_tokens"]
    whole = _whole_update(stage, made)
    smallest = replace(made, groups=1, group=unit)

    def row(total: float, least: float) -> float:
        return float(min(total, max(least, budget)))

    micro = Range(
        row(whole.tokens.low, smallest.tokens.low),
        row(whole.tokens.expected, smallest.tokens.expected),
        row(whole.tokens.high, smallest.tokens.high),
    )
    share = whole.completion_tokens.expected / max(1.0, whole.tokens.expected)
    return Update(micro, micro * share, again or updates_of(stage, made) > 1, stage.settings)


def _training_work(stage: Stage, model: Model, made: Sequences) -> Work:
    formula = stage.formula
    per_update, updates = sequences_of_update(stage, made), updates_of(stage, made)
    passes = min(stage.settings["epochs"], updates * per_update / max(1.0, made.count))
    needs = formula.needs if formula is not None else frozenset()
    extra = len(needs & {"ref_logp", "teacher_logp", "ref_logp_all", "teacher_logp_all"})
    extra += "old_logp" in needs and updates > 1
    alone = "old_logp" in needs and updates <= 1
    twice = formula is not None and not foreknown(formula, on_policy=alone).weights
    return work.training(model.facts, made, stage.settings, passes, extra, twice=twice)


# --- sampling and what follows ----------------------------------------------------------------


def _draw(stage: Stage, known: Known) -> Estimate:
    model, settings = known.model(stage, "model"), stage.settings
    made = None if model is None else _drawn(stage, known, model)
    if model is None or made is None:
        return Estimate((memory.process(True),), notes=("its model or its prompts are not known",))
    known.made[stage.name] = made
    prompt, prompts = made.prompt, int(made.groups)
    lines = [] if known.inside else [memory.process(True), memory.weights(model.facts, model.width)]
    if settings.get("engine", OWN) != OWN and known.device.memory:
        lines.append(memory.engine(settings, known.device.memory))
    else:
        lines += memory.drawing(model.facts, model.width, prompt, settings, prompts)
        lines += _kept(stage, made, known)
    if not known.inside:
        lines.append(memory.allocator(lines))
    moved = 0 if known.inside else model.bytes
    drawn = replace(made, group=made.group + bool(settings.get("greedy")))
    return Estimate(tuple(lines), work.sampling(model.facts, drawn), moved, model.facts.parameters)


def _revise(stage: Stage, known: Known) -> Estimate:
    """Every completion criticised once and answered again, which is the most that can be asked."""
    model, before = known.model(stage, "model"), known.sequences(stage, "rollouts")
    if model is None or before is None:
        return Estimate((memory.process(True),), notes=("its model or its prompts are not known",))
    settings = stage.settings
    tries, most = settings["tries"], settings["max_tokens"] or round(before.completion.high)
    written = Range(0, settings["critique_tokens"], settings["critique_tokens"])
    prompt = before.prompt * 2 + before.completion + written
    drawn = Sequences(before.count, tries, prompt, before.completion, True)
    how = {"group": tries, "max_tokens": most, "temperature": settings["temperature"] or 1.0}
    lines = [] if known.inside else [memory.process(True), memory.weights(model.facts, model.width)]
    lines += memory.drawing(model.facts, model.width, prompt, how, round(before.count))
    if not known.inside:
        lines.append(memory.allocator(lines))
    group = {"revisions": before.group * tries, "pairs": 2, "group": before.group * (1 + tries)}
    known.made[stage.name] = replace(before, group=group[settings["gives"]])
    moved = 0 if known.inside else model.bytes
    return Estimate(tuple(lines), work.sampling(model.facts, drawn), moved, model.facts.parameters)


def _drawn(stage: Stage, known: Known, model: Model) -> Sequences | None:
    """What `sample` or `evaluate` makes: of prompts, or of rollouts that it goes on from, whose
    tokens are then part of the prompt."""
    settings, source = stage.settings, source_of(stage, "prompts")
    answer = ANSWER * settings["max_tokens"]
    answer = replace(answer, low=max(1, answer.low))
    before, texts = known.made.get(source), known.texts.get(source)
    if before is not None:
        groups = settings["prompts"] or before.groups
        prompt = before.prompt + before.completion
        return Sequences(groups, settings["group"], prompt, answer, False)
    if texts is None:
        return None
    view = next((edge.view for edge in stage.inputs if edge.port == "prompts"), None)
    there = texts.count(view)
    wanted = settings["prompts"] or there
    prompts = wanted if stage.verb == "sample" else min(wanted, there)
    prompt = texts.tokens("prompt", model.counter)
    return Sequences(prompts, settings["group"], prompt, answer, True)


def _kept(stage: Stage, made: Sequences, known: Known) -> list[memory.Line]:
    """The activations that sampling in a repeat keeps for the step that follows."""
    model, settings = known.model(stage, "model"), stage.settings
    if model is None or not known.inside or stage.verb != "sample":
        return []
    if made.group < 2 or settings["sampler"] or not settings["own_layers"]:
        return []
    prompts, rows = made.prompt * made.groups, made.count
    longest = prompts + Range.known(rows * settings["max_tokens"])
    fed = prompts + ANSWER * (rows * settings["max_tokens"])
    return memory.kept(model.facts, model.width, fed, longest, settings["keep_activations"])


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
