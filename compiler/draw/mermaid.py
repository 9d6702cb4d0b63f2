"""A graph as a Mermaid flowchart."""

from __future__ import annotations

from grape.compiler.draw.shape import arrows, boxes, title
from grape.compiler.graph import Graph
from grape.compiler.plan import Plan


def _id(name: str) -> str:
    return "n_" + name.replace(".", "__")


def _text(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")


def draw(graph: Graph, plan: Plan | None) -> str:
    """Mermaid text; a repeat is a subgraph, states are classes."""
    lines = ["flowchart LR"]
    every = boxes(graph, plan)
    for box in every:
        if box.region is not None:
            continue
        inner = [item for item in every if item.region == box.id]
        if inner:
            label = _text(f"{title(box.stage)} · {box.stage.name}")
            lines.append(f'  subgraph {_id(box.id)}["{label}"]')
            lines += [f"  {_node(item.id, item.stage.name, title(item.stage))}" for item in inner]
            lines.append("  end")
        else:
            lines.append(_node(box.id, box.stage.name, title(box.stage)))
    for arrow in arrows(graph):
        lines.append(f'  {_id(arrow.source)} -- "{_text(arrow.label)}" --> {_id(arrow.target)}')
    cached = [_id(box.id) for box in every if box.state == "cached"]
    if cached:
        lines += ["  classDef cached opacity:0.6", f"  class {','.join(cached)} cached"]
    return "\n".join(lines) + "\n"


def _node(id: str, name: str, below: str) -> str:
    return f'  {_id(id)}["{_text(name)}<br/>{_text(below)}"]'
