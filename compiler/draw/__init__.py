"""Drawings of a graph; `draw(graph, plan)` of each module gives text."""

from __future__ import annotations

from collections.abc import Callable

from grape.compiler.draw import document, dot, html, mermaid, svg
from grape.compiler.graph import Graph
from grape.compiler.plan import Plan

FORMATS: dict[str, Callable[[Graph, Plan | None], str]] = {
    "mermaid": mermaid.draw,
    "dot": dot.draw,
    "json": document.draw,
    "svg": svg.draw,
    "html": html.draw,
}
