"""Selections that ask the sampler for more: whether it can be asked."""

from __future__ import annotations

from collections.abc import Iterator

from grape.compiler.graph import Graph, Stage
from grape.compiler.hygiene.walk import Scope, input_of, scopes_of, setting_span
from grape.dsl import ast
from grape.dsl.findings import Finding, Label


def check_sampling(graph: Graph, declared: ast.PipelineDecl) -> Iterator[Finding]:
    """`prompts` of `keep` where nothing can be sampled again (G271), `max_tries` alone (G272);
    `replay` outside a repeat (G275) and under a formula that is on-policy (G276)."""
    for scope in scopes_of(graph):
        stage = scope.stage
        if stage.verb == "train":
            yield from _stale(scope, declared)
        if stage.verb != "keep":
            continue
        if stage.settings["replay"] is not None and scope.repeat is None:
            message = "`replay` keeps what earlier rounds kept, and there are no rounds here"
            span = setting_span(stage, declared, "replay")
            yield Finding("G275", message, span, hint="use it in a repeat, or leave it out")
        if stage.settings["prompts"] is not None:
            why = _cannot(scope)
            if why is not None:
                message = f"`prompts` makes `{stage.name}` sample again, and {why[0]}"
                span = setting_span(stage, declared, "prompts")
                yield Finding("G271", message, span, hint=why[1])
        elif "max_tries" in stage.given:
            message = "`max_tries` does nothing without `prompts`"
            span = setting_span(stage, declared, "max_tries")
            hint = "say how many prompts are to be left: `prompts = 16`"
            yield Finding("G272", message, span, hint=hint)


def _stale(scope: Scope, declared: ast.PipelineDecl) -> Iterator[Finding]:
    """Completions of earlier rounds, and a formula that takes them for the model's own."""
    formula = scope.stage.formula
    if formula is None or formula.on != "Rollouts" or "behavior_logp" in formula.needs:
        return
    edge = input_of(scope.stage, "data")
    while edge is not None and edge.source in scope.local:
        stage = scope.local[edge.source]
        if stage.verb == "keep" and stage.settings["replay"] is not None:
            message = (
                f"`{stage.name}` brings completions of earlier rounds, and `{formula.name}` takes "
                "them for those of the model as it is"
            )
            span = setting_span(scope.stage, declared, "algorithm")
            labels = (Label(setting_span(stage, declared, "replay"), "replayed here"),)
            hint = "use a formula that reads `behavior_logp`: what each token was drawn with"
            yield Finding("G276", message, span, labels, hint=hint)
            return
        edge = input_of(stage, "rollouts")


def _cannot(scope: Scope) -> tuple[str, str] | None:
    """Why no further prompts can be drawn, and the way out; None where they can."""
    inside = {stage.name: stage for stage in scope.repeat.body} if scope.repeat else {}
    stage: Stage = scope.stage
    while stage.verb != "sample":
        edge = input_of(stage, "rollouts")
        source = inside.get(edge.source) if edge is not None else None
        if source is None:
            what = "its rollouts are sampled once, not in the rounds of this repeat"
            return what, "sample and score in the repeat around it, or leave `prompts` out"
        if source.verb == "keep" and source.settings["prompts"] is not None:
            return f"`{source.name}` does so already", "say `prompts` once, in the last `keep`"
        stage = source
    if stage.settings["prompts"] is None:
        what = f"`{stage.name}` draws all prompts there are"
        return what, "set `prompts` in `sample`: how many are drawn each time"
    return None
