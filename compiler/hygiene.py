"""Findings about a graph as a whole: leaks, wasted work, settings that cannot do what they should.

In comes a checked graph, out come findings; nothing is changed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from grape.compiler.graph import Graph, Stage
from grape.dsl import ast
from grape.dsl.findings import Finding, Label
from grape.dsl.source import Span


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
        return (self.data.verb, *(str(settings[key]) for key in ("name", "options", "seed")))

    def shares_with(self, other: Leaf) -> bool:
        """Whether both may hold the same item: not where one split keeps them apart."""
        if self.identity != other.identity:
            return False
        cuts = [(leaf.data.settings["split"], leaf.data.settings["seed"]) for leaf in (self, other)]
        return {self.view, other.view} != {"train", "test"} or cuts[0] != cuts[1]


Local = dict[str, Stage]


def check_graph(graph: Graph, declared: ast.PipelineDecl) -> Iterator[Finding]:
    """All findings about a graph."""
    scopes = list(_scopes(graph))
    leaks = list(_leaks(scopes))
    yield from leaks
    if not leaks:
        yield from _trained_and_evaluated(graph)
    for stage, _ in scopes:
        yield from _settings(stage, declared)
    yield from _unused(graph, declared)
    yield from _paths(graph)
    yield from check_groups(graph, declared)


def _scopes(graph: Graph) -> Iterator[tuple[Stage, Local]]:
    """Every stage, with the stages that its inputs may name."""
    top = {stage.name: stage for stage in graph.stages}
    for stage in graph.stages:
        yield stage, top
        inside = {**top, **{inner.name: inner for inner in stage.body}}
        for inner in stage.body:
            yield inner, inside


def _leaves(stage: Stage, ports: tuple[str, ...], local: Local) -> Iterator[Leaf]:
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
            yield from _leaves(source, names, local)


def _training(scopes: list[tuple[Stage, Local]]) -> Iterator[tuple[Stage, Leaf]]:
    for stage, local in scopes:
        if stage.verb == "train":
            for leaf in _leaves(stage, ("data",), local):
                yield stage, leaf


def _leaks(scopes: list[tuple[Stage, Local]]) -> Iterator[Finding]:
    seen: set[Span] = set()
    for stage, leaf in _training(scopes):
        if leaf.view != "test" or leaf.span in seen:
            continue
        seen.add(leaf.span)
        name = leaf.data.name
        message = f"`{name}.test` is held out for evaluation, and here it reaches training"
        labels: tuple[Label, ...] = ()
        if leaf.span.start < stage.span.start or leaf.span.end > stage.span.end:
            labels = (Label(stage.span, "the training that it reaches"),)
        yield Finding("G601", message, leaf.span, labels, hint=f"train on `{name}.train`")


def _trained_and_evaluated(graph: Graph) -> Iterator[Finding]:
    """Evaluations of models on items that made them: by training, or by ending their repeat."""
    for stage, local, home in _evaluations(graph):
        for leaf in _leaves(stage, ("prompts",), local):
            made = _makers(stage, "model", local, home)
            other, trained = next(
                ((one, how) for one, how in made if leaf.shares_with(one)), (None, True)
            )
            if other is None:
                continue
            name = leaf.data.name if leaf.view is None else f"{leaf.data.name}.{leaf.view}"
            message = f"`{name}` is trained on too, so this evaluation measures memory"
            labels = (Label(other.span, "trained on here"),)
            hint = "evaluate on items that no training sees: `split = 90%` gives `.test`"
            if not trained:
                message = f"`{name}` decides when the repeat ends, so this score flatters the model"
                labels = (Label(other.span, "`until` asks this evaluation"),)
                hint = "let `until` ask other items: a data set of its own, or the rewards"
            elif leaf.view != other.view and leaf.view is not None and other.view is not None:
                hint = "both are cut from the same rows, by different splits or seeds"
            yield Finding("G602", message, leaf.span, labels, hint=hint)


def _evaluations(graph: Graph) -> Iterator[tuple[Stage, Local, str | None]]:
    """Every `evaluate`, what its inputs may name, and the repeat that it lies in."""
    top = {stage.name: stage for stage in graph.stages}
    for stage in graph.stages:
        if stage.verb == "evaluate":
            yield stage, top, None
        for inner in stage.body:
            if inner.verb == "evaluate":
                yield inner, {**top, **{other.name: other for other in stage.body}}, stage.name


def _makers(stage: Stage, port: str, local: Local, home: str | None) -> Iterator[tuple[Leaf, bool]]:
    """The data that made the model of a port: trained on (True), or asked by an `until` (False).
    An evaluation inside a repeat, `home`, may well be what its own `until` asks."""
    for edge in stage.inputs:
        model = local.get(edge.source)
        if edge.port != port or model is None:
            continue
        if model.verb == "train":
            yield from ((leaf, True) for leaf in _leaves(model, ("data",), local))
            yield from _makers(model, "model", local, home)
        elif model.verb == "repeat":
            inside = {**local, **{inner.name: inner for inner in model.body}}
            asked = {name for until in model.until for name in _metrics(until.test)}
            for inner in model.body:
                if inner.verb == "train":
                    yield from ((leaf, True) for leaf in _leaves(inner, ("data",), inside))
                elif inner.name in asked and inner.verb == "evaluate" and model.name != home:
                    yield from ((leaf, False) for leaf in _leaves(inner, ("prompts",), inside))
            yield from _makers(model, "start", local, home)
        elif model.verb == "merge":
            for name in ("first", "second", "third", "fourth"):
                yield from _makers(model, name, local, home)


def _setting_span(stage: Stage, declared: ast.PipelineDecl, name: str) -> Span:
    for node in _nodes(declared.body):
        if node.span == stage.span:
            for setting in node.settings:
                if setting.name.name == name:
                    return setting.span
            return node.call.span
    return stage.span


def _nodes(body: tuple[ast.Statement, ...]) -> Iterator[ast.Node]:
    for statement in body:
        if isinstance(statement, ast.Node):
            yield statement
        for inner in ast.bodies(statement):
            yield from _nodes(inner)


def _settings(stage: Stage, declared: ast.PipelineDecl) -> Iterator[Finding]:
    settings = stage.settings
    if stage.verb == "train":
        lr = settings["lr"]
        full = settings["adapter"] is None
        if lr == 0 or lr >= (1e-2 if full else 1e-1):
            why = "nothing is learned" if lr == 0 else "it destroys a pretrained model"
            span = _setting_span(stage, declared, "lr")
            yield Finding("G402", f"a learning rate of {lr:g} is implausible: {why}", span)
    if stage.verb == "sample" and settings["temperature"] == 0 and settings["group"] > 1:
        message = f"at temperature 0 all {settings['group']} completions of a prompt are the same"
        span = _setting_span(stage, declared, "temperature")
        yield Finding("G404", message, span, hint="raise the temperature or set `group = 1`")


def check_groups(graph: Graph, declared: ast.PipelineDecl) -> Iterator[Finding]:
    """An algorithm that compares the completions of a prompt, given one completion of each."""
    for stage, local in _scopes(graph):
        if stage.verb != "train" or stage.formula is None or not _compares(stage):
            continue
        for source in _samplers(stage, local):
            if source.settings["group"] == 1:
                name = stage.formula.name
                message = f"`{name}` compares completions of one prompt, `group = 1` gives one each"
                span = _setting_span(source, declared, "group")
                labels = (Label(stage.span, f"trained with `{name}` here"),)
                yield Finding("G401", message, span, labels, hint="set `group = 8`")


def _compares(stage: Stage) -> bool:
    assert stage.formula is not None
    return any(term.op == "reduce" and term.level.value == "group" for term in stage.formula.terms)


def _samplers(stage: Stage, local: Local) -> Iterator[Stage]:
    for edge in stage.inputs:
        source = local.get(edge.source)
        if edge.port not in ("data", "rollouts") or source is None:
            continue
        if source.verb == "sample":
            yield source
        else:
            yield from _samplers(source, local)


def _unused(graph: Graph, declared: ast.PipelineDecl) -> Iterator[Finding]:
    used = {output.source for output in graph.outputs}
    for check in graph.checks:
        used |= set(_metrics(check.test))
    for stage in graph.stages:
        used |= {edge.source for edge in stage.inputs}
        inner_used = {edge.source for inner in stage.body for edge in inner.inputs}
        inner_used |= {name for until in stage.until for name in _metrics(until.test)}
        for inner in stage.body:
            if inner.name not in inner_used and inner.name != "next":
                yield from _wasted(inner, declared)
    for stage in graph.stages:
        if stage.name not in used:
            yield from _wasted(stage, declared)


def _wasted(stage: Stage, declared: ast.PipelineDecl) -> Iterator[Finding]:
    if stage.verb in ("evaluate", "export"):
        return
    names = {node.span: node.name.span for node in _nodes(declared.body)}
    names |= {s.span: s.name.span for s in _repeats(declared.body)}
    message = f"nothing uses `{stage.name}`"
    hint = "publish it with `output`, use it, or remove it"
    yield Finding("G403", message, names[stage.span], hint=hint)


def _repeats(body: tuple[ast.Statement, ...]) -> Iterator[ast.Repeat]:
    for statement in body:
        if isinstance(statement, ast.Repeat):
            yield statement
        for inner in ast.bodies(statement):
            yield from _repeats(inner)


def _metrics(node: dict[str, Any]) -> Iterator[str]:
    if node["op"] == "metric":
        yield node["stage"]
        return
    for child in node.get("args", ()):
        yield from _metrics(child)


def _paths(graph: Graph) -> Iterator[Finding]:
    seen: dict[str, Span] = {}
    exports = [
        (stage.settings["path"], stage.span) for stage in graph.stages if stage.verb == "export"
    ]
    for path, span in [*((out.path, out.span) for out in graph.outputs), *exports]:
        plain = path.rstrip("/").removeprefix("./")
        if plain in seen and seen[plain] == span:
            message = f'every copy writes "{path}"; the last would replace the others'
            hint = "put the value into the path, for example `models/{lr}`"
            yield Finding("G221", message, span, hint=hint)
        elif plain in seen:
            message = f'"{path}" is written twice; the second would replace the first'
            yield Finding("G221", message, span, (Label(seen[plain], "first written here"),))
        seen.setdefault(plain, span)
