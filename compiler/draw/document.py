"""A graph as JSON: nodes with settings and places, edges with types."""

from __future__ import annotations

import json
from typing import Any

from grape.compiler.draw.shape import arrows, boxes
from grape.compiler.graph import Graph
from grape.compiler.plan import Plan


def draw(graph: Graph, plan: Plan | None) -> str:
    nodes: list[dict[str, Any]] = [
        {
            "id": box.id,
            "name": box.stage.name,
            "verb": box.stage.verb,
            "type": str(box.stage.type),
            "region": box.region,
            "state": box.state,
            "settings": box.stage.settings,
            "doc": box.stage.doc,
            "every": box.stage.every,
            "file": box.stage.span.source.path,
            "line": box.stage.span.line,
        }
        for box in boxes(graph, plan)
    ]
    edges = [
        {"source": arrow.source, "target": arrow.target, "label": arrow.label}
        for arrow in arrows(graph)
    ]
    document = {"pipeline": graph.pipeline, "nodes": nodes, "edges": edges}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
