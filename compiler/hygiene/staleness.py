"""Repeats with `staleness = 1`: whether anything can be drawn ahead, and whether formulas weigh
completions that older weights drew."""

from __future__ import annotations

from collections.abc import Iterator

from grape.compiler.ahead import ahead_of, inner_of
from grape.compiler.formula.ir import Formula
from grape.compiler.graph import Graph, Stage
from grape.compiler.hygiene.walk import Scope, input_of, scopes_of, setting_span, statements
from grape.dsl import ast
from grape.dsl.findings import Edit, Finding, Fix, Label
from grape.dsl.source import Span

_NOW = frozenset({"logp", "logp_all"})
_THEN = frozenset({"old_logp", "behavior_logp", "old_logp_all"})


def check_staleness(graph: Graph, declared: ast.PipelineDecl) -> Iterator[Finding]:
    """No sampler of the carried model (G289), a formula without a ratio (G439)."""
    for scope in scopes_of(graph):
        stage = scope.stage
        if stage.verb == "repeat" and stage.settings["staleness"] and not _draws(stage):
            message = "`staleness = 1` changes nothing: no stage here draws from the model"
            fix = Fix("write `staleness = 0`", (Edit(_value(stage, declared), "0"),), safe=True)
            hint = "sample in this repeat, from the model that it trains, or leave it out"
            yield Finding("G289", message, _value(stage, declared), hint=hint, fix=fix)
        elif stage.verb == "train":
            yield from _unweighed(scope, declared)


def _draws(repeat: Stage) -> bool:
    ahead = set(ahead_of(inner_of(inner) for inner in repeat.body))
    samplers = (inner for inner in repeat.body if inner.verb == "sample" and inner.name in ahead)
    edges = (input_of(sampler, "model") for sampler in samplers)
    return any(edge is not None and edge.source == repeat.name for edge in edges)


def _value(repeat: Stage, declared: ast.PipelineDecl) -> Span:
    """Where the file says how stale completions may be."""
    for statement in statements(declared.body):
        if isinstance(statement, ast.Repeat) and statement.span == repeat.span:
            return next(s.value.span for s in statement.settings if s.name.name == "staleness")
    return repeat.span


def _unweighed(scope: Scope, declared: ast.PipelineDecl) -> Iterator[Finding]:
    formula, repeat = scope.stage.formula, scope.repeat
    if formula is None or formula.on != "Rollouts" or repeat is None:
        return
    if not repeat.settings["staleness"] or not _draws(repeat) or has_ratio(formula):
        return
    message = (
        f"the completions are drawn by the weights of the round before, and `{formula.name}` has "
        "no ratio that would weigh them"
    )
    labels = (Label(_value(repeat, declared), "one round old"),)
    hint = "use a formula with `exp(logp - old_logp)`, such as `grpo`, or leave `staleness` out"
    yield Finding(
        "G439", message, setting_span(scope.stage, declared, "algorithm"), labels, hint=hint
    )


def has_ratio(formula: Formula) -> bool:
    """Whether the objective compares the model's log-probs with those that tokens were drawn
    with."""
    names: list[frozenset[str]] = []
    found: list[bool] = []
    for term in formula.terms:
        own = {str(term.attr("name"))} if term.op == "input" else set[str]()
        names.append(frozenset(own).union(*(names[arg] for arg in term.args)))
        ratio = any(found[arg] for arg in term.args)
        if term.op in ("sub", "div"):
            left, right = (names[arg] for arg in term.args)
            ratio |= bool((left & _NOW and right & _THEN) or (left & _THEN and right & _NOW))
        found.append(ratio)
    return found[formula.objective]
