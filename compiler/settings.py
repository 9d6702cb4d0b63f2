"""A settings block against its model: values evaluated, units and ranges checked, defaults filled.

In come the settings of a statement, out comes plain JSON and the names that the file sets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from grape.compiler.constants import Scope, Value, evaluate, origin, show
from grape.compiler.foreign import FOREIGN
from grape.compiler.names import Refused, refuse, unknown
from grape.compiler.params import parse_expression
from grape.compiler.verb import Secret, Settings, Unit
from grape.dsl import ast
from grape.dsl.findings import Label
from grape.dsl.source import Span


def check_settings(
    owner: str,
    model: type[Settings],
    settings: Sequence[ast.Setting],
    scope: Scope,
    where: Span,
    *,
    special: frozenset[str] = frozenset(),
    positional: Mapping[str, tuple[Value, Span]] | None = None,
    defaults: Mapping[str, Value] | None = None,
) -> tuple[dict[str, Any], frozenset[str]]:
    """Every setting as JSON, and those that the file sets. `owner` is the verb, for messages;
    `defaults` are parameters that stand for settings of their name.

    Raises `Refused` at the first setting that is unknown, given twice or out of range.
    """
    values = dict(positional or {})
    first: dict[str, Span] = {name: span for name, (_, span) in values.items()}
    known = [name for name in (*model.model_fields, *special) if name not in ("kind", "options")]
    for setting in settings:
        name = setting.name.name
        if name not in known and name in FOREIGN:
            message = f"`{owner}` has no setting `{name}`"
            refuse("G109", message, setting.name.span, hint=FOREIGN[name])
        if name not in known:
            unknown(
                "G109",
                f"`{owner}` has no setting `{name}`",
                name,
                setting.name.span,
                known,
                listing="its settings are",
            )
        if name in first:
            labels = (Label(first[name], "first set here"),)
            refuse("G102", f"`{name}` is set twice", setting.name.span, labels=labels)
        first[name] = setting.name.span
        if name not in special:
            value = _value(model.model_fields[name], setting.value, scope)
            _check_unit(name, model.model_fields[name], value, setting.value.span)
            values[name] = (value, setting.value.span)
    for name, (value, span) in values.items():
        _check_secret(name, model.model_fields[name], value, span)
    for name, value in (defaults or {}).items():
        if name in model.model_fields:
            values.setdefault(name, (value, where))
    data = {name: value.plain() for name, (value, _) in values.items()}
    return _validated(owner, model, data, values, where), frozenset(first)


def _value(field: FieldInfo, expr: ast.Expr, scope: Scope) -> Value:
    if isinstance(expr, ast.Call) and isinstance(expr.function, ast.Name):
        for inner in _models(field.annotation):
            if inner.model_fields["kind"].default == expr.function.name:
                return Value(_constructed(inner, expr, scope), "object")
    if isinstance(expr, ast.List) and _models(_element(field.annotation)):
        return _constructed_list(_models(_element(field.annotation))[0], expr, scope)
    value = evaluate(expr, scope)
    if value.kind == "string" and origin(expr) is not None and not _takes_text(field.annotation):
        return _read(value)
    return value


def _read(value: Value) -> Value:
    """The text of an environment variable as a value of the language, where it is one."""
    expr = parse_expression(value.data)
    try:
        return value if expr is None else evaluate(expr, {})
    except Refused:
        return value


def _takes_text(annotation: Any) -> bool:
    if get_origin(annotation) is Literal:
        return True
    return annotation is str or any(_takes_text(part) for part in get_args(annotation))


def _check_secret(name: str, field: FieldInfo, value: Value, span: Span) -> None:
    takes = field.annotation is Secret or Secret in get_args(field.annotation)
    if value.kind == "secret" and not takes:
        message = f"`{name}` is shown and stored, so it cannot be a secret"
        refuse("G236", message, span)
    if takes and value.kind not in ("secret", "none"):
        message = f"`{name}` is a secret: its value must not stand in a file"
        hint = f'name the environment variable that holds it: `{name} = secret("NAME")`'
        refuse("G236", message, span, hint=hint)


def _models(annotation: Any) -> list[type[Settings]]:
    options = get_args(annotation) or (annotation,)
    return [kind for kind in options if isinstance(kind, type) and issubclass(kind, Settings)]


def _element(annotation: Any) -> Any:
    """What a list is made of; none of anything else."""
    return get_args(annotation)[0] if get_origin(annotation) is list else None


def _constructed_list(model: type[Settings], expr: ast.List, scope: Scope) -> Value:
    name = model.model_fields["kind"].default
    made = []
    for item in expr.items:
        called = item.function if isinstance(item, ast.Call) else None
        if not (isinstance(called, ast.Name) and called.name == name):
            refuse("G202", f"each of the list is `{name}(…)`", item.span)
        assert isinstance(item, ast.Call)
        made.append(Value(_constructed(model, item, scope), "object"))
    return Value(made, "list")


def _constructed(model: type[Settings], call: ast.Call, scope: Scope) -> dict[str, Any]:
    name = model.model_fields["kind"].default
    settings = []
    places = iter(model.places)
    for arg in call.args:
        place = next(places, None) if arg.name is None else None
        if arg.name is None and place is None:
            refuse("G203", f"`{name}` takes `NAME = value` arguments only", arg.span)
        word = arg.name or ast.Ident(str(place), arg.span)
        settings.append(ast.Setting(word, arg.value, arg.span))
    return check_settings(name, model, settings, scope, call.span)[0]


def _check_unit(name: str, field: FieldInfo, value: Value, span: Span) -> None:
    unit = next((meta.name for meta in field.metadata if isinstance(meta, Unit)), None)
    if unit == value.kind or value.kind not in ("int", "float", "size", "duration", "fraction"):
        return
    if unit is not None:
        refuse(
            "G206",
            f"`{name}` is a {unit} and needs its unit, for example {_EXAMPLES[unit]}",
            span,
        )
    if value.kind in ("size", "duration"):
        refuse("G206", f"`{name}` is a plain number, not a {value.kind} ({show(value)})", span)


_EXAMPLES = {"duration": "`5min`", "size": "`2GiB`", "fraction": "`90%`"}


def _validated(
    owner: str,
    model: type[Settings],
    data: dict[str, Any],
    values: Mapping[str, tuple[Value, Span]],
    where: Span,
) -> dict[str, Any]:
    try:
        return model.model_validate(data).model_dump(mode="json")
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
    name = str(problem["loc"][0])
    if name not in values:
        assert problem["type"] == "missing", problem
        example = f"{{ {name} = … }}" if name not in ("path", "source", "name") else f'{owner}("…")'
        if "kind" in model.model_fields and name not in model.places:
            example = f"{owner}({name} = …)"
        refuse("G209", f"`{owner}` needs `{name}`", where, hint=f"write `{example}`")
    value, span = values[name]
    sentence = _sentence(name, problem, model.model_fields[name], value)
    refuse("G202", sentence, span)


_RANGES = {
    "greater_than": ("gt", "greater than"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "less than"),
    "less_than_equal": ("le", "at most"),
}


def _sentence(name: str, problem: Any, field: FieldInfo, value: Value) -> str:
    kind = problem["type"]
    context = problem.get("ctx", {})
    if kind in _RANGES and len(problem["loc"]) == 1:
        key, words = _RANGES[kind]
        return f"`{name}` must be {words} {context[key]:g}, not {show(value)}"
    if kind == "string_pattern_mismatch":
        example = (field.examples or [""])[0]
        return f"`{name}` cannot be {show(value)}; it looks like `{example}`"
    if kind in ("too_short", "too_long"):
        return f"`{name}` needs {_count(context)} values"
    return f"`{name}` must be {expected(field.annotation)}, not {_shown(value)}"


def _count(context: Mapping[str, Any]) -> str:
    return str(context.get("min_length", context.get("max_length")))


def _shown(value: Value) -> str:
    return "an adapter" if value.kind == "object" else show(value)


def expected(annotation: Any) -> str:
    """A type in words: `a whole number or none`."""
    origin = get_origin(annotation)
    if origin is Literal:
        return _either([f'"{option}"' for option in get_args(annotation)])
    if origin in (Union, UnionType):
        parts = list(dict.fromkeys(expected(part) for part in get_args(annotation)))
        return _either(parts)
    if origin is list and _models(get_args(annotation)[0]):
        return f"a list of {expected(get_args(annotation)[0])}"
    if origin is list:
        return "a list of " + _PLURALS.get(get_args(annotation)[0], "numbers")
    if _models(annotation):
        return f"`{_models(annotation)[0].model_fields['kind'].default}(…)`"
    if hasattr(annotation, "__metadata__"):
        return expected(get_args(annotation)[0])
    return _WORDS[annotation]


_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a string",
    NoneType: "none",
}
_PLURALS: dict[Any, str] = {str: "strings", int: "whole numbers"}


def _either(words: list[str]) -> str:
    return " or ".join(words) if len(words) < 3 else ", ".join(words[:-1]) + f" or {words[-1]}"
