"""A pipeline becomes a typed graph: regions, repeats, checks and outputs.

In comes a declaration with the values of its parameters, out comes a `Graph`, or None when
something in it is wrong; findings are collected on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TypeVar

from grape.compiler.checks import compile_check
from grape.compiler.constants import Value, evaluate, show
from grape.compiler.graph import Check, Edge, Graph, Output, Stage
from grape.compiler.modules import Module
from grape.compiler.names import Refused, not_executed, refuse
from grape.compiler.regions import Pipeline, Region, resolve
from grape.compiler.stages import build_stage
from grape.compiler.types import ArtifactType
from grape.dsl import ast
from grape.dsl.findings import Finding, Label
from grape.dsl.source import Span

T = TypeVar("T")


def build_graph(
    declared: ast.PipelineDecl,
    module: Module,
    project: Path,
    values: Mapping[str, Value],
    layers: Mapping[str, str],
    findings: list[Finding],
) -> Graph | None:
    """The graph of a pipeline, or None when there are findings that make it meaningless."""
    before = len(findings)
    seed = values.get("seed")
    pipeline = Pipeline(
        module,
        project,
        dict(values),
        findings,
        seed.data if seed is not None and seed.kind == "int" else 0,
    )
    region = Region(pipeline, {}, _build)
    _declare(declared.body, region)
    for name, node in region.nodes.items():
        _attempt(findings, partial(region.stage, name, node.name.span))
    outputs = [
        _attempt(findings, partial(_output, s, region))
        for s in declared.body
        if isinstance(s, ast.Output)
    ]
    checks = [
        _attempt(findings, partial(_check, s, region))
        for s in declared.body
        if isinstance(s, ast.Check)
    ]
    if None in region.stages.values() or None in outputs or None in checks:
        assert len(findings) > before or None in module.imported.values()
        return None
    return Graph(
        pipeline=declared.name.name,
        params={name: value.plain() for name, value in values.items()},
        layers=dict(layers),
        stages=tuple(region.order),
        checks=tuple(check for check in checks if check),
        outputs=tuple(output for output in outputs if output),
        span=declared.span,
    )


def _attempt(findings: list[Finding], work: Callable[[], T]) -> T | None:
    try:
        return work()
    except Refused as refused:
        if refused.finding is not None:
            findings.append(refused.finding)
        return None


_LATER: dict[type, str] = {
    ast.Each: "`each`",
    ast.If: "`if`",
    ast.Every: "`every`",
    ast.Until: "`until`",
}


def _declare(body: tuple[ast.Statement, ...], region: Region) -> None:
    """Enter the nodes of a body into its region; refuse what cannot stand there."""
    findings = region.pipeline.findings
    for statement in body:
        _attempt(findings, partial(_enter, statement, region))


def _enter(statement: ast.Statement, region: Region) -> None:
    if type(statement) in _LATER:
        not_executed(_LATER[type(statement)], _head(statement))
    inside = region.carry is not None
    if inside and isinstance(statement, ast.Repeat):
        not_executed("a `repeat` inside a `repeat`", _head(statement))
    if inside and isinstance(statement, ast.Check | ast.Output):
        refuse("G217", "checks and outputs stand after the repeat, not inside", statement.span)
    if not isinstance(statement, ast.Node | ast.Repeat):
        return
    name = statement.name
    if isinstance(statement, ast.Node):
        if inside and statement.keyword in ("model", "data"):
            message = f"`{statement.keyword} {name.name}` must be declared outside the repeat"
            refuse("G217", message, name.span)
        if statement.keyword == "next":
            if not inside:
                refuse("G217", "`next` belongs inside a `repeat`", name.span)
            return
    _fresh_name(name, region)
    region.nodes[name.name] = statement


def _head(statement: ast.Statement) -> Span:
    """The first word of a statement, for findings about the statement as a whole."""
    span = statement.span
    word = span.text.split(maxsplit=1)[0]
    return Span(span.source, span.start, span.start + len(word))


def _fresh_name(name: ast.Ident, region: Region) -> None:
    if name.name in region.pipeline.params:
        refuse("G107", f"`{name.name}` is already a parameter of this pipeline", name.span)
    if region.carry is not None and name.name == region.carry.name:
        labels = (Label(region.carry.span, "the model of the repeat"),)
        message = f"`{name.name}` is the model of this repeat; write `next {name.name} = …`"
        refuse("G102", message, name.span, labels=labels)
    outer: Region | None = region
    while outer is not None:
        if name.name in outer.nodes:
            labels = (Label(outer.nodes[name.name].name.span, "first defined here"),)
            refuse("G102", f"`{name.name}` is defined twice", name.span, labels=labels)
        outer = outer.parent


def _build(node: ast.Node | ast.Repeat, region: Region) -> Stage:
    return _repeat(node, region) if isinstance(node, ast.Repeat) else build_stage(node, region)


def _repeat(node: ast.Repeat, region: Region) -> Stage:
    pipeline = region.pipeline
    before = len(pipeline.findings)
    rounds = evaluate(node.count, pipeline.params)
    if rounds.kind != "int" or rounds.data < 1:
        message = f"`repeat` needs a whole number of rounds of at least 1, not {show(rounds)}"
        refuse("G202", message, node.count.span)
    start = resolve(node.start, region)
    if start.type.name != "Model":
        message = f"`repeat` carries a model, `{start.name}` is {start.type}"
        labels = (Label(start.made_at, "made here"),)
        refuse("G201", message, node.start.span, labels=labels)
    body = Region(pipeline, {}, _build, parent=region, carry=node.name, start=start)
    _declare(node.body, body)
    step = _next_of(node)
    for name, inner in body.nodes.items():
        _attempt(pipeline.findings, partial(body.stage, name, inner.name.span))
    body.nodes["next"] = step
    made = _attempt(pipeline.findings, lambda: body.stage("next", step.span))
    if made is None or len(pipeline.findings) > before:
        raise Refused(None)
    for inner_stage in body.order:
        _check_trained(inner_stage, node.name.name)
    edges = [start.edge("start", node.start.span)]
    edges += [Edge(name, name, None, span) for name, span in body.outside.items()]
    return Stage(
        name=node.name.name,
        verb="repeat",
        type=ArtifactType("Model"),
        inputs=tuple(edges),
        settings={"rounds": rounds.data},
        given=frozenset({"rounds"}),
        span=node.span,
        doc=node.doc,
        body=tuple(body.order),
        next="next",
    )


def _check_trained(stage: Stage, carry: str) -> None:
    """A repeat trains its carried model in place; any other training would change a model that
    other stages, or the next round, still take for what it was."""
    if stage.verb != "train":
        return
    if stage.name != "next":
        message = f"inside a repeat only `next {carry}` trains"
        hint = "train the other model before the repeat, or give it a repeat of its own"
        refuse("G217", message, stage.span, hint=hint)
    edge = next(edge for edge in stage.inputs if edge.port == "model")
    if edge.source != carry:
        message = f"`next {carry}` trains the carried model: `train({carry}, …)`"
        refuse("G217", message, edge.span)


def _next_of(node: ast.Repeat) -> ast.Node:
    steps = [s for s in node.body if isinstance(s, ast.Node) and s.keyword == "next"]
    name = node.name.name
    if not steps:
        message = f"the repeat never makes the next `{name}`"
        hint = f"end its body with `next {name} = train({name}, …)`"
        refuse("G217", message, _head(node), hint=hint)
    if len(steps) > 1:
        labels = (Label(steps[0].name.span, "the first one"),)
        refuse("G217", "a repeat has one `next`", steps[1].name.span, labels=labels)
    if steps[0].name.name != name:
        message = f"this repeat carries `{name}`: write `next {name} = …`"
        refuse("G217", message, steps[0].name.span, labels=(Label(node.name.span, "here"),))
    step = steps[0]
    if isinstance(step.call, ast.Call) and step.call.function != ast.Name("train", step.span):
        function = step.call.function.span
        refuse("G217", f"`next {name}` must be a `train`: it makes the next model", function)
    return step


def _output(statement: ast.Output, region: Region) -> Output:
    found = resolve(statement.value, region)
    if found.type.name != "Model":
        message = f"an output is a model, `{found.name}` is {found.type}"
        labels = (Label(found.made_at, "made here"),)
        refuse("G219", message, statement.value.span, labels=labels)
    return Output(found.name, found.view, statement.path.value, statement.span)


def _check(statement: ast.Check, region: Region) -> Check:
    def find(name: str, span: Span) -> Stage | None:
        if name not in region.nodes:
            resolve(ast.Name(name, span), region)
        return region.stage(name, span)

    test, confidence = compile_check(statement, find, region.pipeline.params)
    text = statement.span.text.removeprefix("check").strip()
    return Check(text, test, confidence, statement.span)
