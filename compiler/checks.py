"""`check` and `until` expressions as JSON: numbers that a run makes, compared.

Metrics are `mean`, `ci95_low`, `ci95_high`, `pass_at(k)` and `part.NAME` of a report; an until may
also ask scored rollouts and the training of its round. Anything else is a constant. With a
confidence the test of a check is one comparison of two means.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from grape.compiler.constants import Scope, evaluate
from grape.compiler.graph import Stage
from grape.compiler.names import refuse, unknown
from grape.dsl import ast

METRICS = ("mean", "ci95_low", "ci95_high", "pass_at", "part")
ROLLOUT_METRICS = ("mean", "part", "length", "truncated")
_KINDS = {"Rollouts": "a batch of scored rollouts", "Model": "the training of this model"}
COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")

Find = Callable[[ast.Expr], Stage | None]
"""The stage that an expression names; None when it names none. May raise `Refused`."""


def compile_check(
    check: ast.Check, find: Find, scope: Scope
) -> tuple[dict[str, Any], float | None]:
    """The test as JSON, and the confidence. Raises `Refused`."""
    test = _Tests(find, scope, None).expression(check.test)
    if not _decides(check.test):
        hint = "compare it with something: `after.mean > 0.5`"
        refuse("G212", f"`{check.test.span.text}` is neither true nor false", check.span, hint=hint)
    if check.confidence is None:
        return test, None
    value = evaluate(check.confidence, scope)
    if value.kind not in ("fraction", "float") or not 0.5 <= value.data < 1:
        message = "a confidence is a share between 50% and 100%, for example `with 95%`"
        refuse("G213", message, check.confidence.span)
    sides = test["args"] if test["op"] in ("<", "<=", ">", ">=") else []
    if len(sides) != 2 or any(s["op"] != "metric" or s["name"] != "mean" for s in sides):
        message = "`with` needs one comparison of two means, which a paired test can decide"
        refuse("G213", message, check.test.span, hint="write `after.mean > before.mean with 95%`")
    return test, float(value.data)


def compile_until(
    until: ast.Until, find: Find, scope: Scope, inside: frozenset[str]
) -> dict[str, Any]:
    """The test of an `until` as JSON. It may read what the repeat's own stages (`inside`) make:
    reports, the rewards of scored rollouts, what training logs. Raises `Refused`."""
    test = _Tests(find, scope, inside).expression(until.test)
    if not _decides(until.test):
        hint = "compare it with something: `scored.mean > 0.9`"
        refuse("G212", f"`{until.test.span.text}` is neither true nor false", until.span, hint=hint)
    if not any(node["op"] == "metric" for node in walk(test)):
        message = f"`{until.test.span.text}` is the same in every round, so it ends nothing"
        hint = "compare what a round makes: `until scored.mean > 0.9`"
        refuse("G234", message, until.test.span, hint=hint)
    return test


def walk(test: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every node of a compiled test."""
    yield test
    if test["op"] != "metric":
        for arg in test.get("args", ()):
            yield from walk(arg)


def _decides(expr: ast.Expr) -> bool:
    match expr:
        case ast.Binary(op):
            return op in COMPARISONS or op in ("and", "or")
        case ast.Unary(op):
            return op == "not"
    return isinstance(expr, ast.Bool)


class _Tests:
    """Compiles the expressions of one check or until. `inside` names the stages of the repeat that
    an until belongs to; None for a check."""

    def __init__(self, find: Find, scope: Scope, inside: frozenset[str] | None) -> None:
        self.find = find
        self.scope = scope
        self.inside = inside

    def expression(self, expr: ast.Expr) -> dict[str, Any]:
        match expr:
            case ast.Call(ast.Member(stage, name), args):
                return self.metric(stage, name, [a.value for a in args], expr)
            case ast.Member(ast.Member(stage, ast.Ident("part") as name), part):
                return self.metric(stage, name, [part], expr)
            case ast.Member(stage, name):
                return self.metric(stage, name, [], expr)
            case ast.Binary(op, left, right):
                return {"op": op, "args": [self.expression(side) for side in (left, right)]}
            case ast.Unary(op, operand):
                return {"op": "neg" if op == "-" else "not", "args": [self.expression(operand)]}
            case ast.Name() | ast.Index() if self.find(expr) is not None:
                text = expr.span.text
                hint = f"write `{text}.mean`"
                refuse("G212", f"`{text}` is a stage, not a number", expr.span, hint=hint)
        value = evaluate(expr, self.scope)
        if value.kind not in ("int", "float", "fraction", "bool"):
            refuse("G212", f"`{expr.span.text}` is no number", expr.span)
        return {"op": "number", "value": value.data}

    def metric(
        self, target: ast.Expr, name: ast.Ident, args: list[Any], expr: ast.Expr
    ) -> dict[str, Any]:
        found = self.find(target)
        text = target.span.text
        if found is None:
            refuse("G212", f"`{text}` is no stage, so it has no `{name.name}`", expr.span)
        known = self.metrics_of(found, text, expr)
        if name.name not in known:
            message = f"{_KINDS.get(found.type.name, 'a report')} has no `{name.name}`"
            unknown("G115", message, name.name, name.span, known, listing="it has")
        made: list[Any] = []
        if name.name == "pass_at":
            made = [_count(args, found, expr, self.scope)]
        elif name.name == "part":
            made = [_part(args, found, expr)]
        elif args or isinstance(expr, ast.Call):
            refuse("G212", f"`{name.name}` takes no arguments", expr.span)
        return {"op": "metric", "stage": found.name, "name": name.name, "args": made}

    def metrics_of(self, found: Stage, text: str, expr: ast.Expr) -> tuple[str, ...]:
        """What can be asked of a stage."""
        if self.inside is None:
            if found.type.name != "Report":
                message = f"`{text}` is {found.type}; only a report of `evaluate` has metrics"
                refuse("G212", message, expr.span)
            return METRICS
        if found.name not in self.inside and found.name != "next":
            message = f"`{text}` is made before the repeat, so it is the same in every round"
            refuse("G234", message, expr.span, hint="compare what a round makes")
        if found.type.name == "Report":
            return METRICS
        if found.type.name == "Rollouts" and found.type.scored:
            return ROLLOUT_METRICS
        if found.verb == "train" and found.formula is not None:
            return ("loss", *(log for log, _ in found.formula.logs))
        hint = "ask scored rollouts, a report or the model that the repeat trains"
        refuse("G212", f"`{text}` is {found.type}, which has no metrics", expr.span, hint=hint)


def _count(args: list[Any], stage: Stage, expr: ast.Expr, scope: Scope) -> int:
    if len(args) != 1:
        refuse("G212", "`pass_at` takes one number: `pass_at(4)`", expr.span)
    value = evaluate(args[0], scope)
    if value.kind != "int" or value.data < 1:
        refuse("G212", "`pass_at` takes a whole number of at least 1", expr.span)
    group = stage.settings["group"]
    if value.data > group:
        message = (
            f"`pass_at({value.data})` needs as many completions, and `{stage.name}` has {group}"
        )
        refuse("G212", message, expr.span, hint=f"set `group = {value.data}` in `{stage.name}`")
    return int(value.data)


def _part(args: list[Any], stage: Stage, expr: ast.Expr) -> str:
    from grape.compiler.rewards import parts_of

    made = parts_of(stage.reward) if stage.reward is not None else stage.type.parts
    known = sorted(made)
    if len(args) != 1 or not isinstance(args[0], ast.Ident):
        refuse("G212", "a part is named: `after.part.exact`", expr.span)
    if args[0].name not in known:
        message = f"the reward of `{stage.name}` has no part `{args[0].name}`"
        unknown("G115", message, args[0].name, args[0].span, known, listing="it has")
    return args[0].name
