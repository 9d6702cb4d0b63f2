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
    return in_order(silenced(files, _memory(plan, stages)))


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
    return "; ".join([first, *list(found)[:2]]) + f" (`grape plan --explain {stage.name}`)"
