"""Findings about resources: what does not fit the device.

They need a plan, so they appear at `grape plan` and before a run, not in `grape lint`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from grape.compiler.estimates.ranges import size
from grape.compiler.graph import Graph, Stage
from grape.compiler.plan import Plan, PlannedStage
from grape.dsl.allow import silenced
from grape.dsl.ast import File
from grape.dsl.findings import Finding, in_order


def resource_findings(graph: Graph, plan: Plan, files: Iterable[File]) -> list[Finding]:
    """What is to be said before the plan runs, without what the files silence."""
    stages = {stage.name: stage for stage in graph.stages}
    found = [*_memory(plan, stages), *_processes(plan, stages), *_idle(plan, stages)]
    return in_order(silenced(files, found))


def _memory(plan: Plan, stages: dict[str, Stage]) -> Iterator[Finding]:
    limit = plan.device.get("memory")
    if not limit:
        return
    for planned in plan.stages:
        memory = planned.estimate.get("memory")
        if memory is None or planned.state == "cached" or memory["expected"] <= limit:
            continue
        sure = memory["low"] > limit
        words = "needs at least" if sure else "is expected to need"
        much = size(memory["low"] if sure else memory["expected"])
        yield Finding(
            "G501" if sure else "G502",
            f"`{planned.name}` {words} {much} of memory, and {plan.device['name']} has "
            f"{size(limit)}",
            stages[planned.name].span,
            hint=_way_out(planned, limit),
        )


def _processes(plan: Plan, stages: dict[str, Stage]) -> Iterator[Finding]:
    """More processes than there are devices for them."""
    there = plan.device.get("count")
    for planned in plan.stages:
        count = planned.processes
        if there is None or count <= there or planned.state == "cached":
            continue
        if plan.device["kind"] == "cuda":
            code, what = "G504", f"there {_are(there, 'GPU')}: each process needs one of its own"
        else:
            code, what = "G505", f"this processor has {there} cores: they would wait for each other"
        yield Finding(
            code,
            f"`{planned.name}` asks for {count} processes, and {what}",
            stages[planned.name].span,
            hint=f"`processes = {there}`, or name other devices with `--device 4xcuda:80GiB`",
        )


def _are(number: int, noun: str) -> str:
    return f"is one {noun}" if number == 1 else f"are {number} {noun}s"


def _idle(plan: Plan, stages: dict[str, Stage]) -> Iterator[Finding]:
    """Processes that get nothing to do: what belongs together is never cut."""
    for planned in plan.stages:
        if planned.state == "cached":
            continue
        top = stages[planned.name]
        inside = {stage.name: stage.span for stage in top.body}
        near = {stage.name: stage for stage in planned.body or plan.stages}
        for stage in planned.body or (planned,):
            units = _units(stage, near)
            if units is not None and units[0] < stage.processes:
                number, what = units
                yield Finding(
                    "G514",
                    f"`{stage.name}` asks for {stage.processes} processes and has "
                    f"{number} {what}, which are not cut: the others would wait",
                    inside.get(stage.name, top.span),
                    hint=f"`processes = {max(1, number)}`, or more of them at once",
                )


def _units(stage: PlannedStage, near: dict[str, PlannedStage]) -> tuple[int, str] | None:
    """What can be shared out of a stage, and its name; None where the file does not tell."""
    settings = stage.settings
    if stage.verb in ("sample", "evaluate"):
        known = settings["prompts"]
        return None if known is None else (known, "prompts" if known != 1 else "prompt")
    if stage.verb != "train" or stage.formula is None:
        return None
    source = near.get(stage.inputs["data"].stage)
    made = source.estimate if source is not None else {}
    drawn = made.get("completions") if stage.formula["on"] == "Rollouts" else None
    size = settings["sequences_per_update"] or drawn
    if size is None:
        return None
    if stage.formula["on"] == "Preferences":
        return max(1, size // 2), "pairs in an update"
    if stage.formula["coupling"] in ("group", "position"):
        if not drawn or not made.get("prompts"):
            return None
        return max(1, size // (drawn // made["prompts"])), "groups in an update"
    return size, "sequences in an update"


def _way_out(stage: PlannedStage, limit: int) -> str:
    """What would make it fit, the largest line first."""
    inside = {one.verb: one for one in (stage, *stage.body)}
    train = inside.get("train")
    ways = {
        "activations": "lower `micro_tokens`",
        "attention masks": "lower `micro_tokens`",
        "optimizer": "train an adapter: `adapter = lora(rank = 16)`",
        "gradients": "train an adapter: `adapter = lora(rank = 16)`",
        "key-value cache": "lower `max_tokens`",
        "processes": "ask for fewer `processes`",
        "solver": 'write `solver = "penalty"`, which needs no vectors of its own',
        "weights": "take a smaller model, or name a larger device with `--device`",
        "reading": "take a smaller model, or name a larger device with `--device`",
    }
    if train is not None and train.settings["adapter"]:
        ways["optimizer"] = ways["gradients"] = "lower the adapter's `rank`"
    lines = sorted(stage.estimate["memory_lines"], key=lambda line: -line["bytes"]["expected"])
    biggest = lines[0]
    found = dict.fromkeys(ways[line["name"]] for line in lines if line["name"] in ways)
    first = f"the largest part is `{biggest['name']}`, {size(biggest['bytes']['expected'])}"
    copies = ["each process holds the whole model, which is not sharded: more of them do not help"]
    ends = [first, *list(found)[:2], *(copies if stage.processes > 1 else [])]
    return "; ".join(ends) + f" (`grape plan --explain {stage.name}`)"
