"""Names inside a pipeline: the pipeline itself and the body of a `repeat` are regions.

A region builds its nodes when they are first asked for, so that the order of statements does not
matter; a node that failed is poisoned, and what needs it is skipped in silence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NoReturn

from grape.compiler.constants import Value, evaluate
from grape.compiler.copies import Copy, copy_name, match
from grape.compiler.graph import Edge, Stage
from grape.compiler.modules import Module, lost
from grape.compiler.names import Refused, refuse, unknown
from grape.compiler.types import ArtifactType
from grape.dsl import ast
from grape.dsl.findings import Finding, Label
from grape.dsl.source import Span

MAX_OPEN = 60
"""How many stages may wait for one another; `inputs_first` leaves that to circles only."""


@dataclass(frozen=True, slots=True)
class Pipeline:
    """What all regions of a pipeline share."""

    module: Module
    project: Path
    findings: list[Finding]
    layers: Mapping[str, str]
    forced: Mapping[str, bool] = field(default_factory=dict)
    """What tests of `if`s, by their text, come to whatever the parameters say."""
    skips: list[Skip] = field(default_factory=list)
    lost: set[str] = field(default_factory=set)
    """Names in blocks whose head is wrong: that they are missing is no news."""


@dataclass(frozen=True, slots=True)
class Skip:
    """A branch of an `if` that is not taken, where it stands in the unfolded pipeline."""

    statement: ast.If
    taken: bool
    """What the test came to."""
    reason: str
    place: Place
    names: tuple[tuple[str, ast.Node | ast.Repeat], ...]
    """What it would have defined: full names."""
    others: tuple[str, ...]
    """Its checks and outputs, as they are written."""


@dataclass(frozen=True, slots=True, eq=False)
class Place:
    """Where a statement stands: its region, the values that it sees, the copies of `each` that it
    is part of within the region, and the rounds of the `every` around it."""

    region: Region
    values: Mapping[str, Value]
    copies: tuple[Copy, ...] = ()
    every: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Declared:
    """A node under its full name, `tuned["1e-5"]`, which is unique in its region."""

    name: str
    statement: ast.Node | ast.Repeat
    place: Place


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
    build: Callable[[Declared], Stage]
    name: str = ""
    """Of a repeat: its full name, which inside is that of the carried model."""
    nodes: dict[str, Declared] = field(default_factory=dict)
    families: dict[str, list[str]] = field(default_factory=dict)
    """Name as it is written to the full names of its copies."""
    skipped: dict[str, Skip] = field(default_factory=dict)
    """Names, plain and full, that only a branch not taken defines."""
    stages: dict[str, Stage | None] = field(default_factory=dict)
    order: list[Stage] = field(default_factory=list)
    sources: dict[str, Stage] = field(default_factory=dict)
    """Models to the model source that they descend from, as far as a merge asked."""
    open: list[str] = field(default_factory=list)
    outer: Place | None = None
    carry: ast.Ident | None = None
    start: Found | None = None
    outside: dict[str, Span] = field(default_factory=dict)
    """Names of outer stages that a body uses, and where first."""

    def inputs_first(self) -> list[str]:
        """The nodes in the order of the file, each after those that it names, so that a long chain
        written backwards needs no deep recursion."""
        order: list[str] = []
        entered: set[str] = set()
        complete: set[str] = set()
        """Plain names of which every copy is entered."""
        for first in self.nodes:
            waiting = [(first, False)]
            while waiting:
                name, ready = waiting.pop()
                if ready:
                    order.append(name)
                elif name not in entered:
                    entered.add(name)
                    waiting.append((name, True))
                    fresh = [n for n in _mentioned(self.nodes[name].statement) if n not in complete]
                    complete.update(fresh)
                    copies = [full for plain in fresh for full in self.families.get(plain, ())]
                    waiting += [(full, False) for full in reversed(copies)]
        return order

    def stage(self, name: str, span: Span) -> Stage:
        """The stage of a full name, built when it is not yet. Raises `Refused`."""
        if name in self.open:
            if self.open[-1] == name:
                refuse("G112", f"`{name}` needs itself", span)
            chain = " → ".join([*self.open[self.open.index(name) :], name])
            refuse("G112", f"these stages need each other: {chain}", span)
        if len(self.open) > MAX_OPEN:
            chain = " → ".join(self.open[:3])
            refuse("G112", f"these stages need each other: {chain} → … → {name}", span)
        if name not in self.stages:
            self.open.append(name)
            self.stages[name] = None
            try:
                made = self.build(self.nodes[name])
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


Key = tuple[Value, Span]


def resolve(expr: ast.Expr, place: Place) -> Found:
    """The stage, and the view of it, that an input means. Raises `Refused`."""
    match expr:
        case ast.Name() | ast.Index():
            return find(expr, place)
        case ast.Member((ast.Name() | ast.Index()) as inner, view):
            return _viewed(find(inner, place), view)
        case ast.Call(function):
            hint = f"give it a name first: `stage NAME = {function.span.text}(…)`"
            refuse("G216", "an input is the name of a stage", expr.span, hint=hint)
    refuse("G216", "an input is the name of a model, data or a stage", expr.span)


def find(expr: ast.Name | ast.Index, place: Place) -> Found:
    """What a name, or one copy of it (`tuned["1e-5"]`), means. Raises `Refused`."""
    base: ast.Expr = expr
    keys: list[Key] = []
    while isinstance(base, ast.Index):
        keys.append((evaluate(base.key, place.values), base.key.span))
        base = base.value
    if not isinstance(base, ast.Name):
        refuse("G216", "an input is the name of a model, data or a stage", expr.span)
    return _named(base.name, keys[::-1], expr.span, place)


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


def _named(name: str, keys: Sequence[Key], span: Span, place: Place) -> Found:
    region = place.region
    if region.carry is not None and name == region.carry.name:
        if keys:
            refuse("G121", f"inside its repeat, `{name}` is one model", span)
        judges = region.start is not None and region.start.type.judges
        return Found(region.name, None, ArtifactType("Model", judges=judges), region.carry.span)
    if name in region.families:
        declared = region.nodes[_chosen(name, keys, span, place)]
        if declared.place.every is not None and place.every is None:
            message = f"`{name}` is made only every {declared.place.every} rounds"
            hint = "use it inside its `every`, or in `until`"
            refuse("G234", message, span, hint=hint)
        made = region.stage(declared.name, span)
        return Found(declared.name, None, made.type, declared.statement.name.span)
    if region.outer is not None and is_defined(name, region.outer.region):
        found = _named(name, keys, span, region.outer)
        if found.name in ("start", "next"):
            message = f"a stage that a repeat uses cannot be called `{found.name}`"
            refuse("G102", message, span)
        region.outside.setdefault(found.name, span)
        return found
    _complain(name, span, place)


def is_defined(name: str, region: Region) -> bool:
    """Whether a name means something in a region or around it."""
    if name in region.families:
        return True
    return region.outer is not None and is_defined(name, region.outer.region)


def _chosen(name: str, keys: Sequence[Key], span: Span, place: Place) -> str:
    """The full name of the copy that is meant: that of the same values where the use stands in the
    same `each`, else the one that the index names."""
    region = place.region
    blocks = region.nodes[region.families[name][0]].place.copies
    pairs = zip(blocks, place.copies, strict=False)
    shared = next((n for n, (a, b) in enumerate(pairs) if a.block != b.block), None)
    shared = min(len(blocks), len(place.copies)) if shared is None else shared
    if len(keys) not in (len(blocks) - shared, len(blocks)):
        _ask_which(name, keys, span, region, shared)
    fixed = [copy.text for copy in place.copies[: len(blocks) - len(keys)]]
    texts = list(fixed)
    family = [region.nodes[full].place.copies for full in region.families[name]] if keys else []
    for level, (key, key_span) in enumerate(keys, len(fixed)):
        known = list(dict.fromkeys(copies[level].text for copies in family))
        found = match(key, known)
        if found is None:
            message = f"`{name}` has no copy for that `{blocks[level].name}`"
            quoted = [f'"{text}"' for text in known]
            unknown("G121", message, f'"{key.data}"', key_span, quoted, listing="its values are")
        texts.append(found)
    full = copy_name(name, texts)
    if full not in region.nodes:
        if full in region.skipped:
            _complain_skipped(full, region.skipped[full], span)
        refuse("G121", f"there is no `{full}`", span)
    return full


def _ask_which(name: str, keys: Sequence[Key], span: Span, region: Region, shared: int) -> NoReturn:
    fulls = region.families[name]
    first = region.nodes[fulls[0]]
    blocks = first.place.copies[shared:]
    labels = (Label(first.statement.name.span, "defined here"),)
    if not blocks:
        refuse("G121", f"`{name}` has no copies here, so it takes no index", span, labels=labels)
    what = " and ".join(f"`{copy.name}`" for copy in blocks)
    shown = ", ".join(f"`{full}`" for full in fulls[:4]) + (", …" if len(fulls) > 4 else "")
    word = "say which one is meant" if not keys else "name one value of each"
    message = f"`{name}` has a copy for every {what}; {word}"
    refuse("G121", message, span, labels=labels, hint=f"its copies are {shown}")


def _complain_skipped(name: str, skip: Skip, span: Span) -> NoReturn:
    which = "when this holds" if not skip.taken else "in its `else`"
    labels = (Label(skip.statement.span, f"defined only {which}"),)
    message = f"`{name}` does not exist here: {skip.reason}"
    hint = f"define `{name}` in both branches, or use it inside the same branch"
    refuse("G120", message, span, labels=labels, hint=hint)


def _complain(name: str, span: Span, place: Place) -> NoReturn:
    region = place.region
    pipeline = region.pipeline
    if name in place.values:
        refuse("G216", f"`{name}` is a parameter; an input is a model, data or a stage", span)
    module = pipeline.module
    if name in module.declared or name in module.imported:
        refuse("G216", f"`{name}` is no stage; an input is a model, data or a stage", span)
    known = [*region.families, *([region.carry.name] if region.carry else [])]
    here: Region | None = region
    while here is not None:
        if name in here.skipped:
            _complain_skipped(name, here.skipped[name], span)
        top = here
        here = here.outer.region if here.outer is not None else None
        known += here.families if here is not None else []
    if name in pipeline.lost or lost(module, name):
        raise Refused(None)
    for declared in top.nodes.values():
        node = declared.statement
        inner = nodes_in(node.body).get(name) if isinstance(node, ast.Repeat) else None
        if inner is not None:
            policy = node.name.name
            message = f"`{name}` exists only inside `repeat … with {policy}`, once for each round"
            hint = f"after the repeat, `{policy}` is its last model"
            call = inner.call
            if isinstance(call, ast.Call) and call.function.span.text == "evaluate":
                hint += f": measure it there, with `stage last_{name} = {call.span.text}`"
            refuse("G117", message, span, hint=hint)
    unknown("G101", f"there is no `{name}` here", name, span, known)


def _mentioned(statement: ast.Node | ast.Repeat) -> Iterator[str]:
    """The names in a node, in the order of the file; those that are no nodes too."""
    open_: list[ast.Expr] = []
    if isinstance(statement, ast.Repeat):
        open_ = [statement.start]
        for inner in statement.body:
            open_ += _expressions(inner)
    else:
        open_ = _expressions(statement)
    open_.reverse()
    while open_:
        expr = open_.pop()
        if isinstance(expr, ast.Name):
            yield expr.name
        open_ += reversed(list(ast.inside(expr)))


def _expressions(statement: ast.Statement) -> list[ast.Expr]:
    if isinstance(statement, ast.Node):
        return [statement.call, *(setting.value for setting in statement.settings)]
    return [found for body in ast.bodies(statement) for s in body for found in _expressions(s)]


def nodes_in(body: tuple[ast.Statement, ...]) -> dict[str, ast.Node]:
    nodes: dict[str, ast.Node] = {}
    for statement in body:
        if isinstance(statement, ast.Node):
            nodes[statement.name.name] = statement
        for inner in ast.bodies(statement):
            nodes |= nodes_in(inner)
    return nodes
