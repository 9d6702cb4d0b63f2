"""A graph as a Mermaid flowchart: a repeat is a subgraph, states are colours."""

from __future__ import annotations

from collections.abc import Iterable

from grape.compiler.draw.shape import Box, arrows, boxes, title
from grape.compiler.graph import Graph
from grape.compiler.plan import Plan

_STATES = {
    "cached": "stroke:#3f8f5b,stroke-width:2px",
    "run": "stroke:#b4690e,stroke-width:2px",
    "resume": "stroke:#2a6fb8,stroke-width:2px",
    "skipped": "opacity:0.4,stroke-dasharray:4 3",
}
_ENTITIES = {"#": "#35;", '"': "#quot;", "<": "#lt;", ">": "#gt;", "&": "#amp;"}


def _id(name: str) -> str:
    """A name that Mermaid takes as it is: what is no letter or digit is spelt out, so that
    different names stay different."""
    return "n_" + "".join(c if c.isascii() and c.isalnum() else f"_{ord(c):x}_" for c in name)


def _text(text: str) -> str:
    return "".join(_ENTITIES.get(letter, letter) for letter in text).replace("\n", " ")


def draw(graph: Graph, plan: Plan | None) -> str:
    """Mermaid text. The same graph and plan give the same bytes."""
    lines = ["flowchart LR"]
    every = boxes(graph, plan)
    for box in every:
        if box.region is not None:
            continue
        inner = [item for item in every if item.region == box.id]
        if inner:
            label = _text(f"{title(box.stage)} · {box.stage.name}")
            lines.append(f'  subgraph {_id(box.id)}["{label}"]')
            lines += [f"  {_node(item)}" for item in inner]
            lines.append("  end")
        else:
            lines.append(_node(box))
    for arrow in arrows(graph):
        lines.append(f'  {_id(arrow.source)} -- "{_text(arrow.label)}" --> {_id(arrow.target)}')
    return "\n".join([*lines, *_states(every)]) + "\n"


def _node(box: Box) -> str:
    return f'  {_id(box.id)}["{_text(box.stage.name)}<br/>{_text(title(box.stage))}"]'


def _states(every: Iterable[Box]) -> list[str]:
    """Classes for the states that occur."""
    lines = []
    for state, style in _STATES.items():
        names = [_id(box.id) for box in every if box.state == state]
        if names:
            lines += [f"  classDef {state} {style}", f"  class {','.join(names)} {state}"]
    return lines
