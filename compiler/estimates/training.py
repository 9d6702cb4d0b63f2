"""The estimate of a stage that trains: its batches, what an update holds, and its work."""

from __future__ import annotations

import math
from dataclasses import replace

from grape.compiler.estimates import memory, work
from grape.compiler.estimates.memory import Update
from grape.compiler.estimates.ranges import ZERO, Range
from grape.compiler.estimates.records import Estimate, Known, Model, source_of
from grape.compiler.estimates.work import Sequences, Work
from grape.compiler.formula.fixed import foreknown
from grape.compiler.graph import Stage

END = Range.known(1)
"""The token that ends a completion."""
FEW = 16
"""Sequences of one update on data, where the file does not say."""


def trained(stage: Stage, known: Known) -> Estimate:
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
