"""`train(model, data)`: the weights after the updates that the algorithm's formula asks for.

Outside a repeat it trains the model it loaded; inside, the carried model in place, with one
optimizer and one schedule over all rounds. It decides which examples make an update; the gradient
of an update is `core.step`'s business.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from grape.compiler.engines import OWN
from grape.compiler.formula.ir import Formula
from grape.compiler.types import SERVER
from grape.runtime import contracts
from grape.runtime.artifacts import Data, Demos, Preferences, Rollouts
from grape.runtime.context import Context
from grape.runtime.core import exchange
from grape.runtime.core.examples import examples_of
from grape.runtime.core.models import Policy
from grape.runtime.core.optim import Optimizer
from grape.runtime.core.packing import Example
from grape.runtime.core.resume import load_checkpoint, save_checkpoint
from grape.runtime.core.step import Stepping, logprobs
from grape.runtime.errors import StageError
from grape.runtime.formula import Compiled
from grape.runtime.verbs.constrained import compiled_for, first_memory, mend, natural
from grape.runtime.verbs.supplied import Supplied, cutting


@dataclass(slots=True)
class Trainer:
    """What a train stage keeps from round to round."""

    policy: Policy
    compiled: Compiled
    optimizer: Optimizer
    settings: dict[str, Any]
    memory: dict[str, float] = field(default_factory=dict)
    """What every `state` of the formula has become; empty before the first update."""
    watch: contracts.Watch = field(default_factory=contracts.Watch)

    def stepping(self, supplied: Supplied, members: Sequence[int], compiled: Compiled) -> Stepping:
        """A step on some of the examples."""
        examples = [supplied.examples[member] for member in members]
        done, draw = self.optimizer.progress, f"{self.settings['seed']}/{self.optimizer.done}"
        known = supplied.of(self.policy, members, self.memory, done, draw)
        return Stepping(self.policy, compiled, examples, known, supplied.how)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint of the repeat keeps; it comes back as `context.state["resume"]`."""
        kept = {"memory": self.memory, "watch": self.watch.state_dict()}
        return {**self.optimizer.state_dict(), **kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state)
        self.memory = state.get("memory", {})
        if "watch" in state:
            self.watch.load_state_dict(state["watch"])


def run(context: Context, inputs: dict[str, Any]) -> Policy:
    """Train. Raises StageError for data that does not fit the model or a loss that diverges."""
    data: Data | Demos | Rollouts | Preferences = inputs["data"]
    settings = context.stage.settings
    policy: Policy = inputs["model"]
    examples = examples_of(context, policy, data)
    assert context.stage.formula is not None
    weighs = "behavior_logp" in context.stage.formula["needs"]
    if context.drawn is not None and isinstance(data, Rollouts) and not weighs:
        if len(_own(examples)) < len(examples):
            raise StageError(
                f"`{context.stage.name}` learns from revisions, and with `staleness` nobody knows "
                "what the weights that drew the rest make of them",
                hint="use a formula that reads `behavior_logp`, or leave `staleness` out",
            )
        examples = [_as_drawn(one) for one in examples]
    contracts.check_targets(context, examples)
    if not examples:
        context.emit({"event": "note", "text": f"{context.stage.name}: nothing to learn from"})
        policy.tape = None
        return policy
    units = _units(examples, context)
    per_update = settings["sequences_per_update"] or len(examples)
    batches = _batches(units, per_update, settings, context)
    trainer = _trainer(context, policy, len(batches))
    policy = trainer.policy
    temperature = _temperature(data)
    if isinstance(data, Rollouts):
        _check_rollouts(context, trainer, data, examples)
    formula = Formula.from_json(context.stage.formula or {})
    how = cutting(settings)
    supplied = Supplied(context.stage.name, formula.needs, inputs, examples, how, temperature)
    if len(batches) > 1 or formula.constraints or context.drawn is not None:
        supplied.before(policy)
    if "ref_logp" in supplied.given and isinstance(data, Rollouts) and _own(examples):
        apart = _of_own(examples, supplied.given["ref_logp"].cpu() - _recorded(examples))
        trainer.watch.reference_gap(context, float((apart.exp() - apart - 1).mean()))
    resumed = 0
    if context.rounds == 1:
        resumed = load_checkpoint(context.work, policy, trainer)
    saved = time.monotonic()
    for number, batch in enumerate(batches):
        if number < resumed:
            continue
        stepping = trainer.stepping(supplied, _members(batch), trainer.compiled)
        _update(context, trainer, stepping, number, len(batches))
        if context.rounds == 1 and time.monotonic() - saved > settings["checkpoint"]:
            save_checkpoint(context.work, policy, trainer, number + 1)
            saved = time.monotonic()
    if formula.constraints and settings["solver"] == "penalty":
        whole = _batches(units, per_update, {**settings, "epochs": 1, "updates": None}, context)
        parts = [partial(trainer.stepping, supplied, _members(batch)) for batch in whole]
        mend(context, formula, parts, trainer.optimizer, trainer.memory)
    return policy


def _as_drawn(example: Example) -> Example:
    """With `old_logp` as the weights that drew it saw every token: those of the round before."""
    return replace(example, tokens={"old_logp": example.tokens["behavior_logp"], **example.tokens})


def _members(batch: list[list[int]]) -> list[int]:
    return [member for unit in batch for member in unit]


HEADS = {"value": {"value", "old_value"}, "score": {"score"}}
"""Which head a formula trains, by the quantities that it reads."""
COMPARED = 32
"""Every so many updates, processes that train together compare their weights."""
PROBED = 16
"""Sequences whose log-probabilities are compared before the first update."""


def _recorded(examples: list[Example]) -> Tensor:
    return torch.tensor([logp for one in examples for logp in one.tokens["behavior_logp"]])


def _own(examples: list[Example]) -> list[Example]:
    """Those that were drawn after the prompt that they are trained after: no revisions."""
    return [one for one in examples if not one.scalars.get("revised")]


def _of_own(examples: list[Example], values: Tensor) -> Tensor:
    """The values of the tokens of `_own`, from those of all tokens."""
    return values[[not one.scalars.get("revised") for one in examples for _ in one.completion]]


def _check_rollouts(
    context: Context, trainer: Trainer, data: Rollouts, examples: list[Example]
) -> None:
    """The contracts of rollouts that the formula takes for the model's own."""
    policy = trainer.policy
    contracts.check_weights(context, data.weights, policy.updates)
    contracts.check_stale(context, [row.weights for row in data.rows], policy.updates)
    assert context.stage.formula is not None
    engine = str(data.sampling.get("engine", OWN))
    if engine == SERVER:
        contracts.check_vocabulary(context, examples, int(policy.network.config.vocab_size))
    whole = data.sampling.get("top_p", 1.0) == 1 and data.sampling.get("temperature", 1.0) > 0
    corrected = "behavior_logp" in context.stage.formula["needs"]
    if context.drawn not in (None, policy.updates):
        return  # older weights drew them, so that a ratio of 1 is not to be expected
    again = engine == OWN and (context.round or "checked" in context.state)
    if again or not whole or (corrected and engine in (OWN, SERVER)):
        return
    context.state["checked"] = True
    some = _own(examples)[:PROBED]
    if not some:
        return
    now = logprobs(policy, some, cutting(context.stage.settings), temperature=_temperature(data))
    recorded = _recorded(some).tolist()
    if engine == "vllm":
        trainer.watch.engine_gap(context, engine, recorded, now.tolist())
    else:
        contracts.check_first_ratio(context, recorded, now.tolist())


def _trainer(context: Context, policy: Policy, updates: int) -> Trainer:
    """The stage's trainer, made in its first round."""
    if "trainer" not in context.state:
        assert context.stage.formula is not None
        settings = context.stage.settings
        if settings["adapter"] and not policy.adapter:
            policy = policy.with_adapter(settings["adapter"], settings["seed"])
        formula = Formula.from_json(context.stage.formula)
        compiled = compiled_for(formula, settings)
        heads = [policy.head(name) for name in HEADS if formula.needs & HEADS[name]]
        optimizer = Optimizer(
            policy.model.parameters(),
            settings,
            updates * context.rounds,
            [head.weight for head in heads],
        )
        memory = first_memory(formula, settings)
        trainer = Trainer(policy, compiled, optimizer, settings, memory)
        context.state["trainer"] = trainer
        if "resume" in context.state:
            trainer.load_state_dict(context.state.pop("resume"))
    made: Trainer = context.state["trainer"]
    return made


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


def _update(
    context: Context,
    trainer: Trainer,
    stepping: Stepping,
    number: int,
    total: int,
) -> None:
    start = time.monotonic()
    watch = trainer.watch
    try:
        step = stepping.run()
    except StageError as error:
        raise contracts.not_finite(context, error, watch.last) from None
    if stepping.compiled.formula.constraints and trainer.settings["solver"] == "natural_gradient":
        stepped = natural(context, stepping, trainer.optimizer, trainer.settings)
    else:
        stepped = trainer.optimizer.step()
    trainer.policy.updates += 1
    if number % COMPARED == 0 or number == total - 1:
        contracts.check_together(context, exchange.apart(trainer.policy.named_parameters()))
    trainer.memory |= step.memory
    examples = stepping.examples
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
        **{f"state.{name}": value for name, value in step.memory.items()},
        **dict(_rewards(examples)),
        **watch.told_next,
    }
    watch.told_next = {}
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


def _rewards(examples: Sequence[Example]) -> Iterator[tuple[str, float]]:
    """Means over the batch that every online run wants to see."""
    if "reward" in examples[0].scalars:
        count = len(examples)
        yield "reward_mean", sum(example.scalars["reward"] for example in examples) / count
        yield "length_mean", sum(example.counted for example in examples) / count
        yield "truncated", sum(example.scalars["truncated"] for example in examples) / count
