"""Statements into regions: `each` makes copies, `if` keeps one branch, `every` marks its stages.

In comes a body and where it stands; its nodes go into the region, what else it says into an
`Unfolded`. Nothing is built here. A branch that is not taken is noted with its reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from grape.compiler.branches import decide
from grape.compiler.constants import evaluate, show
from grape.compiler.copies import copies_of, copy_name
from grape.compiler.names import Refused, refuse
from grape.compiler.regions import Declared, Place, Region, Skip, nodes_in
from grape.dsl import ast
from grape.dsl.findings import Finding, Label
from grape.dsl.source import Span

T = TypeVar("T")


@dataclass(slots=True)
class Unfolded:
    """What a body says beside its nodes, each with where it stands."""

    checks: list[tuple[ast.Check, Place]] = field(default_factory=list)
    outputs: list[tuple[ast.Output, Place]] = field(default_factory=list)
    untils: list[tuple[ast.Until, Place]] = field(default_factory=list)
    nexts: list[tuple[ast.Node, Place]] = field(default_factory=list)
    everies: list[tuple[int, Span]] = field(default_factory=list)


def attempt(findings: list[Finding], work: Callable[[], T]) -> T | None:
    """What `work` gives, or None when it refuses; its finding is kept."""
    try:
        return work()
    except Refused as refused:
        if refused.finding is not None:
            findings.append(refused.finding)
        return None


def unfold(body: tuple[ast.Statement, ...], place: Place, into: Unfolded) -> None:
    """Enter the statements of a body; refuse what cannot stand there."""
    pipeline = place.region.pipeline
    for statement in body:
        before = len(pipeline.findings)
        attempt(pipeline.findings, partial(_enter, statement, place, into))
        if len(pipeline.findings) > before:
            for inner in ast.bodies(statement):
                pipeline.lost.update(nodes_in(inner))


def _enter(statement: ast.Statement, place: Place, into: Unfolded) -> None:
    inside = place.region.carry is not None
    match statement:
        case ast.Each():
            _each(statement, place, into)
        case ast.If():
            _if(statement, place, into)
        case ast.Every():
            _every(statement, place, into)
        case ast.Until():
            if not inside or place.every is not None:
                where = "inside a `repeat`" if not inside else "beside `every`, not inside"
                refuse("G234", f"`until` stands {where}: it ends the repeat", head(statement.span))
            into.untils.append((statement, place))
        case ast.Check() | ast.Output() if inside:
            refuse("G217", "checks and outputs stand after the repeat, not inside", statement.span)
        case ast.Check():
            into.checks.append((statement, place))
        case ast.Output():
            into.outputs.append((statement, place))
        case ast.Repeat() if inside:
            hint = "multiply the rounds, or let a second repeat follow the first"
            message = (
                "a `repeat` cannot stand inside a `repeat`: its model is carried by one of them"
            )
            refuse("G233", message, head(statement.span), hint=hint)
        case ast.Node() | ast.Repeat():
            _node(statement, place, into)


def _each(statement: ast.Each, place: Place, into: Unfolded) -> None:
    name = statement.name.name
    if name in place.values:
        refuse("G107", f"`{name}` already has a value here", statement.name.span)
    copies = copies_of(statement, place.values)
    if place.region.carry is not None:  # the key of a repeat must not know the order of the list
        copies.sort(key=lambda copy: copy.text)
    for copy in copies:
        values = {**place.values, name: copy.value}
        inner = replace(place, values=values, copies=(*place.copies, copy))
        unfold(statement.body, inner, into)


def _if(statement: ast.If, place: Place, into: Unfolded) -> None:
    pipeline = place.region.pipeline
    taken = decide(statement.test, pipeline.forced, place.values)
    unfold(statement.yes if taken else statement.no, place, into)
    left = statement.no if taken else statement.yes
    if not left:
        return
    names = tuple(_names(left, place))
    reason = _reason(statement, taken, place)
    skip = Skip(statement, taken, reason, place, names, tuple(_others(left)))
    pipeline.skips.append(skip)
    for full, node in names:
        for name in (full, node.name.name):
            place.region.skipped.setdefault(name, skip)


def _names(
    body: tuple[ast.Statement, ...], place: Place
) -> Iterator[tuple[str, ast.Node | ast.Repeat]]:
    """The full names that a branch not taken would define."""
    for statement in body:
        match statement:
            case ast.Node(keyword="next", name=name):
                yield f"next {name.name}", statement
            case ast.Node() | ast.Repeat():
                texts = [copy.text for copy in place.copies]
                yield copy_name(statement.name.name, texts), statement
            case ast.Each():
                copies = attempt([], partial(copies_of, statement, place.values)) or []
                for copy in copies:
                    values = {**place.values, copy.name: copy.value}
                    inner = replace(place, values=values, copies=(*place.copies, copy))
                    yield from _names(statement.body, inner)
            case _:
                for inner_body in ast.bodies(statement):
                    yield from _names(inner_body, place)


def _others(body: tuple[ast.Statement, ...]) -> Iterator[str]:
    for statement in body:
        if isinstance(statement, ast.Check | ast.Output):
            yield statement.span.text
        for inner in ast.bodies(statement):
            yield from _others(inner)


def _reason(statement: ast.If, taken: bool, place: Place) -> str:
    """Why a branch is not taken, down to who set the parameters."""
    layers = place.region.pipeline.layers
    names = dict.fromkeys(name for name in _used(statement.test) if name in place.values)
    said = [
        f"`{name}` is {show(place.values[name])} ({layers.get(name, 'each')})" for name in names
    ]
    came = f"`if {statement.test.span.text}` is {'true' if taken else 'false'}"
    return f"{came}: {', '.join(said)}" if said else came


def _used(expr: ast.Expr) -> Iterator[str]:
    if isinstance(expr, ast.Name):
        yield expr.name
    for inner in ast.inside(expr):
        yield from _used(inner)


def _every(statement: ast.Every, place: Place, into: Unfolded) -> None:
    if place.region.carry is None:
        refuse("G234", "`every` belongs inside a `repeat`", head(statement.span))
    if place.every is not None:
        refuse("G234", "an `every` cannot stand inside an `every`", head(statement.span))
    rounds = evaluate(statement.count, place.values)
    if rounds.kind != "int" or rounds.data < 1:
        message = f"`every` counts rounds, a whole number of at least 1, not {show(rounds)}"
        refuse("G234", message, statement.count.span)
    into.everies.append((rounds.data, statement.span))
    unfold(statement.body, replace(place, every=rounds.data), into)


def head(span: Span) -> Span:
    """The first word of a statement, for findings about the statement as a whole."""
    word = span.text.split(maxsplit=1)[0]
    return Span(span.source, span.start, span.start + len(word))


def _node(statement: ast.Node | ast.Repeat, place: Place, into: Unfolded) -> None:
    region, name = place.region, statement.name
    inside = region.carry is not None
    if isinstance(statement, ast.Node):
        if inside and statement.keyword in ("model", "data"):
            message = f"`{statement.keyword} {name.name}` must be declared outside the repeat"
            refuse("G217", message, name.span)
        if statement.keyword == "next":
            if not inside:
                refuse("G217", "`next` belongs inside a `repeat`", name.span)
            if place.every is not None or place.copies:
                message = "every round makes one next model, so `next` stands by itself"
                refuse("G217", message, name.span)
            into.nexts.append((statement, place))
            return
    full = copy_name(name.name, [copy.text for copy in place.copies])
    _check_free(name, full, place)
    region.nodes[full] = Declared(full, statement, place)
    region.families.setdefault(name.name, []).append(full)


def _check_free(name: ast.Ident, full: str, place: Place) -> None:
    region = place.region
    if name.name in place.values:
        refuse("G107", f"`{name.name}` is already a parameter of this pipeline", name.span)
    if region.carry is not None and name.name == region.carry.name:
        labels = (Label(region.carry.span, "the model of the repeat"),)
        message = f"`{name.name}` is the model of this repeat; write `next {name.name} = …`"
        refuse("G102", message, name.span, labels=labels)
    blocks = [copy.block for copy in place.copies]
    here: Region | None = region
    while here is not None:
        for other in here.families.get(name.name, ())[:1]:  # the others stand in the same blocks
            first = here.nodes.get(full) or here.nodes[other]
            copies = here is region and blocks == [c.block for c in first.place.copies]
            if full in here.nodes or not copies:
                labels = (Label(first.statement.name.span, "first defined here"),)
                refuse("G102", f"`{name.name}` is defined twice", name.span, labels=labels)
        here = here.outer.region if here.outer is not None else None
