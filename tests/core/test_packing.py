"""Micro-batches: as few as fit, as even as that allows, and nothing that belongs together cut."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from core.pipes import run

from grape.runtime.core import text
from grape.runtime.core.packing import Example, _filled, micro_batches


def batch(chance: random.Random, groups: int, size: int, shared: bool) -> list[Example]:
    found: list[Example] = []
    for group in range(groups):
        prompt = (100 + group, *range(chance.randint(0, 29)))
        for _ in range(size):
            own = prompt if shared else (len(found), *range(chance.randint(0, 29)))
            found.append(Example(own, tuple(range(chance.randint(1, 40))), group))
    return found


def sizes_of(
    examples: list[Example], budget: int, *, keep_groups: bool = False, paired: bool = False
) -> list[int]:
    micros = micro_batches(examples, budget=budget, keep_groups=keep_groups, paired=paired)
    slots = sorted(slot for micro in micros for slot in micro.slots.tolist())
    assert slots == list(range(sum(len(one.completion) for one in examples)))
    return [micro.input_ids.numel() for micro in micros]


def one_after_another(sizes: list[int], budget: int) -> list[int]:
    bins: list[int] = []
    for size in sizes:
        if not bins or bins[-1] + size > budget:
            bins.append(0)
        bins[-1] += size
    return bins


def test_a_small_last_one_is_none() -> None:
    examples = [Example((1,), tuple(range(100)), number) for number in range(10)]
    assert sizes_of(examples, 900) == [500, 500]
    assert sizes_of(examples, 400) == [400, 400, 200]  # three of 400 cannot be cut more evenly
    assert sizes_of(examples, 5000) == [1000]
    assert sizes_of(examples, 50) == [100] * 10, "what is larger than the budget stands alone"


@pytest.mark.parametrize("seed", range(30))
def test_never_more_and_never_larger_than_one_after_another(seed: int) -> None:
    chance = random.Random(seed)
    examples = batch(chance, chance.randint(1, 12), 2, shared=False)
    budget = chance.randint(20, 400)
    alone = [len(one.prompt) + len(one.completion) - 1 for one in examples]
    for how, units in (
        ({}, alone),
        ({"paired": True}, [a + b for a, b in zip(alone[::2], alone[1::2], strict=True)]),
        ({"keep_groups": True}, [a + b for a, b in zip(alone[::2], alone[1::2], strict=True)]),
    ):
        filled, found = one_after_another(units, budget), sizes_of(examples, budget, **how)
        assert len(found) <= len(filled) and max(found) <= max(filled)
        assert sum(found) == sum(filled)
        assert max(found) <= max(budget, *units)


@pytest.mark.parametrize("seed", range(30))
def test_a_shared_prompt_runs_no_more_often(seed: int) -> None:
    chance = random.Random(seed)
    examples = batch(chance, chance.randint(1, 4), 8, shared=True)
    budget = chance.randint(60, 300)
    units = [[list(range(at, at + 8))] for at in range(0, len(examples), 8)]
    filled = _filled(examples, units, budget, whole=False)
    found = sizes_of(examples, budget)
    assert len(found) <= len(filled.bins) and sum(found) <= sum(filled.sizes)
    assert max(found) <= max(filled.sizes)


def test_no_update_waits_for_the_tokenizer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, seen = [0], list[int]()
    real = text.completion_ids

    def counting(tokenizer: object, words: str) -> list[int]:
        calls[0] += 1
        return real(tokenizer, words)

    monkeypatch.setattr("grape.runtime.core.examples.completion_ids", counting)
    body = """
  stage next = train(base, sums) { algorithm = sft(), sequences_per_update = 4, updates = 6 }
  output next as "m"
"""
    pipe = run(tmp_path, body, "sft", on_metrics=lambda: seen.append(calls[0]))
    assert len(pipe.metrics("next")) == 6 == len(seen)
    assert calls[0] and set(seen) == {calls[0]}, "texts became tokens between two updates"
