"""Names inside a pipeline: the pipeline itself and the body of a `repeat` are regions.

A region builds its nodes when they are first asked for, so that the order of statements does not
matter; a node that failed is poisoned, and what needs it is skipped in silence.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

from grape.compiler.constants import Value
from grape.compiler.graph import Edge, Stage
from grape.compiler.modules import Module
from grape.compiler.names import Refused, refuse, unknown
from grape.compiler.types import ArtifactType
from grape.dsl import ast
from grape.dsl.findings import Finding
from grape.dsl.source import Span


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What all regions of a pipeline share."""

    module: Module
    project: Path
    params: dict[str, Value]
    findings: list[Finding]
    seed: int


@dataclass(frozen=True, slots=True)
class Found:
    """What an input expression means."""

    name: str
    view: str | None
    type: ArtifactType
    made_at: Span

    def edge(self, port: str, span: Span) -> Edge:
        return Edge(port, self.name, self.view, span)


@dataclass(slots=True, eq=False)
class Region:
    """Named nodes, and those built so far in an order in which inputs come first."""

    pipeline: Pipeline
    nodes: dict[str, ast.Node | ast.Repeat]
    build: Callable[[ast.Node | ast.Repeat, Region], Stage]
    stages: dict[str, Stage | None] = field(default_factory=dict)
    order: list[Stage] = field(default_factory=list)
    open: list[str] = field(default_factory=list)
    parent: Region | None = None
    carry: ast.Ident | None = None
    start: Found | None = None
    outside: dict[str, Span] = field(default_factory=dict)
    """Names of outer stages that a body uses, and where first."""

    def stage(self, name: str, span: Span) -> Stage:
        """The stage of a name, built when it is not yet. Raises `Refused`."""
        if name in self.open:
            chain = " → ".join([*self.open[self.open.index(name) :], name])
            refuse("G112", f"these stages need each other: {chain}", span)
        if name not in self.stages:
            self.open.append(name)
            self.stages[name] = None
            try:
                made = self.build(self.nodes[name], self)
                self.stages[name] = made
                self.order.append(made)
            except Refused as refused:
                if refused.finding is not None:
                    self.pipeline.findings.append(refused.finding)
                raise Refused(None) from None
            finally:
                self.open.pop()
        made_before = self.stages[name]
        if made_before is None:
            raise Refused(None)
        return made_before

    def reference(self, span: Span) -> Edge | None:
        """The model that the enclosing repeat began with, as a reference input."""
        if self.start is None:
            return None
        self.outside.setdefault(self.start.name, span)
        return replace(self.start, view=None).edge("reference", span)


def resolve(expr: ast.Expr, region: Region) -> Found:
    """The stage, and the view of it, that an input means. Raises `Refused`."""
    match expr:
        case ast.Name(name):
            return _named(name, expr.span, region)
        case ast.Member(ast.Name(name), view):
            found = _named(name, expr.value.span, region)
            return _viewed(found, view)
        case ast.Call(function):
            hint = f"give it a name first: `stage NAME = {function.span.text}(…)`"
            refuse("G216", "an input is the name of a stage", expr.span, hint=hint)
    refuse("G216", "an input is the name of a model, data or a stage", expr.span)


def _viewed(found: Found, view: ast.Ident) -> Found:
    if found.type.name != "Data":
        message = f"`{found.name}` has no `.{view.name}`; only data has views"
        refuse("G115", message, view.span)
    if view.name not in ("train", "test"):
        message = f"data has no `.{view.name}`"
        unknown("G115", message, view.name, view.span, ("train", "test"), listing="it has")
    if not found.type.split:
        message = f"`{found.name}` is not split, so it has no `.{view.name}`"
        hint = f"write `{found.name}` for all of it, or give the data `split = 90%`"
        refuse("G115", message, view.span, hint=hint)
    return replace(found, view=view.name)


def _named(name: str, span: Span, region: Region) -> Found:
    if region.carry is not None and name == region.carry.name:
        return Found(name, None, ArtifactType("Model"), region.carry.span)
    if name in region.nodes:
        made = region.stage(name, span)
        return Found(name, None, made.type, region.nodes[name].name.span)
    if region.parent is not None and _is_defined(name, region.parent):
        found = _named(name, span, region.parent)
        if name in ("start", "next"):
            message = f"a stage that a repeat uses cannot be called `{name}`"
            refuse("G102", message, span)
        region.outside.setdefault(name, span)
        return found
    _complain(name, span, region)


def _is_defined(name: str, region: Region) -> bool:
    return name in region.nodes or (region.parent is not None and _is_defined(name, region.parent))


def _complain(name: str, span: Span, region: Region) -> NoReturn:
    pipeline = region.pipeline
    if name in pipeline.params:
        refuse("G216", f"`{name}` is a parameter; an input is a model, data or a stage", span)
    module = pipeline.module
    if name in module.declared or name in module.imported:
        refuse("G216", f"`{name}` is no stage; an input is a model, data or a stage", span)
    top = region
    known = [*region.nodes, *([region.carry.name] if region.carry else [])]
    while top.parent is not None:
        top = top.parent
        known += top.nodes
    for node in top.nodes.values():
        if isinstance(node, ast.Repeat) and name in _names_in(node):
            message = f"`{name}` exists only inside `repeat … with {node.name.name}`"
            hint = f"after the repeat, `{node.name.name}` is its last model"
            refuse("G117", message, span, hint=hint)
    unknown("G101", f"there is no `{name}` here", name, span, known)


def _names_in(node: ast.Repeat) -> list[str]:
    return [inner.name.name for inner in node.body if isinstance(inner, ast.Node)]
