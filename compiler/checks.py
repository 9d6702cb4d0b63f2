"""`check` expressions as JSON: numbers of reports, compared.

Metrics are `mean`, `ci95_low`, `ci95_high`, `pass_at(k)` and `part.NAME` of a report; anything
else is a constant. With a confidence the test is one comparison of two means.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from grape.compiler.constants import Scope, evaluate
from grape.compiler.graph import Stage
from grape.compiler.names import refuse, unknown
from grape.dsl import ast
from grape.dsl.source import Span

METRICS = ("mean", "ci95_low", "ci95_high", "pass_at", "part")
COMPARISONS = ("<", "<=", ">", ">=", "==", "!=")

Find = Callable[[str, Span], Stage | None]
"""The stage of a name; None when the name is no stage."""


def compile_check(
    check: ast.Check, find: Find, scope: Scope
) -> tuple[dict[str, Any], float | None]:
    """The test as JSON, and the confidence. Raises `Refused`."""
    test = _expression(check.test, find, scope)
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


def _decides(expr: ast.Expr) -> bool:
    match expr:
        case ast.Binary(op):
            return op in COMPARISONS or op in ("and", "or")
        case ast.Unary(op):
            return op == "not"
    return isinstance(expr, ast.Bool)


def _expression(expr: ast.Expr, find: Find, scope: Scope) -> dict[str, Any]:
    match expr:
        case ast.Call(ast.Member(ast.Name(stage), name), args):
            return _metric(stage, name, [a.value for a in args], expr, find, scope)
        case ast.Member(ast.Member(ast.Name(stage), ast.Ident("part") as name), part):
            return _metric(stage, name, [part], expr, find, scope)
        case ast.Member(ast.Name(stage), name):
            return _metric(stage, name, [], expr, find, scope)
        case ast.Binary(op, left, right):
            sides = [_expression(side, find, scope) for side in (left, right)]
            return {"op": op, "args": sides}
        case ast.Unary(op, operand):
            inner = _expression(operand, find, scope)
            return {"op": "neg" if op == "-" else "not", "args": [inner]}
        case ast.Name(name) if name not in scope and find(name, expr.span) is not None:
            hint = f"write `{name}.mean`"
            refuse("G212", f"`{name}` is a stage, not a number", expr.span, hint=hint)
    value = evaluate(expr, scope)
    if value.kind not in ("int", "float", "fraction", "bool"):
        refuse("G212", f"`{expr.span.text}` is no number", expr.span)
    return {"op": "number", "value": value.data}


def _metric(
    stage: str,
    name: ast.Ident,
    args: list[Any],
    expr: ast.Expr,
    find: Find,
    scope: Scope,
) -> dict[str, Any]:
    found = find(stage, expr.span)
    if found is None:
        unknown("G101", f"there is no stage `{stage}`", stage, expr.span, [])
    if found.type.name != "Report":
        message = f"`{stage}` is {found.type}; only a report of `evaluate` has metrics"
        refuse("G212", message, expr.span)
    if name.name not in METRICS:
        message = f"a report has no `{name.name}`"
        unknown("G115", message, name.name, name.span, METRICS, listing="it has")
    made: list[Any] = []
    if name.name == "pass_at":
        made = [_count(args, found, expr, scope)]
    elif name.name == "part":
        made = [_part(args, found, expr)]
    elif args or isinstance(expr, ast.Call):
        refuse("G212", f"`{name.name}` takes no arguments", expr.span)
    return {"op": "metric", "stage": stage, "name": name.name, "args": made}


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

    known = sorted(parts_of(stage.reward or {"op": "number"}))
    if len(args) != 1 or not isinstance(args[0], ast.Ident):
        refuse("G212", "a part is named: `after.part.exact`", expr.span)
    if args[0].name not in known:
        message = f"the reward of `{stage.name}` has no part `{args[0].name}`"
        unknown("G115", message, args[0].name, args[0].span, known, listing="it has")
    return args[0].name
