"""Compile-time evaluation: an expression of parameters and literals becomes a value.

A value remembers its kind, because names carry units: a duration is no plain number. Whatever
only a run can tell is refused here.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from grape.compiler.names import Refused, refuse, unknown
from grape.dsl import ast
from grape.dsl.source import Span

NUMBERS = ("int", "float", "fraction", "size", "duration")


@dataclass(frozen=True, slots=True)
class Value:
    """`data` is what JSON can hold (a list holds `Value`s); `kind` is one of int, float, bool,
    string, fraction, size (bytes), duration (seconds), list, none, or secret, whose data is
    `{"secret": NAME}`: the name of the variable that holds it, never what it holds."""

    data: Any
    kind: str

    def plain(self) -> Any:
        """The value as JSON."""
        return [item.plain() for item in self.data] if self.kind == "list" else self.data


Scope = Mapping[str, Value]


def evaluate(expr: ast.Expr, scope: Scope) -> Value:
    """The value of an expression. Raises `Refused` where it has none."""
    match expr:
        case ast.Number(kind="refused"):
            raise Refused(None)
        case ast.Number(value, kind):
            return Value(value, kind)
        case ast.String(value):
            return Value(value, "string")
        case ast.Bool(value):
            return Value(value, "bool")
        case ast.List(items):
            return Value(tuple(evaluate(item, scope) for item in items), "list")
        case ast.Name(name):
            return _name(name, expr.span, scope)
        case ast.Unary():
            return _unary(expr, scope)
        case ast.Binary():
            return _binary(expr, scope)
        case ast.Conditional(test, yes, no):
            return evaluate(yes if truth(test, scope) else no, scope)
        case ast.Call(ast.Name(name)) if name in _CALLS:
            return _CALLS[name](expr, scope)
    refuse(
        "G205",
        f"`{expr.span.text}` is not known before the run; write a constant or use parameters",
        expr.span,
    )


def truth(expr: ast.Expr, scope: Scope) -> bool:
    """The value of a condition. Raises `Refused` when it is not true or false."""
    value = evaluate(expr, scope)
    if value.kind != "bool":
        refuse("G205", f"`{expr.span.text}` must be true or false, not {show(value)}", expr.span)
    return bool(value.data)


def show(value: Value) -> str:
    """A value in the reader's words: `the string "a"`, `3`, `5 s`."""
    match value.kind:
        case "string":
            return f'the string "{value.data}"'
        case "bool":
            return "true" if value.data else "false"
        case "list":
            return "a list"
        case "none":
            return "none"
        case "secret":
            return "a secret"
        case "duration":
            return f"{value.data:g} seconds"
        case "size":
            return f"{value.data:g} bytes"
    return f"{value.data:g}" if isinstance(value.data, float) else str(value.data)


def _name(name: str, span: Span, scope: Scope) -> Value:
    if name in scope:
        return scope[name]
    if name == "none":
        return Value(None, "none")
    unknown("G101", f"there is no parameter `{name}` here", name, span, scope)


def _env(expr: ast.Call, scope: Scope) -> Value:
    name = _variable(expr)
    if name not in os.environ:
        hint = f"set it first: `export {name}=…`"
        refuse("G208", f"the environment variable `{name}` is not set", expr.span, hint=hint)
    return Value(os.environ[name], "string")


def _secret(expr: ast.Call, scope: Scope) -> Value:
    return Value({"secret": _variable(expr)}, "secret")


def _variable(expr: ast.Call) -> str:
    called = expr.function.span.text
    if len(expr.args) != 1 or not isinstance(expr.args[0].value, ast.String):
        message = f'`{called}` takes one name in quotes: `{called}("NAME")`'
        refuse("G205", message, expr.span)
    name = expr.args[0].value.value
    if not _VARIABLE.fullmatch(name):
        refuse("G205", f'"{name}" cannot name an environment variable', expr.span)
    return name


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def origin(expr: ast.Expr) -> str | None:
    """`env("NAME")` or `secret("NAME")` where an expression takes its value from there."""
    match expr:
        case ast.Call(ast.Name("env" | "secret" as called), (ast.Arg(value=ast.String(name)),)):
            return f'{called}("{name}")'
    return next(filter(None, map(origin, ast.inside(expr))), None)


def _extreme(name: str, pick: Callable[..., Any]) -> Callable[[ast.Call, Scope], Value]:
    def call(expr: ast.Call, scope: Scope) -> Value:
        values = [_number(arg.value, evaluate(arg.value, scope)) for arg in expr.args]
        if not values:
            refuse("G205", f"`{name}` needs at least one number", expr.span)
        return pick(values, key=lambda value: value.data)  # type: ignore[no-any-return]

    return call


_CALLS: dict[str, Callable[[ast.Call, Scope], Value]] = {
    "env": _env,
    "secret": _secret,
    "min": _extreme("min", min),
    "max": _extreme("max", max),
}


def _number(expr: ast.Expr, value: Value) -> Value:
    """The value of `expr`, which must be a number."""
    if value.kind not in NUMBERS:
        refuse("G205", f"`{expr.span.text}` must be a number, not {show(value)}", expr.span)
    return value


def _unary(expr: ast.Unary, scope: Scope) -> Value:
    if expr.op == "not":
        return Value(not truth(expr.operand, scope), "bool")
    value = _number(expr.operand, evaluate(expr.operand, scope))
    return Value(-value.data, value.kind)


def _binary(expr: ast.Binary, scope: Scope) -> Value:
    if expr.op in ("and", "or"):
        left = truth(expr.left, scope)
        if left == (expr.op == "or"):
            return Value(left, "bool")
        return Value(truth(expr.right, scope), "bool")
    if expr.op == "in":
        return _member(expr, scope)
    left_value, right_value = evaluate(expr.left, scope), evaluate(expr.right, scope)
    if "secret" in (left_value.kind, right_value.kind):
        message = "a secret is opaque: it cannot be compared, joined or calculated with"
        refuse("G236", message, expr.span)
    if expr.op in _COMPARE:
        return _compare(expr, left_value, right_value)
    if expr.op == "+" and left_value.kind == right_value.kind == "string":
        return Value(left_value.data + right_value.data, "string")
    return _arithmetic(expr, _number(expr.left, left_value), _number(expr.right, right_value))


def _member(expr: ast.Binary, scope: Scope) -> Value:
    left, right = evaluate(expr.left, scope), evaluate(expr.right, scope)
    if right.kind != "list":
        refuse("G205", f"`in` looks into a list, not {show(right)}", expr.right.span)
    return Value(any(left.plain() == item.plain() for item in right.data), "bool")


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "==": lambda a, b: bool(a == b),
    "!=": lambda a, b: bool(a != b),
    "<": lambda a, b: bool(a < b),
    "<=": lambda a, b: bool(a <= b),
    ">": lambda a, b: bool(a > b),
    ">=": lambda a, b: bool(a >= b),
}


def _compare(expr: ast.Binary, left: Value, right: Value) -> Value:
    numeric = left.kind in NUMBERS and right.kind in NUMBERS
    if not numeric and (left.kind != right.kind or expr.op not in ("==", "!=")):
        refuse("G205", f"{show(left)} and {show(right)} cannot be compared", expr.span)
    if numeric and not _same_unit(left.kind, right.kind):
        refuse("G205", f"a {left.kind} and a {right.kind} cannot be compared", expr.span)
    return Value(_COMPARE[expr.op](left.plain(), right.plain()), "bool")


_UNITS = ("size", "duration")


def _same_unit(left: str, right: str) -> bool:
    return left == right or (left not in _UNITS and right not in _UNITS)


def _arithmetic(expr: ast.Binary, left: Value, right: Value) -> Value:
    kind = _kind(expr, left.kind, right.kind)
    a, b = left.data, right.data
    try:
        data = _bounded(_OPERATIONS[expr.op](a, b))
    except ZeroDivisionError:
        refuse("G205", f"`{expr.span.text}` divides by zero", expr.span)
    except OverflowError:
        refuse("G205", f"`{expr.span.text}` is too large a number", expr.span)
    if isinstance(data, complex) or not math.isfinite(data):
        refuse("G205", f"`{expr.span.text}` is not a real number", expr.span)
    if kind == "int" and isinstance(data, float):
        kind = "float"
    return Value(data, kind)


_OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "^": lambda a, b: _power(a, b),
}

MAX_BITS = 4096
"""Size of the largest whole number that is computed: nothing that is counted comes near it."""


def _power(a: float, b: float) -> Any:
    if isinstance(a, int) and isinstance(b, int) and b > 0 and a.bit_length() * b > MAX_BITS:
        raise OverflowError
    return a**b


def _bounded(data: Any) -> Any:
    if isinstance(data, int) and data.bit_length() > MAX_BITS:
        raise OverflowError
    return data


def _kind(expr: ast.Binary, left: str, right: str) -> str:
    units = [kind for kind in (left, right) if kind in _UNITS]
    if not units:
        return "int" if left == right == "int" else "fraction" if left == right else "float"
    if expr.op in "+-" and left == right:
        return left
    if expr.op == "/" and left == right:
        return "float"
    if (expr.op == "*" and len(units) == 1) or (expr.op == "/" and left in _UNITS):
        return units[0]
    refuse("G205", f"`{expr.op}` does not combine a {left} with a {right}", expr.span)
