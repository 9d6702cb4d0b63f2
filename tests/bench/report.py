"""What was measured, as lines for a terminal and as the page `docs/performance.md`.

`python report.py bench.json docs/performance.md` writes the page from saved figures.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HEAD = (
    f"{'workload':<18}{'grape s':>9}{'TRL s':>9}{'ratio':>7}{'wall':>7}{'target':>8}"
    f"{'grape MB':>10}{'TRL MB':>8}{'ratio':>7}"
)
GROWTH = f"{'changed':<12}{'to':>6}{'seconds':>10}{'ms per unit':>13}"
PHASES = ("sampling", "reference", "forward", "head", "backward", "optimizer")


def row(found: dict[str, Any]) -> str:
    grape, trl = found["grape"], found["trl"]
    return (
        f"{found['workload']:<18}{grape['cpu']:>9.2f}{trl['cpu']:>9.2f}"
        f"{found['cpu_ratio']:>7.2f}{found['wall_ratio']:>7.2f}{found['target']:>8.2f}"
        f"{grape['peak_mb']:>10.0f}{trl['peak_mb']:>8.0f}{found['memory_ratio']:>7.2f}"
    )


def growth_row(found: dict[str, Any]) -> str:
    each = 1000 * found["seconds"] / found["units"]
    return f"{found['changed']:<12}{found['to']:>6}{found['seconds']:>10.2f}{each:>13.3f}"


def page(document: dict[str, Any]) -> str:
    """The page, from a whole document of `compare.py`."""
    return "\n".join([*_intro(document), *_results(document), *_parts(document), *_grown(document)])


def _intro(document: dict[str, Any]) -> Iterator[str]:
    machine, trl = document["machine"], document["versions"]["trl"]
    versions = ", ".join(f"{name} {version}" for name, version in trl.items())
    yield "# Performance"
    yield ""
    yield "Written by `make bench ARGS=--write` from what it measured; every figure is a median."
    yield ""
    yield (
        f"Measured on {document['date']}: {machine['cpu']}, {machine['cores']} cores, "
        f"{document['threads']} thread, load {machine['load']:.1f} at the start; {versions}."
    )
    yield (
        "Both sides load the same model in float32 and take turns, one step each. TRL has its best "
        "settings for a CPU: no bfloat16, no gradient checkpointing, packing where it can; "
        "micro-batches are equally large (a group, two pairs, 2048 tokens). "
        "*Small* is a fresh Llama of 4 layers, 256 wide, with a vocabulary of 4096."
    )
    yield ""


def _results(document: dict[str, Any]) -> Iterator[str]:
    yield "| work | Grape, CPU s | TRL, CPU s | ratio | wall ratio | target | memory, MB | ratio |"
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for found in document["results"]:
        grape, trl = found["grape"], found["trl"]
        target = f"≤ {found['target']:.2f}"
        if found["memory_target"]:
            target += f", memory ≤ {found['memory_target']:.2f}"
        yield (
            f"| {found['title']} | {grape['cpu']:.2f} | {trl['cpu']:.2f} | "
            f"**{found['cpu_ratio']:.2f}** | {found['wall_ratio']:.2f} | {target} | "
            f"{grape['peak_mb']:.0f} / {trl['peak_mb']:.0f} | {found['memory_ratio']:.2f} |"
        )
    yield ""
    yield (
        "Ratios of packed texts and of sampling are per token; for sampling TRL stands for "
        "`generate` of transformers, which its trainers call."
    )
    yield ""


def _parts(document: dict[str, Any]) -> Iterator[str]:
    yield "## Where the time of a step goes"
    yield ""
    yield "| work | " + " | ".join(PHASES) + " | rest |"
    yield "| --- |" + " --- |" * (len(PHASES) + 1)
    for found in document["results"]:
        grape = found["grape"]
        shares = [grape["phases"].get(part, 0.0) / grape["cpu"] for part in PHASES]
        cells = [f"{share:.0%}" if share else "" for share in [*shares, 1 - sum(shares)]]
        yield f"| {found['title']} | " + " | ".join(cells) + " |"
    yield ""
    yield (
        "*Forward* is the layers alone; *head* is everything that has the size of the vocabulary, "
        "its gradient included; *reference* is the reference model's log-probabilities. "
        "The rest of a start-up are imports and loading."
    )
    yield ""


def _grown(document: dict[str, Any]) -> Iterator[str]:
    if not document["growth"]:
        return
    yield "## How it grows"
    yield ""
    yield (
        "One size of a GRPO step on the small model is changed at a time (2 prompts of 128 tokens, "
        "4 completions of 32 tokens each). A unit is a token, a prompt's tokens counted once: "
        "what stays flat grows as the prompts plus their completions. For `stages`, a unit is a "
        "stage of a chain that is parsed, checked and planned."
    )
    yield ""
    yield "| changed | to | CPU s | ms per unit |"
    yield "| --- | --- | --- | --- |"
    for found in document["growth"]:
        each = 1000 * found["seconds"] / found["units"]
        yield f"| {found['changed']} | {found['to']} | {found['seconds']:.2f} | {each:.2f} |"
    yield ""


if __name__ == "__main__":
    figures = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(page(figures), encoding="utf-8")
