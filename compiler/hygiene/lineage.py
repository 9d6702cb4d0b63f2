"""Where data and models come from: leaks, references of another line, rollouts of another model."""

from __future__ import annotations

from collections.abc import Iterator

from grape.compiler.graph import Graph, Stage
from grape.compiler.hygiene.walk import (
    Leaf,
    Local,
    Scope,
    ancestry,
    input_of,
    leaves,
    metrics,
    samplers,
    scopes_of,
    within,
)
from grape.dsl import ast
from grape.dsl.findings import Edit, Finding, Fix, Label
from grape.dsl.source import Span


def check_lineage(graph: Graph, declared: ast.PipelineDecl) -> Iterator[Finding]:
    """Leaks (G601, G602), references (G423, G424), rollouts of another model (G427)."""
    scopes = list(scopes_of(graph))
    leaks = list(_leaks(scopes))
    yield from leaks
    if not leaks:
        yield from _trained_and_evaluated(graph)
    for scope in scopes:
        if scope.stage.verb == "train":
            yield from _reference(scope)
            yield from _off_policy(scope)


def _training(scopes: list[Scope]) -> Iterator[tuple[Stage, Leaf]]:
    for scope in scopes:
        if scope.stage.verb == "train":
            for leaf in leaves(scope.stage, ("data",), scope.local):
                yield scope.stage, leaf


def _leaks(scopes: list[Scope]) -> Iterator[Finding]:
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
        fix = Fix(f"train on `{name}.train`", (Edit(leaf.span, f"{name}.train"),), safe=False)
        yield Finding("G601", message, leaf.span, labels, fix=fix)


def _trained_and_evaluated(graph: Graph) -> Iterator[Finding]:
    """Evaluations of models on items that made them: by training, or by ending their repeat."""
    for stage, local, home in _evaluations(graph):
        for leaf in leaves(stage, ("prompts",), local):
            made = _makers(stage, local, home)
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
                yield inner, within(stage, top), stage.name


def _makers(stage: Stage, local: Local, home: str | None) -> Iterator[tuple[Leaf, bool]]:
    """The data that made the model of a stage: trained on (True), or asked by an `until` (False).
    An evaluation inside a repeat, `home`, may well be what its own `until` asks."""
    waiting = [edge.source for edge in stage.inputs if edge.port == "model"]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        model = local.get(name)
        if model is None or name in seen:
            continue
        seen.add(name)
        if model.verb == "train":
            yield from ((leaf, True) for leaf in leaves(model, ("data",), local))
        elif model.verb == "repeat":
            yield from _rounds(model, local, home)
        ports = _FROM.get(model.verb, ())
        waiting += [edge.source for edge in reversed(model.inputs) if edge.port in ports]


_FROM = {
    "train": ("model",),
    "repeat": ("start",),
    "merge": ("first", "second", "third", "fourth"),
}
"""The inputs that a model is made from."""


def _rounds(model: Stage, local: Local, home: str | None) -> Iterator[tuple[Leaf, bool]]:
    inside = within(model, local)
    asked = {name for until in model.until for name in metrics(until.test)}
    for inner in model.body:
        if inner.verb == "train":
            yield from ((leaf, True) for leaf in leaves(inner, ("data",), inside))
        elif inner.name in asked and inner.verb == "evaluate" and model.name != home:
            yield from ((leaf, False) for leaf in leaves(inner, ("prompts",), inside))


def _reference(scope: Scope) -> Iterator[Finding]:
    """A reference belongs to the line of the policy, and is what the training began from."""
    policy, reference = input_of(scope.stage, "model"), input_of(scope.stage, "reference")
    assert policy is not None
    if reference is None or "reference" not in scope.stage.given:
        return
    line = list(ancestry(policy.source, scope.local))
    other = list(ancestry(reference.source, scope.local))
    if not line or not other:
        return
    start = line[1] if scope.repeat is not None and line[0] is scope.repeat else line[0]
    labels = (Label(start.span, "the training begins from this model"),)
    if line[-1] is not other[-1] and not _same_source(line[-1], other[-1]):
        message = (
            f"the reference `{reference.source}` is no relative of the trained model, which "
            f"comes from `{line[-1].name}`"
        )
        hint = f"write `reference = {start.name}`, or name the other model `teacher`"
        yield Finding("G423", message, reference.span, labels, hint=hint)
    elif other[0] is not start and other[0] in line and start.verb in ("train", "repeat"):
        message = (
            f"`{start.name}` was trained since `{reference.source}`, so a KL to "
            f"`{reference.source}` pulls against that training"
        )
        fix = Fix(f"write `{start.name}`", (Edit(reference.span, start.name),), safe=False)
        if reference.span.text != reference.source:
            fix = Fix(
                f"write `reference = {start.name}`",
                (Edit(reference.span, f"reference = {start.name}"),),
                safe=False,
            )
        yield Finding("G424", message, reference.span, labels, fix=fix)


def _same_source(one: Stage, other: Stage) -> bool:
    return one.verb == other.verb and one.settings == other.settings and one.verb == "pretrained"


def _off_policy(scope: Scope) -> Iterator[Finding]:
    """Rollouts of another model than the trained one, and a formula that does not correct it."""
    stage, formula = scope.stage, scope.stage.formula
    if formula is None or formula.on != "Rollouts" or "behavior_logp" in formula.needs:
        return
    policy = input_of(stage, "model")
    assert policy is not None
    for sampler in samplers(stage, scope.local):
        drew = input_of(sampler, "model")
        if drew is None or drew.source == policy.source:
            continue
        outside = scope.repeat is not None and policy.source == scope.repeat.name
        start = input_of(scope.repeat, "start") if scope.repeat is not None else None
        message = (
            f"`{formula.name}` takes its data for samples of `{policy.source}`, "
            f"and `{drew.source}` drew them"
        )
        if outside and start is not None and start.source == drew.source:
            message = (
                f"these rollouts are drawn once, before the repeat, while `{policy.source}` "
                "changes with every round"
            )
        labels = (Label(sampler.span, "drawn here"),)
        hint = f"sample from `{policy.source}`, or use a formula that reads `behavior_logp`"
        data = input_of(stage, "data")
        assert data is not None
        yield Finding("G427", message, data.span, labels, hint=hint)
        return
