"""Ways through a checked graph that the families of findings share.

Stages with the names they can see, the data and the samplers behind an input, the model that a
model came from, and the place of a setting in the file. Nothing here makes a finding.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

from grape.compiler.graph import Edge, Graph, Stage
from grape.dsl import ast
from grape.dsl.source import Span

Local = Mapping[str, Stage]


@dataclass(frozen=True, slots=True)
class Leaf:
    """A view of data at the end of a lineage; `span` is where the view is named."""

    data: Stage
    view: str | None
    span: Span

    @property
    def identity(self) -> tuple[str, ...]:
        """Equal for data that holds the same items."""
        settings = self.data.settings
        if "path" in settings:
            parts = [str(settings[key]) for key in ("subset", "part") if key in settings]
            return (self.data.verb, settings["path"], *parts)
        return (self.data.verb, *(str(settings.get(key)) for key in ("name", "options", "seed")))

    def shares_with(self, other: Leaf) -> bool:
        """Whether both may hold the same item: not where one split keeps them apart."""
        if self.identity != other.identity:
            return False
        cuts = [(leaf.data.settings["split"], leaf.data.settings["seed"]) for leaf in (self, other)]
        return {self.view, other.view} != {"train", "test"} or cuts[0] != cuts[1]


@dataclass(frozen=True, slots=True)
class Scope:
    """A stage, the stages that its inputs may name, and the repeat around it."""

    stage: Stage
    local: Local
    repeat: Stage | None


def scopes_of(graph: Graph) -> Iterator[Scope]:
    """Every stage, those of repeats after their repeat."""
    top = {stage.name: stage for stage in graph.stages}
    for stage in graph.stages:
        yield Scope(stage, top, None)
        inside = within(stage, top)
        for inner in stage.body:
            yield Scope(inner, inside, stage)


def within(repeat: Stage, local: Local) -> Local:
    """What the stages of a repeat may name."""
    return ChainMap({inner.name: inner for inner in repeat.body}, cast(dict[str, Stage], local))


def leaves(stage: Stage, ports: tuple[str, ...], local: Local) -> Iterator[Leaf]:
    """The data that reaches these ports along any path, through stages but not through models."""
    for edge in stage.inputs:
        if edge.port not in ports:
            continue
        source = local.get(edge.source)
        if source is None or source.type.name == "Model":
            continue
        if source.type.name == "Data":
            yield Leaf(source, edge.view, edge.span)
        else:
            names = tuple(inner.port for inner in source.inputs)
            yield from leaves(source, names, local)


def samplers(stage: Stage, local: Local) -> Iterator[Stage]:
    """The `sample` stages behind the data of a stage."""
    for edge in stage.inputs:
        source = local.get(edge.source)
        if edge.port not in ("data", "rollouts", "prompts") or source is None:
            continue
        if source.verb == "sample":
            yield source
            if (source.settings["sampler"] or {}).get("kind") in ("probe", "module"):
                yield from samplers(source, local)  # what was gone on from is learned from too
        else:
            yield from samplers(source, local)


def input_of(stage: Stage, port: str) -> Edge | None:
    return next((edge for edge in stage.inputs if edge.port == port), None)


_FROM = {"repeat": "start", "merge": "first"}
"""The input that a model was made from, where it is not called `model`."""


def ancestry(name: str, local: Local) -> Iterator[Stage]:
    """A model, the model that it was made from, and so on to its source. A repeat stands for its
    last model; inside it, its name means the carried one."""
    found = local.get(name)
    while found is not None:
        yield found
        edge = input_of(found, _FROM.get(found.verb, "model"))
        found = local.get(edge.source) if edge is not None else None


def source_of(name: str, local: Local, known: dict[int, Stage]) -> Stage | None:
    """The last of the ancestry. `known` holds, by identity, what earlier calls found."""
    line = []
    for stage in ancestry(name, local):
        line.append(stage)
        if id(stage) in known:
            break
    if not line:
        return None
    source = known.get(id(line[-1]), line[-1])
    known.update((id(stage), source) for stage in line)
    return source


def metrics(node: Mapping[str, Any]) -> Iterator[str]:
    """The stages that a check or an `until` asks."""
    if node["op"] == "metric":
        yield node["stage"]
        return
    for child in node.get("args", ()):
        yield from metrics(child)


def statements(body: tuple[ast.Statement, ...]) -> Iterator[ast.Statement]:
    """Every statement of a body, those inside others too."""
    for statement in body:
        yield statement
        for inner in ast.bodies(statement):
            yield from statements(inner)


def nodes_of(declared: ast.PipelineDecl) -> Iterator[ast.Node]:
    return (item for item in statements(declared.body) if isinstance(item, ast.Node))


class _Nodes:
    """The nodes of the declaration asked last, by place: findings ask for many of one."""

    def __init__(self) -> None:
        self.declared: ast.PipelineDecl | None = None
        self.nodes: dict[Span, ast.Node] = {}

    def at(self, span: Span, declared: ast.PipelineDecl) -> ast.Node | None:
        if self.declared is not declared:
            self.nodes = {node.span: node for node in nodes_of(declared)}
            self.declared = declared
        return self.nodes.get(span)


_NODES = _Nodes()


def setting_span(stage: Stage, declared: ast.PipelineDecl, name: str) -> Span:
    """Where the file sets a setting of a stage; its call where it does not."""
    node = _NODES.at(stage.span, declared)
    if node is None:
        return stage.span
    return next((s.span for s in node.settings if s.name.name == name), node.call.span)


def value_span(stage: Stage, declared: ast.PipelineDecl, name: str) -> Span | None:
    """Where the value of a setting stands, for a fix; None where the file does not set it."""
    node = _NODES.at(stage.span, declared)
    settings = node.settings if node is not None else ()
    return next((s.value.span for s in settings if s.name.name == name), None)
