"""Branches that no run takes: checked all the same, and kept to be shown.

For the branches of an `if` that are left out, the pipeline is built once more as if its test had
come out the other way, wherever that test stands; what is found inside them about names and types
is told, what depends on values that they would never run with is not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from grape.compiler.constants import Scope, truth
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

MAX_WORLDS = 40
"""How often a pipeline is built anew for one depth of `if`s. Where the file has more tests than
that, several of them come out the other way together, so that the time stays linear."""

Forced = Mapping[str, bool]
"""What tests, by their text, come to, whatever the parameters say."""
World = tuple[list[Finding], list[Skip], dict[str, Region]]
"""Findings, branches left out, and the regions by name, the pipeline's own under ""."""
Build = Callable[[Forced], World]


def decide(test: ast.Expr, forced: Forced, scope: Scope) -> bool:
    """What a test comes to where some are forced. Raises `Refused` when it is no true or false."""
    if not forced:
        return truth(test, scope)
    if _text(test) in forced:
        return forced[_text(test)]
    match test:
        case ast.Unary("not", operand):
            return not decide(operand, forced, scope)
        case ast.Binary("and", left, right):
            return decide(left, forced, scope) and decide(right, forced, scope)
        case ast.Binary("or", left, right):
            return decide(left, forced, scope) or decide(right, forced, scope)
    return truth(test, scope)


def _text(test: ast.Expr) -> str:
    return " ".join(test.span.text.split())


def _forced_by(test: ast.Expr, value: bool) -> dict[str, bool]:
    """All that a test says when it comes to `value`: both sides of an `and` that is true, …"""
    found = {_text(test): value}
    match test:
        case ast.Unary("not", operand):
            found |= _forced_by(operand, not value)
        case ast.Binary("and" | "or" as op, left, right) if value == (op == "and"):
            found |= _forced_by(left, value) | _forced_by(right, value)
    return found


def check_branches(build: Build, skips: list[Skip]) -> tuple[list[Finding], list[Skipped]]:
    """What is wrong with names and types in the branches that are left out, and their stages."""
    found: list[Finding] = []
    stages: dict[int, list[Skipped]] = {}
    waiting: list[tuple[Forced, Skip]] = [({}, skip) for skip in skips]
    seen: set[tuple[Span, bool]] = set()
    while waiting:
        outermost = not seen
        deeper: list[tuple[Forced, Skip]] = []
        for forced, others in _worlds(waiting):
            findings, inner, regions = build(forced)
            for skip in others:
                if outermost:
                    stages[id(skip)] = list(_stages(skip, regions))
                if (skip.statement.span, skip.taken) in seen:
                    continue
                seen.add((skip.statement.span, skip.taken))
                first, last = _extent(skip.statement.no if skip.taken else skip.statement.yes)
                found += [item for item in findings if _counts(item, first, last)]
                deeper += [
                    (forced, other)
                    for other in inner
                    if first.start <= other.statement.span.start < last.end
                ]
        waiting = deeper
    return found, [stage for skip in skips for stage in stages[id(skip)]]


def _worlds(waiting: list[tuple[Forced, Skip]]) -> Iterator[tuple[Forced, list[Skip]]]:
    """What to force, and the branches that are then taken: those of one test together."""
    groups: dict[frozenset[tuple[str, bool]], list[Skip]] = {}
    for before, skip in waiting:
        forced = {**before, **_forced_by(skip.statement.test, not skip.taken)}
        groups.setdefault(frozenset(forced.items()), []).append(skip)
    step = -(-len(groups) // MAX_WORLDS)
    for first in range(0, len(groups), max(1, step)):
        several = list(groups.items())[first : first + step]
        forced = dict(fact for facts, _ in several for fact in facts)
        yield forced, [skip for _, skips in several for skip in skips]


def _counts(finding: Finding, first: Span, last: Span) -> bool:
    told = finding.code[:2] in ("G1", "G2", "G3") and finding.code not in VALUES
    span = finding.span
    return told and span.source is first.source and first.start <= span.start < last.end


def _extent(branch: tuple[ast.Statement, ...]) -> tuple[Span, Span]:
    """The first and the last place of a branch."""
    places = [place for statement in branch for place in _spans(statement)]
    return min(places, key=lambda span: span.start), max(places, key=lambda span: span.end)


def _spans(statement: ast.Statement) -> Iterator[Span]:
    yield statement.span
    for body in ast.bodies(statement):
        for inner in body:
            yield from _spans(inner)


def _stages(skip: Skip, regions: dict[str, Region]) -> Iterator[Skipped]:
    """The stages of a branch left out, as complete as they can be told."""
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
