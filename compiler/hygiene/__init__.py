"""Findings about a graph as a whole: leaks, lineage, arithmetic, wasted work, what is not safe.

In comes a checked graph, out come findings; nothing is changed. One module for each family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from grape.compiler.graph import Graph
from grape.compiler.hygiene.batches import check_batches
from grape.compiler.hygiene.exposure import check_exposure
from grape.compiler.hygiene.learning import check_groups, check_learning
from grape.compiler.hygiene.lineage import check_lineage
from grape.compiler.hygiene.revising import check_revising
from grape.compiler.hygiene.safety import check_safety
from grape.compiler.hygiene.sampling import check_sampling
from grape.compiler.hygiene.staleness import check_staleness
from grape.compiler.hygiene.waste import check_waste
from grape.dsl import ast
from grape.dsl.findings import Finding

__all__ = ["check_graph", "check_groups"]

FAMILIES: tuple[Callable[[Graph, ast.PipelineDecl], Iterator[Finding]], ...] = (
    check_lineage,
    check_learning,
    check_batches,
    check_sampling,
    check_staleness,
    check_waste,
    check_safety,
    check_exposure,
    check_revising,
)


def check_graph(graph: Graph, declared: ast.PipelineDecl) -> Iterator[Finding]:
    """All findings about a graph."""
    for family in FAMILIES:
        yield from family(graph, declared)
