"""The estimate of a stage that draws completions: prompts, answers, cache, kept activations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from grape.compiler.engines import OWN
from grape.compiler.estimates import memory, work
from grape.compiler.estimates.ranges import Range
from grape.compiler.estimates.records import Estimate, Known, Model, source_of
from grape.compiler.estimates.work import Sequences
from grape.compiler.graph import Stage

ANSWER = Range(0.1, 0.5, 1)
"""Share of `max_tokens` that a completion is assumed to take."""


def drawn_by(stage: Stage, known: Known) -> Estimate:
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
        lines += _packed(settings, model, known) + _kept(stage, made, known)
    if not known.inside:
        lines.append(memory.allocator(lines))
    moved = 0 if known.inside else model.bytes
    drawn = replace(made, group=made.group + bool(settings.get("greedy")))
    return Estimate(tuple(lines), work.sampling(model.facts, drawn), moved, model.facts.parameters)


def revised(stage: Stage, known: Known) -> Estimate:
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
    lines += _packed({}, model, known)
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


def _packed(settings: Mapping[str, Any], model: Model, known: Known) -> list[memory.Line]:
    """The copy of the weights that is laid out for decoding in float32 on a processor."""
    if known.device.kind != "cpu" or model.width != 4:
        return []
    budget = settings.get("pack_weights", memory.PACKED)
    return memory.packed(model.facts, own=settings.get("own_layers", True), budget=budget)


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
