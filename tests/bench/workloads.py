"""What is measured: sizes, prompts and rewards that both sides share. No library is imported."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

WORDS = [
    *("the", "cat", "sat", "on", "a", "mat", "and", "then", "it", "ran", "to", "town", "with"),
    *("me", "for", "tea", "while", "we", "read", "of", "old", "trees", "by", "some", "cold"),
    *("river", "near", "his", "house", "so", "that", "they", "could", "see", "how", "many"),
]


@dataclass(frozen=True)
class Workload:
    """`kind` is grpo, rloo, dpo, sft or rollout; tokens of prompts are about as many as words."""

    kind: str
    model: str
    prompts: int = 8
    group: int = 8
    prompt: int = 100
    tokens: int = 64
    idle: bool = False
    """Every second group gets equal rewards."""
    stops: bool = False
    """One token in 32 ends a completion."""
    target: float = 1.0
    """The ratio that Grape is to stay under."""


WORKLOADS = {
    "grpo-smol": Workload("grpo", "smol", prompts=4, target=0.30),
    "grpo-small": Workload("grpo", "small", target=0.35),
    "grpo-half-idle": Workload("grpo", "small", idle=True, target=0.22),
    "rloo-small": Workload("rloo", "small", target=0.35),
    "dpo-long-prompts": Workload("dpo", "small", prompt=384, tokens=48, target=0.5),
    "sft-packing": Workload("sft", "small", prompts=16, target=0.7),
    "rollout": Workload("rollout", "small", stops=True, target=1 / 2.2),
}


def texts(count: int, words: int, seed: int) -> list[str]:
    """Distinct texts of so many words."""
    pick = random.Random(seed)
    return [" ".join(pick.choice(WORDS) for _ in range(words)) for _ in range(count)]


def lengths(work: Workload, step: int) -> list[int]:
    """Words of the documents of one step: 32 to 200."""
    pick = random.Random(step)
    return [pick.randint(32, 200) for _ in range(work.prompts)]


def pairs(work: Workload, step: int) -> list[dict[str, str]]:
    """Preferences that share a long prompt."""
    prompts = texts(work.prompts, work.prompt, step)
    sides = [texts(work.prompts, work.tokens, step + 1000 * side) for side in (1, 2)]
    return [
        {"prompt": prompt, "chosen": " " + chosen, "rejected": " " + rejected}
        for prompt, chosen, rejected in zip(prompts, *sides, strict=True)
    ]


def reward(work: Workload, prompt: str, completion: str) -> float:
    """Something that differs within a group; in idle groups it does not."""
    if work.idle and prompt.startswith("idle"):
        return 0.0
    return float(len(completion) % 7)


def prompts(work: Workload) -> list[str]:
    found = texts(work.prompts, work.prompt, 0)
    if work.idle:
        found = [("idle " if at % 2 else "busy ") + text for at, text in enumerate(found)]
    return found


def model_settings() -> dict[str, Any]:
    """The small fresh model."""
    return {
        "vocab_size": 4096,
        "hidden_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 1024,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    }
