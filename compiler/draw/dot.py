"""A graph in the DOT language of Graphviz."""

from __future__ import annotations

from grape.compiler.draw.shape import Box, arrows, boxes, title
from grape.compiler.graph import Graph
from grape.compiler.plan import Plan


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def draw(graph: Graph, plan: Plan | None) -> str:
    """DOT text; a repeat is a cluster. An arrow out of a repeat starts at its last stage."""
    every = boxes(graph, plan)
    last = {box.region: box.id for box in every if box.region is not None}
    lines = [f"digraph {_quoted(graph.pipeline)} {{", "  rankdir=LR", "  node [shape=box]"]
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
    name = box.stage.name.replace('"', '\\"')
    style = ", style=dashed" if box.state == "cached" else ""
    return f'  {_quoted(box.id)} [label="{name}\\n{title(box.stage)}"{style}]'
