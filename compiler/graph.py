"""The typed graph of one pipeline: what checking makes and planning reads.

Nodes are stages (model and data sources among them) with resolved settings; edges carry artifact
types. A `repeat` is one node with a body. networkx is imported only by `to_networkx`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from grape.compiler.formula.ir import Formula
from grape.compiler.types import ArtifactType
from grape.dsl.source import Span

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True, slots=True)
class Edge:
    """An input of a stage: which port, from which stage, which view of it."""

    port: str
    source: str
    view: str | None
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Stage:
    """A node. `settings` holds every setting as JSON, defaults included; `given` the names of
    those that the file sets."""

    name: str
    verb: str
    type: ArtifactType
    inputs: tuple[Edge, ...]
    settings: dict[str, Any]
    given: frozenset[str]
    span: Span = field(compare=False, repr=False)
    formula: Formula | None = None
    reward: dict[str, Any] | None = None
    doc: str | None = None
    body: tuple[Stage, ...] = ()
    next: str | None = None
    layers: dict[str, str] = field(default_factory=dict)
    """Settings that come from the environment: `env("NAME")` or `secret("NAME")` by name."""
    every: int | None = None
    """In a repeat: made only every so many rounds, after the next model."""
    until: tuple[Until, ...] = ()
    """Of a repeat: what ends it early."""


@dataclass(frozen=True, slots=True)
class Until:
    """`until EXPR`: an expression like that of a check, over what a round has made."""

    text: str
    test: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A stage of a branch that is not taken, and why; `region` is the repeat that it would lie
    in."""

    stage: Stage
    reason: str
    region: str | None


@dataclass(frozen=True, slots=True)
class Check:
    """`check TEXT`"""

    text: str
    test: dict[str, Any]
    confidence: float | None
    span: Span = field(compare=False, repr=False)
    doc: str | None = None


@dataclass(frozen=True, slots=True)
class Output:
    """`output SOURCE as PATH`"""

    source: str
    view: str | None
    path: str
    span: Span = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Graph:
    """One pipeline. `stages` are in an order in which inputs come first."""

    pipeline: str
    params: dict[str, Any]
    layers: dict[str, str]
    """Parameter name to the layer that set it: default, env("NAME"), params file, --set."""
    stages: tuple[Stage, ...]
    checks: tuple[Check, ...]
    outputs: tuple[Output, ...]
    span: Span = field(compare=False, repr=False)
    doc: str | None = None
    skipped: tuple[Skipped, ...] = ()
    """Stages of branches that are not taken."""
    left_out: tuple[str, ...] = ()
    """Checks and outputs of such branches, with the reason."""

    def to_networkx(self) -> nx.DiGraph[str]:
        """A directed graph: node attributes `verb`, `type`, `settings`, `region` (the repeat that
        a node lies in, or None); edge attributes `port`, `view`, `type`. Nodes of a repeat's body
        are named `REPEAT.STAGE`."""
        import networkx as nx

        graph: nx.DiGraph[str] = nx.DiGraph(name=self.pipeline)
        for stage in self.stages:
            _add(graph, stage, None, {})
        return graph


def _add(graph: nx.DiGraph[str], stage: Stage, region: str | None, local: dict[str, str]) -> None:
    name = stage.name if region is None else f"{region}.{stage.name}"
    graph.add_node(
        name, verb=stage.verb, type=stage.type.name, settings=stage.settings, region=region
    )
    for edge in stage.inputs:
        source = local.get(edge.source, edge.source)
        made = graph.nodes[source]["type"] if source in graph else None
        graph.add_edge(source, name, port=edge.port, view=edge.view, type=made)
    inside = {inner.name: f"{stage.name}.{inner.name}" for inner in stage.body}
    for inner in stage.body:
        _add(graph, inner, stage.name, inside)
