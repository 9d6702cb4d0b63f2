"""Rewards: signatures of the built-in ones, and reward expressions as JSON.

`compile_reward` fills in parameters and gives every part a label of its own, under which its
values are logged. Nothing of the user's is imported or run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grape.compiler.constants import Scope, Value, evaluate, show
from grape.compiler.graders import GRADERS
from grape.compiler.modules import Module, known_names, lookup
from grape.compiler.names import refuse, unknown
from grape.compiler.params import call_values, match_arguments
from grape.dsl import ast
from grape.dsl.source import Span

_REQUIRED = object()

MAX_OPEN, MAX_CALLS = 40, 500
"""How deep declared rewards may call each other, and how many calls one may come to."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter of a built-in reward: the kinds it takes, the words it may be, its default."""

    name: str
    kinds: tuple[str, ...]
    default: Any = _REQUIRED
    choices: tuple[str, ...] = ()


BUILTINS: dict[str, tuple[Parameter, ...]] = {
    "exact": (
        Parameter("extract", ("string",), "text", ("text", "number", "last_line")),
        Parameter("ignore_case", ("bool",), False),
        Parameter("of", ("string",), "answer"),
    ),
    "contains": (
        Parameter("text", ("string", "none"), None),
        Parameter("ignore_case", ("bool",), False),
    ),
    "regex": (Parameter("pattern", ("string",)),),
    "within": (
        Parameter("max", ("int",)),
        Parameter("unit", ("string",), "characters", ("characters", "words", "tokens")),
        Parameter("min", ("int",), 0),
    ),
    "format": (
        Parameter("tags", ("list", "none"), None),
        Parameter("pattern", ("string", "none"), None),
    ),
    "environment": (),
    "python": (Parameter("source", ("string",)),),
    "math": (Parameter("of", ("string",), "answer"),),
    "json_schema": (
        Parameter("schema", ("string",)),
        Parameter("extract", ("string",), "text", ("text", "code")),
    ),
    "unit_tests": (
        Parameter("of", ("string",), "tests"),
        Parameter("extract", ("string",), "code", ("text", "code")),
        Parameter("partial", ("bool",), False),
        Parameter("timeout", ("duration",), 5.0),
        Parameter("memory", ("size",), 512 * 1024**2),
        Parameter("sandbox", ("string",), "namespaces", ("namespaces", "process")),
    ),
    "sql": (
        Parameter("database", ("string", "none"), None),
        Parameter("schema", ("string", "none"), None),
        Parameter("of", ("string",), "answer"),
        Parameter("extract", ("string",), "code", ("text", "code")),
        Parameter("ordered", ("bool",), False),
        Parameter("timeout", ("duration",), 2.0),
    ),
    "classifier": (
        Parameter("source", ("string", "model")),
        Parameter("label", ("string", "none"), None),
        Parameter("reads", ("string",), "both", ("both", "completion")),
        Parameter("squash", ("bool",), False),
    ),
}
"""Rewards that ship with Grape. `within` is 1 inside its bounds and 0 outside."""

FUNCTIONS: dict[str, tuple[int, int]] = {
    "min": (1, 99),
    "max": (1, 99),
    "abs": (1, 1),
    "exp": (1, 1),
    "log": (1, 1),
    "sqrt": (1, 1),
    "clamp": (3, 3),
}
"""Functions of numbers in a reward: how many arguments they take, least and most."""


@dataclass(slots=True)
class _Work:
    """What one reward expression has used so far."""

    project: Path
    labels: set[str] = field(default_factory=set)
    open: list[str] = field(default_factory=list)
    size: int = 0

    def label(self, name: str) -> str:
        number = 2
        label = name
        while label in self.labels:
            label = f"{name}_{number}"
            number += 1
        self.labels.add(label)
        return label


def compile_reward(expr: ast.Expr, module: Module, scope: Scope, project: Path) -> dict[str, Any]:
    """A reward expression as JSON (`docs/architecture.md`). Raises `Refused`."""
    work = _Work(project)
    declared = _declared(expr, module)
    if declared is not None and isinstance(expr, ast.Call):
        return _inside(expr, *declared, scope, work)
    return _expression(expr, module, scope, work)


def parts_of(reward: Mapping[str, Any]) -> Iterator[str]:
    """Labels of the parts of a compiled reward; of a rubric the names of its items."""
    if reward["op"] == "rubric":
        names = [item["name"] for made in reward["categories"] for item in made["items"]]
        yield from dict.fromkeys(names)
        return
    for node in walk(reward):
        if "part" in node:
            yield node["part"]


def walk(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every node of a compiled reward."""
    yield node
    inner = [node["value"]] if node["op"] == "part" else []
    for category in node.get("categories", ()):
        inner += [item["value"] for item in category["items"] if "value" in item]
    for child in (*node.get("args", ()), *inner):
        yield from walk(child)


def judge_port(node: Mapping[str, Any]) -> str | None:
    """The port of the model that a call of `classifier` asks; None for any other node."""
    source = node["params"]["source"] if node.get("name") == "classifier" else None
    return source["port"] if isinstance(source, Mapping) else None


def missing_for(
    reward: Mapping[str, Any], columns: frozenset[str], *, tokens: bool = True
) -> str | None:
    """Why prompts with these columns cannot be scored by a reward; None when they can. `tokens`
    tells whether the completions have token ids."""
    for node in walk(reward):
        if node["op"] != "call":
            continue
        name, params = node["name"], node["params"]
        compares = (name in ("exact", "math", "sql") and params["of"] == "answer") or (
            name == "contains" and params["text"] is None
        )
        if name == "within" and params["unit"] == "tokens" and not tokens:
            return "`within` counts tokens, and a served model gives text only; count words"
        if compares and "answer" not in columns:
            return f"`{name}` compares with the answer, and the prompts have none"
        if name == "environment" and "environment" not in columns:
            return "`environment()` is the verifier of `environment(…)` data, and this is none"
    return None


def _declared(expr: ast.Expr, module: Module) -> tuple[ast.RewardDecl, Module] | None:
    if not isinstance(expr, ast.Call) or not isinstance(expr.function, ast.Name):
        return None
    found = lookup(module, expr.function.name)
    if found is None:
        return None
    declaration, home = found
    if isinstance(declaration, ast.RubricDecl):
        message = f"`{expr.function.name}` is a rubric, and a rubric is no part of a reward"
        hint = "give it to `score` or `evaluate` as it is; its items and weights combine rewards"
        refuse("G254", message, expr.span, hint=hint)
    if isinstance(declaration, ast.AlgorithmDecl):
        name = expr.function.name
        refuse("G216", f"`{name}` is an algorithm, a reward is expected here", expr.span)
    return declaration, home


def _inside(
    call: ast.Call, declared: ast.RewardDecl, home: Module, scope: Scope, work: _Work
) -> dict[str, Any]:
    name = declared.name.name
    if name in work.open:
        chain = " → ".join([*work.open[work.open.index(name) :], name])
        refuse("G118", f"a reward cannot call itself: {chain}", call.span)
    work.size += 1
    if len(work.open) > MAX_OPEN or work.size > MAX_CALLS:
        message = f"this reward calls others {MAX_OPEN} deep or {MAX_CALLS} times"
        refuse("G717", message, call.span, hint="write it with fewer rewards")
    values = call_values(name, declared.params, call.args, scope, call.span)
    work.open.append(name)
    made = _expression(declared.value, home, values, work)
    work.open.pop()
    return made


def _expression(expr: ast.Expr, module: Module, scope: Scope, work: _Work) -> dict[str, Any]:
    match expr:
        case ast.Number() | ast.Bool() | ast.Name():
            return _constant(expr, module, scope)
        case ast.Unary(op, operand):
            args = [_expression(operand, module, scope, work)]
            return {"op": "neg" if op == "-" else "not", "args": args}
        case ast.Binary(op, left, right):
            args = [_expression(side, module, scope, work) for side in (left, right)]
            return {"op": op, "args": args}
        case ast.Conditional(test, yes, no):
            args = [_expression(side, module, scope, work) for side in (test, yes, no)]
            return {"op": "if", "args": args}
        case ast.Call(ast.Name(name)):
            return _call(expr, name, module, scope, work)
    refuse("G216", f"`{expr.span.text}` is no reward; rewards are called: `exact()`", expr.span)


def _constant(
    expr: ast.Number | ast.Bool | ast.Name, module: Module, scope: Scope
) -> dict[str, Any]:
    if isinstance(expr, ast.Name) and expr.name not in scope:
        name = expr.name
        if name in BUILTINS or lookup(module, name) is not None:
            refuse("G216", f"a reward is called: write `{name}()`", expr.span)
        unknown("G101", f"there is no `{name}` here", name, expr.span, _known(module, scope))
    value = evaluate(expr, scope)
    if value.kind not in ("int", "float", "fraction", "bool"):
        refuse("G216", f"a reward is a number, and `{expr.span.text}` is {show(value)}", expr.span)
    return {"op": "number", "value": value.data}


def _known(module: Module, scope: Scope) -> list[str]:
    return [*scope, *BUILTINS, *known_names(module, ast.RewardDecl)]


def _call(expr: ast.Call, name: str, module: Module, scope: Scope, work: _Work) -> dict[str, Any]:
    declared = _declared(expr, module)
    if declared is not None:
        label = work.label(name)
        value = _inside(expr, *declared, scope, work)
        return {"op": "part", "part": label, "value": value}
    if name in FUNCTIONS:
        least, most = FUNCTIONS[name]
        if not least <= len(expr.args) <= most:
            refuse("G203", f"`{name}` takes {least} argument(s) here", expr.span)
        args = [_expression(arg.value, module, scope, work) for arg in expr.args]
        return {"op": name, "args": args}
    if name == "ask":
        hint = "write a `rubric` with `item NAME = ask(critic, …)`"
        refuse("G253", "`ask` is an item of a rubric, no reward by itself", expr.span, hint=hint)
    if name not in BUILTINS:
        span = expr.function.span
        unknown("G101", f"there is no reward `{name}`", name, span, _known(module, {}))
    params = _builtin(name, expr, scope)
    _check_builtin(name, params, expr, work.project)
    return {"op": "call", "name": name, "part": work.label(name), "params": params}


def _builtin(name: str, expr: ast.Call, scope: Scope) -> dict[str, Any]:
    signature = BUILTINS[name]
    given = match_arguments(name, [parameter.name for parameter in signature], expr.args)
    params: dict[str, Any] = {}
    for parameter in signature:
        arg = given.get(parameter.name)
        if arg is not None:
            value = evaluate(arg.value, scope)
            _check_value(name, parameter, value, arg.value.span)
            plain = value.plain()
            params[parameter.name] = {"port": plain} if value.kind == "model" else plain
        elif parameter.default is _REQUIRED:
            refuse("G203", f"`{name}` needs `{parameter.name}`", expr.span)
        else:
            params[parameter.name] = parameter.default
    return params


def _check_value(name: str, parameter: Parameter, value: Value, span: Span) -> None:
    if value.kind not in parameter.kinds:
        wanted = " or ".join(_WORDS[kind] for kind in parameter.kinds if kind != "none")
        refuse("G202", f"`{parameter.name}` of `{name}` is {wanted}, not {show(value)}", span)
    if parameter.choices and value.data not in parameter.choices:
        choices = ", ".join(f'"{choice}"' for choice in parameter.choices)
        message = f"`{parameter.name}` of `{name}` is one of {choices}, not {show(value)}"
        refuse("G202", message, span)


_WORDS = {
    "string": "a string",
    "model": "a model",
    "bool": "true or false",
    "int": "a whole number",
    "list": "a list",
    "duration": "a duration such as `5s`",
    "size": "a size such as `512MiB`",
}


def _check_regex(params: dict[str, Any], expr: ast.Call) -> None:
    import re

    if params["pattern"] is None:
        return
    try:
        re.compile(params["pattern"])
    except re.error as error:
        refuse("G202", f"the pattern is no regular expression: {error.msg}", expr.span)
    except (OverflowError, RecursionError):
        refuse("G202", "the pattern is too large for a regular expression", expr.span)


def _check_format(params: dict[str, Any], expr: ast.Call) -> None:
    if (params["tags"] is None) == (params["pattern"] is None):
        refuse("G203", "`format` needs either `tags` or `pattern`", expr.span)
    tags = params["tags"] or []
    if not all(isinstance(tag, str) and tag for tag in tags):
        refuse("G202", "`tags` is a list of names in quotes", expr.span)
    _check_regex(params, expr)


def _check_builtin(name: str, params: dict[str, Any], expr: ast.Call, project: Path) -> None:
    checks: dict[str, Callable[[], None]] = {
        "regex": lambda: _check_regex(params, expr),
        "format": lambda: _check_format(params, expr),
        "python": lambda: _read_python(params["source"], expr, project),
    }
    if name in checks:
        checks[name]()
    if name in GRADERS:
        GRADERS[name](params, expr.span, project)
    if name == "within" and params["min"] > params["max"]:
        refuse("G202", "`min` of `within` is greater than `max`", expr.span)


def _read_python(text: str, expr: ast.Call, project: Path) -> None:
    from grape.compiler.python_reward import read_reward

    read_reward(text, expr.span, project)


def check_declaration(declared: ast.RewardDecl, module: Module, project: Path) -> None:
    """Compile a reward with its defaults, to find what is wrong before anyone uses it.

    A reward with a parameter without default is checked where it is called.
    """
    from grape.compiler.params import check_with_models, default_of

    check_with_models(declared.params)
    values: dict[str, Value] = {}
    for param in declared.params:
        if param.type.name == "Model":
            values[param.name.name] = Value(param.name.name, "model")
            continue
        if param.default is None:
            touch(declared.value, module)
            return
        values[param.name.name] = default_of(param, values, declared.name.name, param.span)
    work = _Work(project, open=[declared.name.name])
    _expression(declared.value, module, values, work)


def touch(expr: ast.Expr, module: Module) -> None:
    """Mark what an unchecked expression uses, so that its imports do not count as unused."""
    match expr:
        case ast.Call(ast.Name(name)):
            lookup(module, name)
    for inner in ast.inside(expr):
        touch(inner, module)
