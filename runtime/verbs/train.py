"""`train(model, data)`: the weights after the updates that the algorithm's formula asks for.

Outside a repeat it trains the model it loaded; inside, the carried model in place, with one
optimizer and one schedule over all rounds. It decides which examples make an update; the gradient
of an update is `core.step`'s business.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from grape.compiler.formula.ir import Formula
from grape.runtime import contracts
from grape.runtime.artifacts import Data, Demos, Preferences, Rollouts
from grape.runtime.context import Context
from grape.runtime.core.examples import examples_of
from grape.runtime.core.models import Policy
from grape.runtime.core.optim import Optimizer
from grape.runtime.core.packing import Example
from grape.runtime.core.resume import load_checkpoint, save_checkpoint
from grape.runtime.core.step import Cutting, gradient, logprobs
from grape.runtime.errors import StageError
from grape.runtime.formula import Compiled, compile_formula


@dataclass(slots=True)
class Trainer:
    """What a train stage keeps from round to round."""

    policy: Policy
    compiled: Compiled
    optimizer: Optimizer
    settings: dict[str, Any]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint of the repeat keeps; it comes back as `context.state["resume"]`."""
        return self.optimizer.state_dict()


def run(context: Context, inputs: dict[str, Any]) -> Policy:
    """Train. Raises StageError for data that does not fit the model or a loss that diverges."""
    data: Data | Demos | Rollouts | Preferences = inputs["data"]
    settings = context.stage.settings
    policy: Policy = inputs["model"]
    examples = examples_of(context, policy, data)
    contracts.check_targets(context, examples)
    if not examples:
        context.emit({"event": "note", "text": f"{context.stage.name}: nothing to learn from"})
        return policy
    units = _units(examples, context)
    per_update = settings["sequences_per_update"] or len(examples)
    batches = _batches(units, per_update, settings, context)
    trainer = _trainer(context, policy, len(batches))
    policy = trainer.policy
    temperature = _temperature(data)
    if isinstance(data, Rollouts):
        _check_rollouts(context, policy, data, examples)
    given = _given(context, trainer, inputs, examples, temperature, many=len(batches) > 1)
    if "ref_logp" in given and isinstance(data, Rollouts):
        apart = given["ref_logp"].cpu() - _recorded(examples)
        _watch(context).reference_gap(context, float((apart.exp() - apart - 1).mean()))
    offsets = _offsets(examples)
    resumed = 0
    if context.rounds == 1:
        resumed = load_checkpoint(context.work, policy, trainer.optimizer)
    saved = time.monotonic()
    for number, batch in enumerate(batches):
        if number < resumed:
            continue
        members = [member for unit in batch for member in unit]
        _update(
            context,
            trainer,
            [examples[member] for member in members],
            _slices(given, offsets, members),
            temperature,
            number,
            len(batches),
        )
        if context.rounds == 1 and time.monotonic() - saved > settings["checkpoint"]:
            save_checkpoint(context.work, policy, trainer.optimizer, number + 1)
            saved = time.monotonic()
    return policy


PROBED = 16
"""Sequences whose log-probabilities are compared before the first update."""


def _watch(context: Context) -> contracts.Watch:
    watch: contracts.Watch = context.state.setdefault("watch", contracts.Watch())
    return watch


def _recorded(examples: list[Example]) -> Tensor:
    return torch.tensor([logp for one in examples for logp in one.tokens["behavior_logp"]])


def _check_rollouts(
    context: Context, policy: Policy, data: Rollouts, examples: list[Example]
) -> None:
    """The contracts of rollouts that the formula takes for the model's own."""
    contracts.check_weights(context, data.weights, policy.updates)
    contracts.check_stale(context, [row.weights for row in data.rows], policy.updates)
    assert context.stage.formula is not None
    whole = data.sampling.get("top_p", 1.0) == 1 and data.sampling.get("temperature", 1.0) > 0
    corrected = "behavior_logp" in context.stage.formula["needs"]
    if context.round or corrected or not whole or "checked" in context.state:
        return
    context.state["checked"] = True
    some = examples[:PROBED]
    now = logprobs(policy, some, _cutting(context.stage.settings), temperature=_temperature(data))
    contracts.check_first_ratio(context, _recorded(some).tolist(), now.tolist())


def _trainer(context: Context, policy: Policy, updates: int) -> Trainer:
    """The stage's trainer, made in its first round."""
    if "trainer" not in context.state:
        assert context.stage.formula is not None
        settings = context.stage.settings
        if settings["adapter"] and not policy.adapter:
            policy = policy.with_adapter(settings["adapter"], settings["seed"])
        compiled = compile_formula(Formula.from_json(context.stage.formula))
        optimizer = Optimizer(policy.model.parameters(), settings, updates * context.rounds)
        context.state["trainer"] = Trainer(policy, compiled, optimizer, settings)
        if "resume" in context.state:
            optimizer.load_state_dict(context.state.pop("resume"))
    trainer: Trainer = context.state["trainer"]
    return trainer


def _units(examples: list[Example], context: Context) -> list[list[int]]:
    """The examples that stay in one update: both of a pair, all of a group of rollouts."""
    assert context.stage.formula is not None
    learns = context.stage.formula["on"]
    units: dict[int, list[int]] = {}
    for number, example in enumerate(examples):
        key = number // 2 if learns == "Preferences" else number
        units.setdefault(example.group if learns == "Rollouts" else key, []).append(number)
    return list(units.values())


def _batches(
    units: list[list[int]], size: int, settings: dict[str, Any], context: Context
) -> list[list[list[int]]]:
    """Which examples each update learns from: shuffled passes over the data, or all at once. An
    update is full when it holds `size` examples; a unit is never cut."""
    found: list[list[list[int]]] = []
    for epoch in range(settings["epochs"]):
        order = list(units)
        if size < sum(map(len, units)):
            random.Random(f"{settings['seed']}/{context.round}/{epoch}").shuffle(order)
        batch: list[list[int]] = []
        for unit in order:
            if batch and sum(map(len, batch)) + len(unit) > size:
                found.append(batch)
                batch = []
            batch.append(unit)
        found.append(batch)
    limit = settings["updates"]
    return found if limit is None else found[:limit]


def _temperature(data: object) -> float:
    """Rollouts are trained at the temperature they were drawn at; greedy ones at 1."""
    if isinstance(data, Rollouts):
        return float(data.sampling.get("temperature") or 1.0)
    return 1.0


def _given(
    context: Context,
    trainer: Trainer,
    inputs: dict[str, Any],
    examples: list[Example],
    temperature: float,
    *,
    many: bool,
) -> dict[str, Tensor]:
    """Flat log-probs that the formula needs from other forward passes."""
    needs = trainer.compiled.formula.needs
    how = _cutting(trainer.settings)
    given = {}
    for name, port in (("ref_logp", "reference"), ("teacher_logp", "teacher")):
        if name in needs:
            if port not in inputs:
                raise StageError(f"`{context.stage.name}` needs a {port} model and has none")
            given[name] = logprobs(inputs[port], examples, how, temperature=temperature)
    if "old_logp" in needs and many:
        given["old_logp"] = logprobs(trainer.policy, examples, how, temperature=temperature)
    return given


def _cutting(settings: dict[str, Any]) -> Cutting:
    return Cutting(
        budget=settings["micro_tokens"],
        share=settings["share_prompts"],
        packed=settings["packed"],
        fused=settings["fused_head"],
        skip=settings["skip_idle"],
    )


def _offsets(examples: list[Example]) -> list[range]:
    found, at = [], 0
    for example in examples:
        found.append(range(at, at + len(example.completion)))
        at += len(example.completion)
    return found


def _slices(
    given: dict[str, Tensor], offsets: list[range], members: list[int]
) -> dict[str, Tensor]:
    if not given:
        return {}
    places = torch.tensor([place for member in members for place in offsets[member]])
    return {name: value[places.to(value.device)] for name, value in given.items()}


def _update(
    context: Context,
    trainer: Trainer,
    examples: list[Example],
    given: dict[str, Tensor],
    temperature: float,
    number: int,
    total: int,
) -> None:
    start = time.monotonic()
    watch = _watch(context)
    try:
        step = gradient(
            trainer.policy,
            trainer.compiled,
            examples,
            given=given,
            how=_cutting(trainer.settings),
            progress=trainer.optimizer.progress,
            temperature=temperature,
        )
    except StageError as error:
        raise contracts.not_finite(context, error, watch.last) from None
    stepped = trainer.optimizer.step()
    trainer.policy.updates += 1
    metrics = {
        "event": "metrics",
        "stage": context.stage.name,
        "round": context.round,
        "update": number,
        "seconds": round(time.monotonic() - start, 3),
        "tokens": step.tokens,
        "loss": step.loss,
        **stepped,
        **step.logs,
        **dict(_rewards(examples)),
    }
    context.emit(metrics)
    watch.update(context, examples, metrics)
    context.emit(
        {
            "event": "progress",
            "stage": context.stage.name,
            "done": number + 1,
            "total": total,
            "unit": "updates",
            "text": f"loss {step.loss:.4g}",
        }
    )


def _rewards(examples: list[Example]) -> Iterator[tuple[str, float]]:
    """Means over the batch that every online run wants to see."""
    if "reward" in examples[0].scalars:
        count = len(examples)
        yield "reward_mean", sum(example.scalars["reward"] for example in examples) / count
        yield "length_mean", sum(len(example.completion) for example in examples) / count
        yield "truncated", sum(example.scalars["truncated"] for example in examples) / count
