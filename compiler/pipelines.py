"""A pipeline becomes a typed graph: regions, repeats, checks and outputs.

In comes a declaration with the values of its parameters, out comes a `Graph`, or None when
something in it is wrong; findings are collected on the way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from grape.compiler.branches import Forced, World, check_branches
from grape.compiler.checks import compile_check, compile_until
from grape.compiler.constants import Value, evaluate, show
from grape.compiler.copies import Copy, fill_path
from grape.compiler.graph import Check, Edge, Graph, Output, Stage, Until
from grape.compiler.modules import Module
from grape.compiler.names import Refused, refuse
from grape.compiler.regions import Declared, Pipeline, Place, Region, find, is_defined, resolve
from grape.compiler.settings import check_settings
from grape.compiler.stages import build_stage
from grape.compiler.types import ArtifactType
from grape.compiler.unfolding import Unfolded, attempt, head, unfold
from grape.compiler.verbs.repeat import RepeatSettings
from grape.dsl import ast
from grape.dsl.findings import Finding, Label


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
    made = _Work(Pipeline(module, project, findings, layers), values)
    outputs, checks = made.build(declared)
    skips = made.pipeline.skips

    def world(forced: Forced) -> World:
        other = _Work(Pipeline(module, project, [], layers, forced), values)
        other.build(declared)
        return other.pipeline.findings, other.pipeline.skips, other.regions

    found, skipped = check_branches(world, skips)
    findings += found
    region = made.regions[""]
    if None in region.stages.values() or None in outputs or None in checks:
        known = None in module.imported.values() or module.file.damaged
        assert len(findings) > before or known
        return None
    return Graph(
        pipeline=declared.name.name,
        params={name: value.plain() for name, value in values.items()},
        layers=dict(layers),
        stages=tuple(region.order),
        checks=tuple(check for check in checks if check),
        outputs=tuple(output for output in outputs if output),
        span=declared.span,
        doc=declared.doc,
        skipped=tuple(skipped),
        left_out=tuple(f"{text}  ({skip.reason})" for skip in skips for text in skip.others),
    )


class _Work:
    """One building of a pipeline; `regions` are its own, under "", and those of its repeats."""

    def __init__(self, pipeline: Pipeline, values: Mapping[str, Value]) -> None:
        self.pipeline = pipeline
        self.values = values
        self.regions: dict[str, Region] = {}

    def build(self, declared: ast.PipelineDecl) -> tuple[list[Output | None], list[Check | None]]:
        """Build every stage, then what is said about them."""
        findings = self.pipeline.findings
        region = self.regions[""] = Region(self.pipeline, self._node)
        said = Unfolded()
        unfold(declared.body, Place(region, self.values), said)
        for name in region.inputs_first():
            span = region.nodes[name].statement.name.span
            attempt(findings, partial(region.stage, name, span))
        outputs = [attempt(findings, partial(_output, *found)) for found in said.outputs]
        checks = [attempt(findings, partial(_check, *found)) for found in said.checks]
        return outputs, checks

    def _node(self, declared: Declared) -> Stage:
        if isinstance(declared.statement, ast.Repeat):
            return self._repeat(declared.statement, declared)
        return build_stage(declared.statement, declared)

    def _repeat(self, node: ast.Repeat, declared: Declared) -> Stage:
        findings = self.pipeline.findings
        before = len(findings)
        place = declared.place
        rounds = evaluate(node.count, place.values)
        if rounds.kind != "int" or rounds.data < 1:
            message = f"`repeat` needs a whole number of rounds of at least 1, not {show(rounds)}"
            refuse("G202", message, node.count.span)
        settings, given = check_settings(
            "repeat", RepeatSettings, node.settings, place.values, head(node.span)
        )
        start = resolve(node.start, place)
        if start.type.name != "Model":
            message = f"`repeat` carries a model, `{start.name}` is {start.type}"
            labels = (Label(start.made_at, "made here"),)
            refuse("G201", message, node.start.span, labels=labels)
        if start.type.served:
            name = start.name
            message = f"`{name}` is a served model, and a repeat trains the model that it carries"
            labels = (Label(start.made_at, "made here"),)
            refuse("G250", message, node.start.span, labels=labels)
        body = Region(
            self.pipeline, self._node, declared.name, outer=place, carry=node.name, start=start
        )
        self.regions[declared.name] = body
        said = Unfolded()
        unfold(node.body, Place(body, place.values), said)
        untils = self._body(node, body, said)
        if len(findings) > before:
            raise Refused(None)
        _warn_never(said, rounds.data, findings)
        edges = [start.edge("start", node.start.span)]
        edges += [Edge(name, name, None, span) for name, span in body.outside.items()]
        return Stage(
            name=declared.name,
            verb="repeat",
            type=ArtifactType("Model", judges=body.stage("next", node.name.span).type.judges),
            inputs=tuple(edges),
            settings={"rounds": rounds.data, **settings},
            given=given | {"rounds"},
            span=node.span,
            doc=node.doc,
            body=tuple(sorted(body.order, key=lambda stage: stage.every is not None)),
            next="next",
            until=tuple(until for until in untils if until),
        )

    def _body(self, node: ast.Repeat, body: Region, said: Unfolded) -> list[Until | None]:
        """Build the stages of a repeat; findings say what went wrong."""
        findings = self.pipeline.findings
        step, step_place = _next_of(node, said)
        for name in body.inputs_first():
            span = body.nodes[name].statement.name.span
            attempt(findings, partial(body.stage, name, span))
        body.nodes["next"] = Declared("next", step, step_place)
        made = attempt(findings, lambda: body.stage("next", step.span))
        if made is None:
            raise Refused(None)
        for inner_stage in body.order:
            _check_trained(inner_stage, node.name.name, body.name)
        return [attempt(findings, partial(_until, *found)) for found in said.untils]


def _warn_never(said: Unfolded, rounds: int, findings: list[Finding]) -> None:
    for every, span in said.everies:
        if every > rounds:
            message = f"`every {every}` never comes in {rounds} rounds"
            hint = "take a smaller number, or evaluate after the repeat"
            findings.append(Finding("G235", message, span, hint=hint))


def _check_trained(stage: Stage, carry: str, full: str) -> None:
    """A repeat trains its carried model in place; any other training would change a model that
    other stages, or the next round, still take for what it was."""
    if stage.every is not None and stage.verb in ("export", "merge"):
        message = f"`every` measures; `{stage.verb}` stands after the repeat"
        refuse("G234", message, stage.span)
    if stage.verb == "merge":
        message = "a merge stands outside a repeat: inside, the model is trained in place"
        refuse("G217", message, stage.span)
    if stage.verb != "train":
        return
    if stage.name != "next":
        message = f"inside a repeat only `next {carry}` trains"
        hint = "train the other model before the repeat, or give it a repeat of its own"
        refuse("G217", message, stage.span, hint=hint)
    edge = next(edge for edge in stage.inputs if edge.port == "model")
    if edge.source != full:
        message = f"`next {carry}` trains the carried model: `train({carry}, …)`"
        refuse("G217", message, edge.span)


def _next_of(node: ast.Repeat, said: Unfolded) -> tuple[ast.Node, Place]:
    steps = said.nexts
    name = node.name.name
    if not steps:
        message = f"the repeat never makes the next `{name}`"
        hint = f"end its body with `next {name} = train({name}, …)`"
        refuse("G217", message, head(node.span), hint=hint)
    if len(steps) > 1:
        labels = (Label(steps[0][0].name.span, "the first one"),)
        refuse("G217", "a repeat has one `next`", steps[1][0].name.span, labels=labels)
    step, place = steps[0]
    if step.name.name != name:
        message = f"this repeat carries `{name}`: write `next {name} = …`"
        refuse("G217", message, step.name.span, labels=(Label(node.name.span, "here"),))
    if isinstance(step.call, ast.Call) and step.call.function != ast.Name("train", step.span):
        function = step.call.function.span
        refuse("G217", f"`next {name}` must be a `train`: it makes the next model", function)
    return step, place


def _output(statement: ast.Output, place: Place) -> Output:
    found = resolve(statement.value, place)
    if found.type.name != "Model":
        message = f"an output is a model, `{found.name}` is {found.type}"
        labels = (Label(found.made_at, "made here"),)
        refuse("G219", message, statement.value.span, labels=labels)
    if found.type.served:
        message = f"`{found.name}` is a served model: its weights are not here to be published"
        refuse("G250", message, statement.value.span)
    path = fill_path(statement.path.value, place.values, statement.path.span)
    return Output(found.name, found.view, path, statement.span)


def _stage_of(expr: ast.Expr, place: Place) -> Stage | None:
    """The stage that an expression names; None when it names none."""
    base = expr
    while isinstance(base, ast.Index):
        base = base.value
    if not isinstance(expr, ast.Name | ast.Index) or not isinstance(base, ast.Name):
        return None
    if base.name in place.values and not is_defined(base.name, place.region):
        return None
    name = find(expr, place).name
    region: Region | None = place.region
    while region is not None and name not in region.nodes:
        region = region.outer.region if region.outer else None
    return region.stage(name, expr.span) if region is not None else None


def _check(statement: ast.Check, place: Place) -> Check:
    test, confidence = compile_check(statement, lambda expr: _stage_of(expr, place), place.values)
    text = statement.span.text.removeprefix("check").strip() + _which(place.copies)
    return Check(text, test, confidence, statement.span, statement.doc)


def _which(copies: tuple[Copy, ...]) -> str:
    said = ", ".join(f"{copy.name} = {copy.text}" for copy in copies)
    return f"  [{said}]" if said else ""


def _until(statement: ast.Until, place: Place) -> Until:
    inside = replace(place, every=1)  # what `every` made can be asked
    carry = place.region.carry

    def stage_of(expr: ast.Expr) -> Stage | None:
        if carry is not None and expr == ast.Name(carry.name, expr.span):
            return place.region.stage("next", expr.span)
        return _stage_of(expr, inside)

    test = compile_until(statement, stage_of, place.values, frozenset(place.region.nodes))
    return Until(statement.test.span.text + _which(place.copies), test)
