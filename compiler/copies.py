"""Copies of `each`: how a value names a copy, and which copy a name means from where it stands.

A copy is known by its value, `tuned["1e-5"]`, never by its place in the list; two ways of writing
one value mean the same copy. Statements are not looked at here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grape.compiler.constants import Scope, Value, evaluate, show
from grape.compiler.names import refuse, unknown
from grape.compiler.params import parse_expression
from grape.dsl import ast
from grape.dsl.findings import Label
from grape.dsl.source import Span

LONGEST = 80
"""Characters of a value that can still name a copy."""

_SIZES = (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10), ("KB", 1000))


@dataclass(frozen=True, slots=True)
class Copy:
    """One value of an `each` around a statement; `block` is the head of that `each`."""

    block: Span
    name: str
    text: str
    value: Value


def label(value: Value) -> str:
    """The one way of writing a value that names a copy: `1e-5`, `90%`, `30s`, `small`."""
    match value.kind:
        case "string":
            return str(value.data)
        case "bool":
            return "true" if value.data else "false"
        case "fraction":
            return f"{_number(round(100 * value.data, 10))}%"
        case "duration":
            return f"{_number(value.data)}s"
        case "size":
            for unit, size in _SIZES:
                if value.data and value.data % size == 0:
                    return f"{value.data // size}{unit}"
    return _number(value.data)


def _number(value: int | float) -> str:
    if float(value).is_integer() and abs(value) < 1e15:
        return str(int(value))
    from decimal import Decimal  # rare, and 2 ms of a cold start

    exact = Decimal(repr(value))
    small = abs(exact) < Decimal("1e-3") or abs(exact) >= Decimal("1e15")
    return f"{exact:e}" if small else f"{exact:f}"


def copy_name(base: str, texts: Sequence[str]) -> str:
    """`tuned["1e-5"]`; the base name alone without texts."""
    return base + "".join(f'["{text}"]' for text in texts)


def copies_of(each: ast.Each, scope: Scope) -> list[Copy]:
    """The values of an `each`, in the order of its list. Raises `Refused`."""
    listed = evaluate(each.values, scope)
    span = each.values.span
    if listed.kind != "list":
        message = f"`each` goes through a list, not {show(listed)}"
        refuse("G230", message, span, hint=f"write `each {each.name.name} in [1e-5, 2e-5] {{ … }}`")
    if not listed.data:
        refuse("G230", "`each` needs at least one value", span)
    spans = [item.span for item in each.values.items] if isinstance(each.values, ast.List) else []
    found: dict[str, Copy] = {}
    for place, value in enumerate(listed.data):
        at = spans[place] if spans else span
        _check_value(value, at)
        text = label(value)
        if text in found:
            labels = (Label(spans[list(found).index(text)], "the first one"),) if spans else ()
            hint = "a copy is known by its value; write each value once"
            refuse("G230", f"{show(value)} stands twice in this list", at, labels=labels, hint=hint)
        found[text] = Copy(each.span, each.name.name, text, value)
    return list(found.values())


def _check_value(value: Value, span: Span) -> None:
    if value.kind in ("list", "none", "secret"):
        refuse("G230", f"{show(value)} cannot name a copy of `each`", span)
    if len(label(value)) > LONGEST or "\n" in label(value):
        message = f"a value of `each` names its copy, and this one has over {LONGEST} characters"
        refuse("G230", message, span, hint="put the long text where it is used, chosen by `if`")


def match(key: Value, known: Sequence[str]) -> str | None:
    """The text of the copy that an index means; None when there is none."""
    text = label(key)
    if text in known:
        return text
    if key.kind == "string":
        expr = parse_expression(text)
        if isinstance(expr, ast.Number):
            written = label(Value(expr.value, expr.kind))
            return written if written in known else None
    return None


_HOLE = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")


def fill_path(path: str, values: Mapping[str, Value], span: Span) -> str:
    """A path with `{name}` replaced by the value of a parameter or of an `each`."""

    def one(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0][0]
        name = match[1].strip()
        if name not in values:
            message = f"`{{{name}}}` in this path is neither a parameter nor a name of `each`"
            unknown("G231", message, name, span, values, listing="there are")
        if values[name].kind in ("list", "none", "secret"):
            refuse("G231", f"`{{{name}}}` is {show(values[name])}, which no path can hold", span)
        return label(values[name]).replace("/", "-")

    return _HOLE.sub(one, path)
