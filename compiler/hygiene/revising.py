"""Revisions in the graph: by the rubric that scored, and trained as what they are."""

from __future__ import annotations

from collections.abc import Iterator

from grape.compiler.graph import Graph, Stage
from grape.compiler.hygiene.walk import Scope, input_of, nodes_of, scopes_of, setting_span
from grape.dsl import ast
from grape.dsl.findings import Finding, Label
from grape.dsl.source import Span


def check_revising(graph: Graph, declared: ast.PipelineDecl) -> Iterator[Finding]:
    """Revisions by another rubric than the scores (G258), settings without effect (G298), and
    revisions that an algorithm takes for samples of the plain prompt (G438)."""
    for scope in scopes_of(graph):
        if scope.stage.verb == "revise":
            yield from _other_rubric(scope, declared)
            yield from _idle(scope.stage, declared)
        if scope.stage.verb == "train":
            yield from _taken_for_samples(scope, declared)


def _idle(stage: Stage, declared: ast.PipelineDecl) -> Iterator[Finding]:
    """`margin` where nothing is compared, `only_better` where it goes without saying."""
    pairs, better = stage.settings["gives"] == "pairs", stage.settings["only_better"]
    name, why, hint = "margin", "every revision is kept", "write `only_better = true`, or"
    if pairs:
        name, why, hint = "only_better", "a pair always prefers the better one", ""
    if name in stage.given and (pairs or not better):
        span = setting_span(stage, declared, name)
        yield Finding(
            "G298", f"`{name}` does nothing here: {why}", span, hint=f"{hint} leave it out".strip()
        )


def _scored_by(stage: Stage, scope: Scope) -> Stage | None:
    """The `score` whose numbers the rollouts of a stage carry."""
    edge = input_of(stage, "rollouts")
    while edge is not None and edge.source in scope.local:
        source = scope.local[edge.source]
        if source.verb in ("score", "revise"):
            return source
        edge = input_of(source, "rollouts")
    return None


def _other_rubric(scope: Scope, declared: ast.PipelineDecl) -> Iterator[Finding]:
    stage, scored = scope.stage, _scored_by(scope.stage, scope)
    if scored is None:
        return
    labels = (Label(scored.span, "scored here"),)
    critics = [
        {e.port: e.source for e in one.inputs if e.port not in ("model", "rollouts")}
        for one in (stage, scored)
    ]
    if stage.reward != scored.reward or critics[0] != critics[1]:
        message = f"`{stage.name}` reads the scores of `{scored.name}`, which go by other items"
        hint = "name the rubric with the same arguments in both"
        span = _last_argument(stage, declared)
        yield Finding("G258", message, span, labels, hint=hint)
    elif "combine" in stage.given and stage.settings["combine"] != scored.settings["combine"]:
        message = f"`combine` is not that of `{scored.name}`, so the rewards change their meaning"
        span = setting_span(stage, declared, "combine")
        yield Finding("G258", message, span, labels, hint="leave it out: it follows the scores")


def _last_argument(stage: Stage, declared: ast.PipelineDecl) -> Span:
    for node in nodes_of(declared):
        if node.span == stage.span and isinstance(node.call, ast.Call):
            return node.call.args[-1].span
    return stage.span


def _taken_for_samples(scope: Scope, declared: ast.PipelineDecl) -> Iterator[Finding]:
    formula = scope.stage.formula
    if formula is None or formula.on != "Rollouts":
        return
    if formula.needs & {"behavior_logp", "revised"}:
        return
    edge = input_of(scope.stage, "data")
    while edge is not None and edge.source in scope.local:
        source = scope.local[edge.source]
        if source.verb == "revise":
            message = (
                f"`{formula.name}` takes the revisions of `{source.name}` for samples of the plain "
                "prompt, and they were drawn with a critique before them"
            )
            labels = (Label(source.span, "revised here"),)
            hint = (
                'imitate or compare them (`best`, or `gives = "pairs"`), or use a formula that '
                "reads `revised` or `behavior_logp`"
            )
            span = setting_span(scope.stage, declared, "algorithm")
            yield Finding("G438", message, span, labels, hint=hint)
            return
        edge = input_of(source, "rollouts")
