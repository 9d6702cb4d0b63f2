"""A graph in the DOT language of Graphviz: a repeat is a cluster, states are colours."""

from __future__ import annotations

from grape.compiler.draw.shape import Box, arrows, boxes, title
from grape.compiler.graph import Graph
from grape.compiler.plan import Plan

_STATES = {"cached": "#3f8f5b", "run": "#b4690e", "resume": "#2a6fb8", "skipped": "#c4bfd0"}


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _quoted(text: str) -> str:
    return f'"{_escaped(text)}"'


def draw(graph: Graph, plan: Plan | None) -> str:
    """DOT text. An arrow out of a repeat starts at the stage that makes its next model."""
    every = boxes(graph, plan)
    last = {stage.name: f"{stage.name}.{stage.next}" for stage in graph.stages if stage.body}
    lines = [
        f"digraph {_quoted(graph.pipeline)} {{",
        "  rankdir=LR",
        '  node [shape=box, style=rounded, fontname="sans-serif"]',
    ]
    for box in every:
        if box.region is not None:
            continue
        if box.id in last:
            label = _quoted(f"{title(box.stage)} · {box.stage.name}")
            lines += [f"  subgraph {_quoted('cluster_' + box.id)} {{", f"    label={label}"]
            lines += [f"  {_node(item)}" for item in every if item.region == box.id]
            lines.append("  }")
        else:
            lines.append(_node(box))
    for arrow in arrows(graph):
        source = _quoted(last.get(arrow.source, arrow.source))
        lines.append(f"  {source} -> {_quoted(arrow.target)} [label={_quoted(arrow.label)}]")
    return "\n".join([*lines, "}"]) + "\n"


def _node(box: Box) -> str:
    label = f"{_escaped(box.stage.name)}\\n{_escaped(title(box.stage))}"
    colour = f', color="{_STATES[box.state]}", tooltip="{box.state}"' if box.state else ""
    if box.state == "skipped":
        colour += ', style="rounded,dashed", fontcolor="#9a93ab"'
    return f'  {_quoted(box.id)} [label="{label}"{colour}]'
