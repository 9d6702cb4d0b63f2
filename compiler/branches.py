"""Branches that no run takes: checked all the same, and kept to be shown.

For each branch of an `if` that is left out, the pipeline is built once more as if it were taken;
what is found inside it about names and types is told, what depends on values that it would never
run with is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from grape.compiler.graph import Skipped, Stage
from grape.compiler.regions import Region, Skip
from grape.compiler.types import ArtifactType
from grape.dsl import ast
from grape.dsl.findings import Finding
from grape.dsl.source import Span

VALUES = frozenset(
    {"G110", "G111", "G113", "G202", "G205", "G208", "G210", "G230", "G234", "G235", "G236"}
)
"""Findings that depend on the values of parameters, on files or on the environment."""

Forced = dict[Span, bool]
World = tuple[list[Finding], list[Skip], dict[str, Region]]
"""Findings, branches left out, and the regions by name, the pipeline's own under ""."""


def check_branches(build: Callable[[Forced], World], skips: list[Skip]) -> list[Finding]:
    """What is wrong with names and types in the branches that are left out."""
    found: list[Finding] = []
    waiting: list[tuple[Forced, Skip]] = [({}, skip) for skip in skips]
    seen: set[frozenset[tuple[Span, bool]]] = set()
    while waiting:
        before, skip = waiting.pop()
        forced: Forced = {**before, skip.statement.span: not skip.taken}
        if frozenset(forced.items()) in seen:
            continue
        seen.add(frozenset(forced.items()))
        findings, inner, _ = build(forced)
        branch = skip.statement.no if skip.taken else skip.statement.yes
        found += [finding for finding in findings if _counts(finding, branch)]
        waiting += [(forced, other) for other in inner if _lies_in(other.statement.span, branch)]
    return found


def _counts(finding: Finding, branch: tuple[ast.Statement, ...]) -> bool:
    told = finding.code[:2] in ("G1", "G2", "G3") and finding.code not in VALUES
    return told and _lies_in(finding.span, branch)


def _lies_in(span: Span, branch: tuple[ast.Statement, ...]) -> bool:
    places = [place for statement in branch for place in _spans(statement)]
    first = min(place.start for place in places)
    last = max(place.end for place in places)
    return span.source is places[0].source and first <= span.start and span.end <= last


def _spans(statement: ast.Statement) -> Iterator[Span]:
    yield statement.span
    for body in ast.bodies(statement):
        for inner in body:
            yield from _spans(inner)


def skipped_stages(build: Callable[[Forced], World], skips: list[Skip]) -> Iterator[Skipped]:
    """The stages of the branches left out, as complete as they can be told."""
    for skip in skips:
        _, _, regions = build({skip.statement.span: not skip.taken})
        name = skip.place.region.name
        region = regions.get(name)
        for full, node in skip.names:
            key = "next" if full.startswith("next ") else full
            stage = (region and region.stages.get(key)) or _outline(full, node)
            yield Skipped(replace(stage, name=full, body=(), next=None), skip.reason, name or None)


def _outline(full: str, node: ast.Node | ast.Repeat) -> Stage:
    """A stage of which no more is known than what is written."""
    verb = "repeat"
    if isinstance(node, ast.Node):
        verb = node.call.function.span.text if isinstance(node.call, ast.Call) else "?"
    kind = {"model": "Model", "data": "Data"}.get(getattr(node, "keyword", "model"), "Stage")
    return Stage(full, verb, ArtifactType(kind), (), {}, frozenset(), node.span, doc=node.doc)
