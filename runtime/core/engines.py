"""What another engine than the own decode loop is to the rest: weights in, completions out.

An engine is made for one stage, stays in memory through the rounds of a repeat, and is given the
weights of the model each time before it draws. It gets token ids and gives token ids, with the
log-prob of each under the distribution that it drew from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from grape.runtime.artifacts import Item, Rollouts
from grape.runtime.context import Context
from grape.runtime.core.models import Policy
from grape.runtime.core.rows import Row, Sampling, check_room, completion_of, names_of
from grape.runtime.core.text import prompt_ids


class Engine(Protocol):
    name: str

    def push(self, policy: Policy) -> None:
        """Take over the weights of a model."""

    def generate(
        self, prompts: Sequence[list[int]], seeds: Sequence[int], how: Sampling, ends: list[int]
    ) -> list[tuple[list[int], list[float], bool]]:
        """For each prompt the ids drawn, their log-probs, and whether `max_tokens` cut it."""


def engine_of(context: Context) -> Engine:
    """The engine that a stage names, made once. Raises StageError where it is not installed."""
    from grape.runtime.core.vllm_engine import Vllm

    settings = context.stage.settings
    if "engine" not in context.state:
        folder = Path(context.work) / "engine"
        context.state["engine"] = Vllm(folder, settings["engine_memory"])
    made: Engine = context.state["engine"]
    return made


def drawn_by(engine: Engine, policy: Policy, items: Sequence[Item], **how: Any) -> Rollouts:
    """Completions by an engine; called like `generate_for`. The rollouts name the engine and the
    update that its weights had."""
    sampling = Sampling(
        how["group"],
        how["temperature"],
        how["top_p"],
        how["max_tokens"],
        tuple(how["stop"]),
        how["seed"],
        how["round"],
        how["rows"],
        how["compact"],
    )
    prompts = [prompt_ids(policy.tokenizer, item) for item in items]
    check_room(policy, items, prompts, sampling.max_tokens)
    engine.push(policy)
    places = [(item, sample) for item in range(len(items)) for sample in range(sampling.group)]
    names = names_of(items)
    seeds = [_seed(sampling, names[item], sample) for item, sample in places]
    asked = [prompts[item] for item, _ in places]
    made = engine.generate(asked, seeds, sampling, policy.eos_ids)
    rows = [
        completion_of(
            policy, items[item], prompts[item], Row(item, sample, ids, logps, cut), sampling
        )
        for (item, sample), (ids, logps, cut) in zip(places, made, strict=True)
    ]
    how["emit"]({"event": "progress", "done": len(rows), "total": len(rows), "unit": "completions"})
    names_of_how = ("group", "temperature", "top_p", "max_tokens")
    told = {name: how[name] for name in names_of_how} | {"stop": list(how["stop"])}
    return Rollouts(rows, {**told, "engine": engine.name}, str(policy.updates))


def _seed(how: Sampling, name: str, sample: int) -> int:
    key = f"{how.seed}/{how.round}/{name}/{sample}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "big") >> 1
