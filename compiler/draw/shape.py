"""What every drawing needs: nodes and edges of a graph, the stages of a repeat among them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from textwrap import shorten

from grape.compiler.graph import Graph, Skipped, Stage
from grape.compiler.plan import Plan


@dataclass(frozen=True, slots=True)
class Box:
    """One stage: `id` is unique; `region` is the id of the repeat around it."""

    id: str
    stage: Stage
    region: str | None
    state: str | None


@dataclass(frozen=True, slots=True)
class Arrow:
    """An edge between two boxes."""

    source: str
    target: str
    label: str
    back: bool = False
    """From the end of a round to the start of the next."""


def boxes(graph: Graph, plan: Plan | None) -> list[Box]:
    """Every stage; a repeat comes before its body."""
    states = {stage.name: stage.state for stage in plan.stages} if plan else {}
    found = []
    for stage in graph.stages:
        found.append(Box(stage.name, stage, None, states.get(stage.name)))
        for inner in stage.body:
            name = f"{stage.name}.{inner.name}"
            found.append(Box(name, inner, stage.name, states.get(stage.name)))
    for number, skipped in enumerate(graph.skipped):
        if skipped.region is None:
            found.append(Box(skipped_id(number, skipped), skipped.stage, None, "skipped"))
    return found


def skipped_id(number: int, skipped: Skipped) -> str:
    """The id of a stage that is left out: its name may be that of one which is not."""
    return f"{skipped.stage.name} (skipped {number + 1})"


def arrows(graph: Graph) -> list[Arrow]:
    """Every edge with the type it carries. What enters a repeat goes to the stages that use it."""
    types = {stage.name: str(stage.type) for stage in graph.stages}
    found: list[Arrow] = []
    for stage in graph.stages:
        if stage.verb == "repeat":
            found += _inside(stage, types)
            continue
        for edge in stage.inputs:
            label = types[edge.source] + (f" .{edge.view}" if edge.view else "")
            found.append(Arrow(edge.source, stage.name, label))
    return [*found, *_left_out(graph, types)]


def _left_out(graph: Graph, types: dict[str, str]) -> Iterator[Arrow]:
    """The edges of stages that are left out; from one of the same branch where it has one."""
    ids = {
        skipped.stage.name: skipped_id(number, skipped)
        for number, skipped in enumerate(graph.skipped)
        if skipped.region is None
    }
    kinds = {**types, **{s.stage.name: str(s.stage.type) for s in graph.skipped}}
    for skipped in graph.skipped:
        if skipped.region is not None:
            continue
        for edge in skipped.stage.inputs:
            if edge.source in kinds and edge.source != skipped.stage.name:
                label = kinds[edge.source] + (f" .{edge.view}" if edge.view else "")
                source = ids.get(edge.source, edge.source)
                yield Arrow(source, ids[skipped.stage.name], label)


def _inside(region: Stage, types: dict[str, str]) -> Iterator[Arrow]:
    local = {inner.name: str(inner.type) for inner in region.body}
    start = next(edge.source for edge in region.inputs if edge.port == "start")
    for inner in region.body:
        for edge in inner.inputs:
            view = f" .{edge.view}" if edge.view else ""
            target = f"{region.name}.{inner.name}"
            if edge.source == region.name:
                yield Arrow(start, target, "Model")
            elif edge.source in local:
                yield Arrow(f"{region.name}.{edge.source}", target, local[edge.source] + view)
            else:
                yield Arrow(edge.source, target, types[edge.source] + view)


def title(stage: Stage) -> str:
    """What a box says below its name."""
    if stage.verb == "repeat":
        ends = [f"until {shorten(until.text, 48, placeholder=' …')}" for until in stage.until]
        stale = ["staleness 1"] if stage.settings["staleness"] else []
        return " ".join(["repeat", str(stage.settings["rounds"]), *stale, *ends])
    if stage.every is not None:
        return f"{stage.verb} · every {stage.every}"
    if stage.formula is not None and stage.verb == "train":
        return f"train · {stage.formula.name}"
    return stage.verb


def states(plan: Plan | None) -> dict[str, str]:
    """State by stage name; nothing without a plan."""
    return {stage.name: stage.state for stage in plan.stages} if plan else {}
