"""Expressions of formulas to terms: names, operators, conditions and text parameters.

Function calls are in `calls.py`. What is wrong becomes a finding of the scope and raises
`Poisoned`.
"""

from __future__ import annotations

from grape.compiler.formula import functions
from grape.compiler.formula.levels import SUBGROUPS, Level
from grape.compiler.formula.quantities import PART_QUANTITIES, QUANTITIES
from grape.compiler.formula.scope import Poisoned, Scope
from grape.dsl import ast
from grape.dsl.nearest import did_you_mean
from grape.dsl.source import Span


def expression(scope: Scope, node: ast.Expr) -> int:
    """The term of an expression. Raises `Poisoned`."""
    from grape.compiler.formula.calls import call

    match node:
        case ast.Number(kind="refused"):
            raise Poisoned
        case ast.Number() | ast.Bool():
            return scope.terms.const(node.value)
        case ast.Name():
            return _name(scope, node.name, node.span)
        case ast.Member():
            return _member(scope, node)
        case ast.Unary():
            operand = expression(scope, node.operand)
            return apply(scope, "not" if node.op == "not" else "neg", [operand], node.span)
        case ast.Binary():
            return _binary(scope, node)
        case ast.Conditional():
            args = [expression(scope, part) for part in (node.test, node.yes, node.no)]
            return apply(scope, "where", args, node.span)
        case ast.Call():
            return call(scope, node)
    raise scope.refuse("G308", "a formula is made of numbers and quantities", node.span)


def apply(scope: Scope, op: str, args: list[int], span: Span) -> int:
    """An elementwise operation; constants without a value count only where they are used."""
    try:
        return scope.terms.apply(op, *args)
    except (ArithmeticError, ValueError):
        scope.impossible.append(span)
        return scope.terms.impossible(len(scope.impossible) - 1)


def _binary(scope: Scope, node: ast.Binary) -> int:
    if _is_text(scope, node.left) or _is_text(scope, node.right) or node.op == "in":
        return _text_test(scope, node)
    left, right = expression(scope, node.left), expression(scope, node.right)
    index = apply(scope, functions.BINARY[node.op], [left, right], node.span)
    if node.op == "/" and scope.terms.items[index].op == "div":
        scope.divisors.setdefault(index, node.right.span)
    return index


# --- text parameters --------------------------------------------------------------------------


def _is_text(scope: Scope, node: ast.Expr) -> bool:
    named = isinstance(node, ast.Name) and isinstance(scope.params.get(node.name), str)
    return named or isinstance(node, ast.String)


def _text_test(scope: Scope, node: ast.Binary) -> int:
    """`variant == "ring"` and `variant in ["a", "b"]`: decided before the run."""
    left, right = texts(scope, node.left), texts(scope, node.right)
    if left is None or right is None or len(left) != 1 or node.op not in ("==", "!=", "in"):
        message = 'text is compared with text, as in `variant == "ring"`'
        raise scope.refuse("G308", message, node.span)
    if isinstance(node.left, ast.Name) and node.left.name in scope.choices:
        known = scope.choices[node.left.name]
        for text in right:
            if text not in known:
                listed = ", ".join(known)
                message = f'`{node.left.name}` is never "{text}"; it is one of {listed}'
                raise scope.refuse("G316", message + did_you_mean(text, known), node.right.span)
    return scope.terms.const((left[0] in right) != (node.op == "!="))


def texts(scope: Scope, node: ast.Expr) -> list[str] | None:
    """Text that is known before the run: written out, a text parameter, or a list; else None."""
    match node:
        case ast.String():
            return [node.value]
        case ast.Name():
            value = scope.params.get(node.name)
            return [value] if isinstance(value, str) else None
        case ast.List():
            return [item.value for item in node.items if isinstance(item, ast.String)]
    return None


# --- names ------------------------------------------------------------------------------------


def _name(scope: Scope, name: str, span: Span) -> int:
    if name in scope.names:
        index = scope.names[name]
        if index is None:
            raise Poisoned
        return index
    if name in scope.params:
        value = scope.params[name]
        if not isinstance(value, int | float):
            what = "text" if isinstance(value, str) else "a list"
            raise scope.refuse("G308", f"`{name}` is {what}, not a number", span)
        return scope.terms.const(value)
    if name in PART_QUANTITIES:
        return _part(scope, name, span)
    if name not in QUANTITIES:
        known = [*scope.names, *scope.params, *QUANTITIES]
        raise scope.refuse("G301", f"there is no `{name}`{did_you_mean(name, known)}", span)
    quantity = QUANTITIES[name]
    if scope.on not in quantity.on:
        step = (
            "only scored Rollouts have it: `score(rollouts, …)`"
            if name == "reward"
            else (f"only {' and '.join(quantity.on)} have it")
        )
        raise scope.refuse("G307", f"{scope.on} have no `{name}`; {step}", span)
    return scope.terms.input(name, quantity.level, quantity.live)


def _part(scope: Scope, name: str, span: Span) -> int:
    if scope.part is None:
        message = f"`{name}` is a part of the reward, and only `sum_of_parts(…)` goes through them"
        raise scope.refuse("G301", message, span)
    if name == "part" and not scope.part:
        return _name(scope, "reward", span)
    full = f"{PART_QUANTITIES[name]}.{scope.part}"
    if name != "part" and full not in scope.judged:
        return scope.terms.const(1.0)
    return scope.terms.input(full, Level.SEQUENCE, False)


def _member(scope: Scope, node: ast.Member) -> int:
    if not (isinstance(node.value, ast.Name) and node.value.name == "reward"):
        raise scope.refuse("G308", "only `reward.PART` has a part", node.span)
    _name(scope, "reward", node.value.span)
    part = node.name.name
    if scope.parts and part not in scope.parts:
        hint = did_you_mean(part, scope.parts)
        raise scope.refuse("G301", f"the reward has no part `{part}`{hint}", node.name.span)
    return scope.terms.input(f"reward.{part}", Level.SEQUENCE, False)


def level_named(scope: Scope, ident: ast.Ident) -> Level:
    """The level after `per`, if this kind of batch has it. Raises `Poisoned`."""
    try:
        level = Level(ident.name)
    except ValueError:
        known = [level.value for level in Level]
        message = f"there is no level `{ident.name}`{did_you_mean(ident.name, known)}"
        way = f"the levels are {', '.join(known)}"
        raise scope.refuse("G301", message, ident.span, hint=way) from None
    if level is Level.PAIR and scope.on != "Preferences":
        message = f"{scope.on} have no pairs; only Preferences do: `pair(…)`"
        raise scope.refuse("G307", message, ident.span)
    if level in (Level.STEP, *SUBGROUPS) and scope.on != "Rollouts":
        raise scope.refuse("G307", f"{scope.on} have no {level}s; only Rollouts do", ident.span)
    return level
