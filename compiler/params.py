"""Parameters: typed values of a declaration, from defaults, a params file, `--set` or a call.

Later layers win; which layer set what is kept. A value that does not fit its type or its `where`
is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grape.compiler.constants import Scope, Value, evaluate, origin, show, truth
from grape.compiler.names import Refused, refuse, unknown
from grape.dsl import ast
from grape.dsl.findings import Label
from grape.dsl.source import Source, Span

_KINDS: dict[str, tuple[str, ...]] = {
    "int": ("int",),
    "float": ("float", "int", "fraction"),
    "bool": ("bool",),
    "string": ("string",),
    "fraction": ("fraction", "float", "int"),
    "size": ("size",),
    "duration": ("duration",),
}

TYPES = tuple(_KINDS)
_ELSEWHERE = {
    "str": "string",
    "text": "string",
    "boolean": "bool",
    "integer": "int",
    "number": "float",
    "double": "float",
}
"""What types of parameters are called in other languages."""


@dataclass(frozen=True, slots=True)
class Given:
    """A value from outside the file: `text` is parsed by the parameter's type, or it is a TOML
    `value`; `span` is where a finding points."""

    layer: str
    span: Span | None
    text: str | None = None
    value: Any = None


def check_declared(params: Sequence[ast.Param]) -> None:
    """Types that exist, names declared once. Raises `Refused`."""
    seen: dict[str, Span] = {}
    for param in params:
        name = param.name.name
        if name in seen:
            labels = (Label(seen[name], "first declared here"),)
            refuse("G102", f"parameter `{name}` is declared twice", param.name.span, labels=labels)
        seen[name] = param.name.span
        if param.type.name not in _KINDS:
            message = f"`{param.type.name}` is no type of a parameter"
            if param.type.name in _ELSEWHERE:
                hint = f"write `{_ELSEWHERE[param.type.name]}`"
                refuse("G207", message, param.type.span, hint=hint)
            unknown(
                "G207",
                message,
                param.type.name,
                param.type.span,
                TYPES,
                listing="types are",
            )


def check_with_models(params: Sequence[ast.Param]) -> None:
    """`check_declared` for a declaration that may ask models: `judge: Model`. Raises `Refused`."""
    check_declared([param for param in params if param.type.name != "Model"])
    seen: dict[str, Span] = {}
    for param in params:
        name = param.name.name
        if name in seen:
            labels = (Label(seen[name], "first declared here"),)
            refuse("G102", f"parameter `{name}` is declared twice", param.name.span, labels=labels)
        seen[name] = param.name.span
        if param.type.name == "Model" and (param.default or param.where or param.type.list_of):
            message = f"`{name}` is a model: it has no default and no constraint"
            refuse("G206", message, param.span, hint=f"write `{name}: Model`")


def bind(
    params: Sequence[ast.Param], given: Mapping[str, Given], owner: str
) -> tuple[dict[str, Value], dict[str, str]]:
    """Values of a pipeline's parameters and the layer that set each. Raises `Refused`."""
    values: dict[str, Value] = {}
    layers: dict[str, str] = {}
    for param in params:
        name = param.name.name
        source = given.get(name)
        if source is None:
            values[name] = default_of(param, values, owner, param.name.span)
            layers[name] = (origin(param.default) if param.default else None) or "default"
            continue
        span = source.span or param.name.span
        _refuse_secret(param, source, span)
        if source.text is not None:
            values[name] = _from_text(param, source.text, source.layer, span)
        else:
            values[name] = fit(param, _from_toml(param, source.value, span), span)
        layers[name] = source.layer
        _hold(param, values, span)
    return values, layers


def _refuse_secret(param: ast.Param, source: Given, span: Span) -> None:
    """What a file or a command line says is logged and stored; a secret's value must not be."""
    came = origin(param.default) if param.default is not None else None
    if came is not None and came.startswith("secret"):
        message = f"`{param.name.name}` is a secret, and {source.layer} would show its value"
        labels = (Label(param.span, "declared here"),)
        refuse("G236", message, span, labels=labels, hint="set the variable that it names instead")


def default_of(param: ast.Param, scope: Scope, owner: str, span: Span) -> Value:
    """The default of a parameter. Raises `Refused` at `span` when there is none."""
    if param.type.name == "Model":
        name = param.name.name
        hint = f"name it: `{owner}({name} = MODEL)`"
        refuse("G203", f"`{owner}` needs the model `{name}`", span, hint=hint)
    if param.default is None:
        name = param.name.name
        refuse(
            "G208",
            f"parameter `{name}` of `{owner}` has no value",
            span,
            hint=f"give it a default, or a value such as `--set {name}=…`",
        )
    raw = evaluate(param.default, scope)
    if raw.kind == "string" and _is_env(param.default) and param.type.name != "string":
        value = _from_text(param, raw.data, "environment", param.default.span)
    else:
        value = fit(param, raw, param.default.span)
    _hold(param, {**scope, param.name.name: value}, param.default.span)
    return value


def call_values(
    owner: str,
    params: Sequence[ast.Param],
    args: Sequence[ast.Arg],
    scope: Scope,
    span: Span,
) -> dict[str, Value]:
    """Values of the parameters of a called declaration. Raises `Refused`."""
    given = match_arguments(owner, [param.name.name for param in params], args)
    values: dict[str, Value] = {}
    for param in params:
        arg = given.get(param.name.name)
        if arg is None:
            values[param.name.name] = default_of(param, values, owner, span)
            continue
        values[param.name.name] = fit(param, evaluate(arg.value, scope), arg.value.span)
        _hold(param, values, arg.value.span)
    return values


def match_arguments(
    owner: str, names: Sequence[str], args: Sequence[ast.Arg]
) -> dict[str, ast.Arg]:
    """Which argument is which parameter. Raises `Refused` for unknown, doubled or too many."""
    given: dict[str, ast.Arg] = {}
    for position, arg in enumerate(args):
        if arg.per is not None:
            refuse("G203", f"`per` belongs to a reduction, and `{owner}` is none", arg.span)
        if arg.name is not None:
            name = arg.name.name
            if name not in names:
                message = f"`{owner}` has no parameter `{name}`"
                unknown("G108", message, name, arg.name.span, names, listing="it has")
        elif position < len(names):
            name = names[position]
        else:
            count = f"{len(names)} parameter" + ("" if len(names) == 1 else "s")
            refuse("G203", f"`{owner}` has {count}, this is one more", arg.span)
        if name in given:
            labels = (Label(given[name].span, "first given here"),)
            refuse("G102", f"`{name}` is given twice", arg.span, labels=labels)
        given[name] = arg
    return given


def fit(param: ast.Param, value: Value, span: Span) -> Value:
    """The value as the type of the parameter. Raises `Refused` when it does not fit."""
    kind = param.type.name
    if param.type.list_of:
        if value.kind == "list":
            return Value(tuple(_fit(param, kind, item, span) for item in value.data), "list")
        refuse("G206", f"`{param.name.name}` is a list of {kind}, not {show(value)}", span)
    return _fit(param, kind, value, span)


def _fit(param: ast.Param, kind: str, value: Value, span: Span) -> Value:
    if value.kind == "secret" and kind == "string":
        return value
    if kind == "Model" and value.kind == "model":
        return value
    if value.kind not in _KINDS.get(kind, ()):
        labels = (Label(param.type.span, f"declared {kind} here"),)
        message = f"`{param.name.name}` is declared {kind}, and {show(value)} is not"
        refuse("G206", message, span, labels=labels)
    if kind == "fraction" and not 0 <= value.data <= 1:
        refuse("G206", f"`{param.name.name}` is a fraction between 0% and 100%", span)
    data = float(value.data) if kind in ("float", "fraction") else value.data
    return Value(data, kind)


def _hold(param: ast.Param, scope: Scope, span: Span) -> None:
    if param.where is not None and not truth(param.where, scope):
        name = param.name.name
        labels = (Label(param.where.span, "the constraint"),)
        shown = show(scope[name])
        message = f"`{name}` is {shown}, but it must satisfy `{param.where.span.text}`"
        refuse("G210", message, span, labels=labels)


def _is_env(expr: ast.Expr) -> bool:
    return isinstance(expr, ast.Call) and expr.function == ast.Name("env", expr.span)


def _from_text(param: ast.Param, text: str, layer: str, span: Span) -> Value:
    if param.type.name == "string" and not param.type.list_of:
        return Value(text, "string")
    expr = parse_expression(text)
    if expr is not None:
        try:
            return fit(param, evaluate(expr, {}), span)
        except Refused:
            pass
    kind = f"list of {param.type.name}" if param.type.list_of else param.type.name
    name = param.name.name
    refuse("G206", f"`{name}` is declared {kind}, and {layer} gives it `{text}`", span)


def parse_expression(text: str) -> ast.Expr | None:
    """One grammar everywhere: the text is read as the default of a parameter."""
    from grape.dsl.parse import parse

    file, findings = parse(Source("--set", f"grape 1\npipeline p(x: int = {text}) {{\n}}\n"))
    declared = file.declarations[0] if len(file.declarations) == 1 and not findings else None
    if isinstance(declared, ast.PipelineDecl) and len(declared.params) == 1:
        return declared.params[0].default
    return None


_TOML: tuple[tuple[type, str], ...] = (
    (bool, "bool"),
    (int, "int"),
    (float, "float"),
    (str, "string"),
)


def _from_toml(param: ast.Param, value: Any, span: Span) -> Value:
    if isinstance(value, list):
        return Value(tuple(_from_toml(param, item, span) for item in value), "list")
    if isinstance(value, str) and param.type.name in ("size", "duration", "fraction"):
        return _from_text(param, value, "the params file", span)
    for kind, name in _TOML:
        if isinstance(value, kind):
            return Value(value, name)
    refuse("G206", f"`{param.name.name}` cannot be a table or a date", span)


def read_params_file(path: str, text: str) -> dict[str, Given]:
    """The values of a TOML params file. Raises `Refused` when it is no TOML."""
    import tomllib

    source = Source(path, text)
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        reason = str(error).split(" (at")[0].rstrip(".").lower()
        line = re.search(r"line (\d+)", str(error))
        refuse("G211", f"the params file is no TOML: {reason}", line_span(source, line))
    locate: Callable[[str], Span] = lambda key: _key_span(source, key)  # noqa: E731
    return {key: Given("params file", locate(key), value=value) for key, value in table.items()}


def line_span(source: Source, line: re.Match[str] | None) -> Span:
    """The whole line that an error message names; the start of the file when it names none."""
    number = int(line.group(1)) if line else 1
    start = sum(len(row) + 1 for row in source.text.split("\n")[: number - 1])
    return Span(source, start, start + len(source.line_text(number)))


def _key_span(source: Source, key: str) -> Span:
    found = re.search(rf'^\s*"?({re.escape(key)})"?\s*[=.]', source.text, re.MULTILINE)
    start = found.start(1) if found else 0
    return Span(source, start, start + len(key) if found else 0)
