"""Memory of a stage by closed form: a list of lines that add up, each with its formula.

`RESIDENT` lines are there all the time; of the other phases only the largest counts, since a
process is in one of them at a time. The figures of activations are those of the layers that Grape
writes out itself, else of transformers' models under torch's autograd; a test measures them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grape.compiler.estimates.facts import ModelFacts, adapter_parameters
from grape.compiler.estimates.ranges import ZERO, Range
from grape.compiler.formula.ir import Formula

RESIDENT, LOADING, SAMPLING, JUDGING = "all the time", "loading", "sampling", "judging"
UPDATE, STEP, SAVING = "forward and backward", "the optimizer step", "saving"
MIB = 1 << 20
PYTHON = Range(28 * MIB, 32 * MIB, 60 * MIB)
"""A stage that runs no model."""
TORCH = Range(330 * MIB, 360 * MIB, 420 * MIB)
"""torch and transformers, loaded and idle."""
FREED = 0.7
"""Share of the activations that is surely held at once: the allocator reuses what is freed."""
CHUNK = 1024
"""Positions that the output head takes at once under autograd."""
CELLS = 1 << 23
"""Logits that are there at once when the head's gradient is formed without a graph."""
TABLE = 1 << 21
"""Entries of one distribution of a chunk of tokens."""
BUCKET = 1 << 22
"""Numbers of a gradient that processes exchange at once."""
DECODED = 64
"""Completions that are decoded side by side."""
PACKED = 4 << 30
"""Most weights that are laid out anew for decoding where nothing else is said."""
JUDGED = 8192
"""Tokens of questions that a critic reads at once."""


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


def judging(facts: ModelFacts, width: int) -> list[Line]:
    """A critic: its weights, and the questions that go through it at once."""
    wide = facts.hidden * 4 + facts.intermediate * 3
    questions = Line(
        "questions",
        f"≤ {JUDGED:,} tokens × (4·{facts.hidden} + 3·{facts.intermediate}) × {width} B",
        Range(0.1, 1, 2) * (JUDGED * wide * width),
        JUDGING,
    )
    return [weights(facts, width, "critic model"), questions]


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
        *activations(
            facts,
            width,
            update.micro,
            packed=update.settings["packed"],
            own=update.settings["own_layers"] and not adapter,
        ),
        head(facts, width, update.scored, fused=update.settings["fused_head"]),
    ]
    return lines


def trained_beside(
    facts: ModelFacts, width: int, formula: Formula, settings: Mapping[str, Any]
) -> list[Line]:
    """What a formula trains or holds beside the model: its heads, a solver's vectors."""
    lines = []
    for name, quantities in (("value head", {"value", "old_value"}), ("score head", {"score"})):
        if formula.needs & quantities:
            text = f"{facts.hidden} weights, gradients and 2 moments × {width} B"
            lines.append(Line(name, text, Range.known(4 * facts.hidden * width)))
    if formula.constraints and settings["solver"] == "natural_gradient":
        adapter = settings["adapter"]
        count = adapter_parameters(facts, adapter) if adapter else facts.parameters
        text = f"vectors of conjugate gradient × {count:,} trained parameters × {width} B"
        lines.append(Line("solver", text, Range(5, 6, 8) * (count * width), UPDATE))
    return lines


def activations(
    facts: ModelFacts, width: int, tokens: Range, *, packed: bool, own: bool = False
) -> list[Line]:
    """What the backward pass needs of a row of tokens, layer by layer; of padded rows, under the
    model's own attention, a mask per layer too."""
    wide = facts.heads * facts.head_dim
    heads = 3 * wide + 2 * facts.kv_heads * facts.head_dim if packed else 4 * wide
    if own and packed and facts.family in OWN:
        return [_written(facts, width, tokens)]
    if facts.gated:
        numbers = 6 * facts.hidden + heads + 4 * facts.intermediate + facts.heads + 2
        text = f"6·{facts.hidden} + {heads} + 4·{facts.intermediate}"
    else:
        numbers = 4 * facts.hidden + heads + 5 * facts.intermediate + facts.heads + 4
        text = f"4·{facts.hidden} + {heads} + 5·{facts.intermediate}"
    held = tokens * (facts.layers * numbers * width)
    held = Range(held.low * FREED, held.expected, held.high)
    row = f"{tokens.expected:,.0f} tokens"
    lines = [
        Line(
            "activations",
            f"{row} × {facts.layers} layers × ({text}) × {width} B",
            held,
            UPDATE,
        )
    ]
    if not packed:
        square = Range(tokens.low**2, tokens.expected**2, tokens.high**2)
        text = f"({row})² × {facts.layers} layers × {width} B"
        lines.append(Line("attention masks", text, square * (facts.layers * width), UPDATE))
    return lines


OWN = frozenset({"llama", "mistral", "qwen2"})
"""Families whose layers are written out."""


def per_token(facts: ModelFacts, width: int) -> tuple[int, int]:
    """Bytes that the layers written out keep of a token: without the insides of gates, and those
    of all layers."""
    heads = 2 * (facts.heads + facts.kv_heads) * facts.head_dim + facts.heads
    each = facts.layers * (2 * facts.hidden + heads)
    return (each + facts.hidden) * width, 2 * facts.layers * facts.intermediate * width


def _written(facts: ModelFacts, width: int, tokens: Range) -> Line:
    """What the layers written out keep; the insides of one gate and its gradients come on top."""
    least, gates = per_token(facts, width)
    inner = width * (4 * facts.intermediate + 8 * facts.hidden)
    text = (
        f"{tokens.expected:,.0f} tokens × ({(least + gates) // width:,} numbers of "
        f"{facts.layers} layers + {inner // width:,} of one) × {width} B"
    )
    return Line("activations", text, tokens * (least + gates + inner), UPDATE)


def kept(facts: ModelFacts, width: int, tokens: Range, most: Range, budget: int) -> list[Line]:
    """What sampling keeps for the step that follows, of `tokens` fed where there is room for
    `most`; nothing where the least does not fit."""
    least, gates = per_token(facts, width)
    spare = budget - most.expected * least
    if spare < 0 or facts.family not in OWN:
        return []
    share = min(1.0, spare / (most.expected * gates)) if most.expected else 0.0
    held = tokens * (least + int(share * gates))
    text = f"{tokens.expected:,.0f} tokens, {share:.0%} of the gates, at most {budget:,} B"
    return [Line("kept activations", text, held, phase) for phase in (SAMPLING, UPDATE)]


def packed(facts: ModelFacts, *, own: bool, budget: int) -> list[Line]:
    """Weights laid out anew for decoding: of as many layers that are known here as fit into the
    budget, and of the head where there is room left."""
    layer, head = facts.matrix_parameters // facts.layers, facts.vocab * facts.hidden
    layers = min(facts.layers, budget // (4 * layer)) if own and facts.family in OWN else 0
    count = layers * layer + (head if 4 * (layers * layer + head) <= budget else 0)
    text = f"{count:,} parameters × 4 B"
    return [Line("weights laid out", text, Range.known(4 * count), SAMPLING)] if count else []


def head(facts: ModelFacts, width: int, scored: Range, *, fused: bool) -> Line:
    """Logits of one chunk of positions and what their gradient needs, in float32; and the hidden
    states of all that are scored."""
    most = max(1, CELLS // facts.vocab) if fused else CHUNK
    copies = Range(1, 2, 3) if fused else Range(3, 4, 5)
    what = "logits, their gradient" if fused else "logits, scaled, two gradients"
    rows = scored.at_most(most)
    text = (
        f"{rows.expected:,.0f} positions (at most {most}) × {facts.vocab:,} vocabulary × 4 B "
        f"× {copies.expected:.0f} ({what})"
    )
    held = Range(rows.low * copies.low, rows.expected * copies.expected, rows.high * copies.high)
    states = scored * (2 * facts.hidden * width)
    if fused:
        text += f" + {scored.expected:,.0f} scored × {facts.hidden} × {width} B × 2"
    return Line("logits", text, held * (facts.vocab * 4) + (states if fused else ZERO), UPDATE)


def states(facts: ModelFacts, width: int, tokens: Range, name: str, *, head: bool = False) -> Line:
    """Hidden states that stand for whole distributions until a few tokens' are formed; with `head`
    a copy of the output embedding, too."""
    text = f"{tokens.expected:,.0f} tokens × {facts.hidden} × {width} B"
    held = tokens * (facts.hidden * width)
    if head:
        text += f" + {facts.vocab:,} × {facts.hidden} × {width} B of the head as it was"
        held = held + Range.known(facts.vocab * facts.hidden * width)
    return Line(name, text, held, UPDATE)


def tables(facts: ModelFacts, tokens: Range, kinds: int) -> Line:
    """The distributions of a chunk of tokens, in float32, and what a formula makes of them."""
    cells = (tokens * facts.vocab).at_most(max(TABLE, facts.vocab))
    copies = Range(1, 2, 4) * kinds
    held = Range(cells.low * copies.low, cells.expected * copies.expected, cells.high * copies.high)
    text = f"{cells.expected:,.0f} entries × {kinds} kinds × 2 (the formula's values) × 4 B"
    return Line("distributions", text, held * 4, UPDATE)


def drawing(
    facts: ModelFacts, width: int, prompt: Range, settings: Mapping[str, Any], prompts: int
) -> list[Line]:
    """The key-value cache, the logits of one step, and the pass over the prompts."""
    group, most = settings["group"], settings["max_tokens"]
    together = min(prompts, max(1, DECODED // group))
    rows = together * group
    prompts_kept = together if group > 1 else rows
    held = prompt * prompts_kept + Range(rows, rows * most, rows * most)
    per_token = 2 * facts.layers * facts.kv_heads * facts.head_dim * width
    cache = Line(
        "key-value cache",
        f"({prompts_kept} prompts × {prompt.expected:,.0f} + {rows} rows × {most}) tokens × "
        f"{facts.layers} layers × 2 × {facts.kv_heads}·{facts.head_dim} × {width} B",
        held * per_token,
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


def engine(settings: Mapping[str, Any], device: int) -> Line:
    """What another engine takes of the device, from its first use on."""
    share = settings["engine_memory"]
    return Line(settings["engine"], f"{share:.0%} of the device", Range.known(share * device))


def beside_training(lines: Iterable[Line]) -> list[Line]:
    """What sampling holds while a round trains: it is there in every phase."""
    return [replace(line, phase=RESIDENT) if line.phase == SAMPLING else line for line in lines]


def allocator(lines: Sequence[Line]) -> Line:
    """What is freed and not given back, as a share of everything else."""
    share = Range(0, 0.03, 0.12)
    held = peak(lines).expected
    return Line("allocator", "0 to 12 % that is freed and not given back", share * held)


def exchange(count: int) -> Line:
    """What of the gradient is on its way between processes."""
    text = f"{BUCKET:,} numbers of the gradient × 8 B × 4, between {count} processes"
    return Line("exchange", text, Range(1, 2, 4) * (BUCKET * 8), UPDATE)


def further(lines: Sequence[Line], count: int) -> Line:
    """Other processes beside this one, in the same memory."""
    each = peak(lines)
    return Line(
        "processes", f"{count} more with as much, {each.expected / MIB:,.0f} MiB", each * count
    )


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
