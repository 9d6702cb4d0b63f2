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
    title: str
    prompts: int = 8
    group: int = 8
    prompt: int = 100
    tokens: int = 64
    idle: bool = False
    """Every second group gets equal rewards."""
    stops: bool = False
    """One token in 32 ends a completion."""
    chat: bool = False
    """Prompts are questions to a chat model, which ends its answers itself."""
    kept: int = 0
    """Bytes of activations that Grape may keep while decoding: `keep_activations`."""
    packed: int = 4 << 30
    """Bytes of weights that it may lay out anew for that: `pack_weights`."""
    start: bool = False
    """What counts is the CPU time from the start of the process to the end of the first step."""
    target: float = 1.0
    """The ratio that Grape is to stay under."""
    memory: float | None = None
    """The same for the peak of memory."""
    warm: int = 1
    """Steps that are not counted."""
    steps: int = 3


WORKLOADS = {
    "grpo-smollm2": Workload(
        "grpo",
        "smol",
        "GRPO, SmolLM2-135M, 4 prompts × 8 × up to 64",
        prompts=4,
        chat=True,
        kept=900 << 20,
        packed=450 << 20,
        target=0.30,
        memory=0.5,
        steps=2,
    ),
    "rloo-smollm2": Workload(
        "rloo",
        "smol",
        "RLOO, SmolLM2-135M, 2 prompts × 8 × up to 64",
        prompts=2,
        chat=True,
        kept=900 << 20,
        packed=450 << 20,
        target=0.35,
        steps=2,
    ),
    "dpo-smollm2": Workload(
        "dpo",
        "smol",
        "DPO, SmolLM2-135M, 4 pairs, prompts of 192",
        prompts=4,
        prompt=192,
        tokens=48,
        target=0.7,
        steps=2,
    ),
    "sft-smollm2": Workload(
        "sft", "smol", "SFT, SmolLM2-135M, 16 texts of 32 to 200", prompts=16, target=1.0, steps=2
    ),
    "grpo-small": Workload(
        "grpo", "small", "GRPO, small, 8 prompts × 8 × 64", target=0.35, memory=0.5
    ),
    "grpo-half-idle": Workload(
        "grpo",
        "small",
        "the same, half of the groups with equal rewards",
        idle=True,
        kept=1 << 30,
        target=0.22,
    ),
    "rloo-small": Workload("rloo", "small", "RLOO, small, 8 prompts × 8 × 64", target=0.35),
    "dpo-long-prompts": Workload(
        "dpo", "small", "DPO, small, 8 pairs, prompts of 384", prompt=384, tokens=48, target=0.5
    ),
    "sft-packing": Workload(
        "sft", "small", "SFT, small, 16 texts of 32 to 200", prompts=16, target=0.7, steps=5
    ),
    "rollout": Workload(
        "rollout", "small", "sampling 8 × 8 × up to 64, small", stops=True, target=1 / 2.2, steps=5
    ),
    "rollout-smollm2": Workload(
        "rollout",
        "smol",
        "sampling 4 × 8 × up to 64, SmolLM2-135M",
        prompts=4,
        chat=True,
        target=1 / 1.8,
        steps=2,
    ),
    "start-up": Workload(
        "sft",
        "small",
        "start of the process to the first step",
        prompts=16,
        start=True,
        target=0.65,
    ),
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
    if work.chat:
        found = [
            f"<|im_start|>user\nHow often does the word cat occur in this text? {text}<|im_end|>\n"
            "<|im_start|>assistant\n"
            for text in found
        ]
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
