"""Memory of a stage by closed form: a list of lines that add up, each with its formula.

`RESIDENT` lines are there all the time; of the other phases only the largest counts, since a
process is in one of them at a time. The figures of activations are those of transformers' models
under torch's autograd without checkpointing; a test measures them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grape.compiler.estimates.facts import ModelFacts, adapter_parameters
from grape.compiler.estimates.ranges import ZERO, Range

RESIDENT, LOADING, SAMPLING = "all the time", "loading", "sampling"
UPDATE, STEP, SAVING = "forward and backward", "the optimizer step", "saving"
MIB = 1 << 20
PYTHON = Range(28 * MIB, 32 * MIB, 60 * MIB)
"""A stage that runs no model."""
TORCH = Range(330 * MIB, 360 * MIB, 420 * MIB)
"""torch and transformers, loaded and idle."""
FREED = 0.7
"""Share of the activations that is surely held at once: the allocator reuses what is freed."""
CHUNK = 1024
"""Positions that the output head takes at once."""
DECODED = 64
"""Completions that are decoded side by side."""


@dataclass(frozen=True, slots=True)
class Line:
    """One term: what it is for, how it is counted, how many bytes, and in which phase."""

    name: str
    formula: str
    bytes: Range
    phase: str = RESIDENT


def peak(lines: Iterable[Line]) -> Range:
    """What is resident and the largest phase."""
    totals: dict[str, Range] = {}
    for line in lines:
        totals[line.phase] = totals.get(line.phase, ZERO) + line.bytes
    resident = totals.pop(RESIDENT, ZERO)
    return max((resident + total for total in totals.values()), default=resident, key=_expected)


def _expected(total: Range) -> float:
    return total.expected


def process(runs_model: bool) -> Line:
    """What the process of a stage holds before it does anything."""
    if runs_model:
        return Line("process", "torch and transformers loaded (measured)", TORCH)
    return Line("process", "Python (measured)", PYTHON)


def weights(facts: ModelFacts, width: int, name: str = "weights") -> Line:
    held = Range.known(facts.parameters * width)
    return Line(name, f"{facts.parameters:,} parameters × {width} B", held)


def loading(facts: ModelFacts, width: int, *, gguf: bool) -> Line:
    """Beside the weights while they are read: a GGUF file is dequantised and then moved."""
    copies = Range(1, 1.3, 1.5) if gguf else Range(0, 0.1, 1)
    text = "a second copy of the weights while a GGUF file is moved" if gguf else "buffers"
    return Line("reading", text, copies * (facts.parameters * width), LOADING)


@dataclass(frozen=True, slots=True)
class Update:
    """What one optimizer step is made of. `micro` are the input tokens of its largest forward
    pass, `scored` the completion tokens among them."""

    micro: Range
    scored: Range
    again: bool
    """More than one update: the optimizer's moments are there during the next forward pass."""
    settings: Mapping[str, Any]


def training(facts: ModelFacts, width: int, update: Update) -> list[Line]:
    """Gradients, optimizer and what a forward and backward pass holds."""
    adapter = update.settings["adapter"]
    count = adapter_parameters(facts, adapter) if adapter else facts.parameters
    whose = f"{count:,} trained parameters"
    lines = []
    if adapter:
        text = f"rank {adapter['rank']}: {count:,} parameters × {width} B"
        lines.append(Line("adapter", text, Range.known(count * width)))
        copy = Range.known(facts.parameters * width)
        text = "a copy of the weights, into which the adapter is merged"
        lines.append(Line("merged weights", text, copy, SAVING))
    lines += [
        Line(
            "optimizer",
            f"{whose} × 2 moments × {width} B",
            Range.known(2 * count * width),
            RESIDENT if update.again else STEP,
        ),
        Line("gradients", f"{whose} × {width} B", Range.known(count * width)),
        *activations(facts, width, update.micro),
        head(facts, update.scored),
    ]
    return lines


def activations(facts: ModelFacts, width: int, tokens: Range) -> list[Line]:
    """What the backward pass needs of a row of tokens, layer by layer."""
    wide = facts.heads * facts.head_dim
    if facts.gated:
        numbers = 6 * facts.hidden + 4 * wide + 4 * facts.intermediate + facts.heads + 2
        text = f"6·{facts.hidden} + 4·{wide} + 4·{facts.intermediate}"
    else:
        numbers = 4 * facts.hidden + 4 * wide + 5 * facts.intermediate + facts.heads + 4
        text = f"4·{facts.hidden} + 4·{wide} + 5·{facts.intermediate}"
    held = tokens * (facts.layers * numbers * width)
    held = Range(held.low * FREED, held.expected, held.high)
    square = Range(tokens.low**2, tokens.expected**2, tokens.high**2) * (facts.layers * width)
    row = f"{tokens.expected:,.0f} tokens"
    return [
        Line(
            "activations",
            f"{row} × {facts.layers} layers × ({text}) × {width} B",
            held,
            UPDATE,
        ),
        Line("attention masks", f"({row})² × {facts.layers} layers × {width} B", square, UPDATE),
    ]


def head(facts: ModelFacts, scored: Range) -> Line:
    """Logits of one chunk of positions and what their gradient needs; in float32."""
    rows = scored.at_most(CHUNK)
    text = (
        f"{rows.expected:,.0f} positions (at most {CHUNK}) × {facts.vocab:,} vocabulary × 4 B "
        "× 4 (logits, scaled, two gradients)"
    )
    copies = Range(3, 4, 5)
    held = Range(rows.low * copies.low, rows.expected * copies.expected, rows.high * copies.high)
    return Line("logits", text, held * (facts.vocab * 4), UPDATE)


def drawing(
    facts: ModelFacts, width: int, prompt: Range, settings: Mapping[str, Any], prompts: int
) -> list[Line]:
    """The key-value cache, the logits of one step, and the pass over the prompts."""
    group, most = settings["group"], settings["max_tokens"]
    together = min(prompts, max(1, DECODED // group))
    rows = together * group
    long = Range(prompt.low + 1, prompt.expected + most, prompt.high + most)
    per_token = 2 * facts.layers * facts.kv_heads * facts.head_dim * width
    cache = Line(
        "key-value cache",
        f"{rows} rows × {long.expected:,.0f} tokens × {facts.layers} layers × 2 × "
        f"{facts.kv_heads}·{facts.head_dim} × {width} B",
        long * (rows * per_token),
        SAMPLING,
    )
    random = settings["temperature"] > 0
    each = 20 if random else 8
    step = Line(
        "logits",
        f"{rows} rows × {facts.vocab:,} vocabulary × {each} B",
        Range.known(rows * facts.vocab * each),
        SAMPLING,
    )
    wide = facts.hidden * 4 + facts.intermediate * 3
    prefill = Line(
        "prompts",
        f"{together} prompts × {prompt.expected:,.0f} tokens × (4·{facts.hidden} + "
        f"3·{facts.intermediate}) × {width} B",
        prompt * (together * wide * width),
        SAMPLING,
    )
    return [cache, step, prefill]


def allocator(lines: Sequence[Line]) -> Line:
    """What is freed and not given back, as a share of everything else."""
    share = Range(0, 0.03, 0.12)
    held = peak(lines).expected
    return Line("allocator", "0 to 12 % that is freed and not given back", share * held)


def to_json(lines: Sequence[Line]) -> list[dict[str, Any]]:
    return [
        {
            "name": line.name,
            "phase": line.phase,
            "formula": line.formula,
            "bytes": line.bytes.to_json(),
        }
        for line in lines
    ]
