"""Rubrics as JSON: categories with their conditions, items with weights, verified or judged.

In come a rubric's declaration and the call that fills its parameters; models among them become
edges of the graph through `Connect`. Nothing is run; what only data can tell is left to the run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from grape.compiler.constants import Scope, Value, evaluate, show
from grape.compiler.modules import Module, lookup
from grape.compiler.names import Refused, refuse
from grape.compiler.params import call_values, check_with_models, default_of, match_arguments
from grape.compiler.rewards import compile_reward, missing_for, touch
from grape.compiler.templates import parse_template
from grape.dsl import ast
from grape.dsl.findings import Label
from grape.dsl.source import Span

Connect = Callable[[str, ast.Arg], str]
"""A parameter and the argument that names its model, to the port of the stage it comes in by."""

_SCALE = (2, 9)


def rubric_of(expr: ast.Expr, module: Module) -> tuple[ast.RubricDecl, Module] | None:
    """The rubric that a call names, and the file that declares it; None when it is none."""
    if not isinstance(expr, ast.Call) or not isinstance(expr.function, ast.Name):
        return None
    found = lookup(module, expr.function.name)
    if found is None or not isinstance(found[0], ast.RubricDecl):
        return None
    return found[0], found[1]


def compile_rubric(
    call: ast.Call,
    declared: ast.RubricDecl,
    home: Module,
    scope: Scope,
    project: Path,
    connect: Connect,
) -> dict[str, Any]:
    """A rubric with its parameters filled in, as JSON (`docs/rubrics.md`). Raises `Refused`."""
    check_with_models(declared.params)
    name = declared.name.name
    given = match_arguments(name, [param.name.name for param in declared.params], call.args)
    values: dict[str, Value] = {}
    for param in declared.params:
        if param.type.name != "Model":
            continue
        arg = given.pop(param.name.name, None)
        if arg is None:
            message = f"`{name}` needs the model `{param.name.name}`"
            hint = f"name it: `{name}({param.name.name} = MODEL)`"
            refuse("G203", message, call.span, hint=hint)
        values[param.name.name] = Value(connect(param.name.name, arg), "model")
    plain = [param for param in declared.params if param.type.name != "Model"]
    named = [
        ast.Arg(ast.Ident(key, arg.span), arg.value, None, arg.span) for key, arg in given.items()
    ]
    values |= call_values(name, plain, named, scope, call.span)
    return _categories(declared, home, values, project)


def check_declaration(declared: ast.RubricDecl, module: Module, project: Path) -> None:
    """Compile a rubric with its defaults, to find what is wrong before anyone uses it. One with a
    plain parameter without default is checked where it is called. Raises `Refused`."""
    check_with_models(declared.params)
    values: dict[str, Value] = {}
    for param in declared.params:
        if param.type.name == "Model":
            values[param.name.name] = Value(param.name.name, "model")
        elif param.default is None:
            for category in declared.categories:
                for item in category.items:
                    touch(item.value, module)
            return
        else:
            values[param.name.name] = default_of(param, values, declared.name.name, param.span)
    _categories(declared, module, values, project)


def items_of(rubric: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Every item of a compiled rubric."""
    for category in rubric["categories"]:
        yield from category["items"]


def missing_for_rubric(rubric: Mapping[str, Any], columns: frozenset[str]) -> str | None:
    """Why prompts with these columns cannot be judged by a rubric; None when they can."""
    for item in items_of(rubric):
        if "ask" in item:
            if (
                "answer" in parse_template(item["ask"]["question"]).columns
                and "answer" not in columns
            ):
                return (
                    f"the question of `{item['name']}` shows the answer, and the prompts have none"
                )
        else:
            missing = missing_for(item["value"], columns)
            if missing is not None:
                return missing
    return None


def _categories(
    declared: ast.RubricDecl, module: Module, values: Mapping[str, Value], project: Path
) -> dict[str, Any]:
    name = declared.name.name
    if not declared.categories:
        if module.file.damaged:
            raise Refused(None)
        message = f"the rubric `{name}` has no category"
        refuse("G252", message, declared.name.span, hint="write `category NAME { item … }`")
    made: list[dict[str, Any]] = []
    seen: dict[str, Span] = {}
    for number, category in enumerate(declared.categories):
        _once(category.name, seen, "category")
        if category.when is None and number + 1 < len(declared.categories):
            later = declared.categories[number + 1].name
            message = f"no completion ever reaches `{later.name}`: `{category.name.name}` takes all"
            labels = (Label(category.name.span, "this one has no `when`"),)
            hint = "the category without `when` stands last"
            refuse("G252", message, later.span, labels=labels, hint=hint)
        made.append(_category(category, module, values, project))
    return {"op": "rubric", "name": name, "categories": made}


def _once(name: ast.Ident, seen: dict[str, Span], what: str) -> None:
    if name.name in seen:
        labels = (Label(seen[name.name], "first defined here"),)
        refuse("G102", f"the {what} `{name.name}` is defined twice", name.span, labels=labels)
    seen[name.name] = name.span


def _category(
    category: ast.RubricCategory, module: Module, values: Scope, project: Path
) -> dict[str, Any]:
    if not category.items:
        message = f"the category `{category.name.name}` has no item, so nothing can be scored"
        refuse("G252", message, category.name.span, hint="write `item NAME weight 1 = …`")
    seen: dict[str, Span] = {}
    items: list[dict[str, Any]] = []
    for item in category.items:
        _once(item.name, seen, "item")
        items.append(_item(item, module, values, project))
    if not any(item["weight"] for item in items):
        message = f"every item of `{category.name.name}` weighs 0, so nothing counts"
        refuse("G252", message, category.name.span)
    when = None if category.when is None else condition(category.when, values)
    return {"name": category.name.name, "when": when, "items": items}


def _item(item: ast.RubricItem, module: Module, values: Scope, project: Path) -> dict[str, Any]:
    head = {"name": item.name.name, "weight": _weight(item, values)}
    if _is_ask(item.value):
        assert isinstance(item.value, ast.Call)
        return {**head, "ask": _ask(item.value, values)}
    hidden = next((inner for inner in _inside(item.value) if _is_ask(inner)), None)
    if hidden is not None:
        hint = "give the question an item of its own; the weights combine them"
        refuse("G253", "`ask` is a whole item, no part of an expression", hidden.span, hint=hint)
    return {**head, "value": compile_reward(item.value, module, values, project)}


def _weight(item: ast.RubricItem, values: Scope) -> float:
    if item.weight is None:
        return 1.0
    value = evaluate(item.weight, values)
    if value.kind not in ("int", "float", "fraction") or value.data < 0:
        message = f"the weight of `{item.name.name}` is a number of at least 0, not {show(value)}"
        refuse("G202", message, item.weight.span)
    return float(value.data)


def _inside(expr: ast.Expr) -> Iterator[ast.Expr]:
    for inner in ast.inside(expr):
        yield inner
        yield from _inside(inner)


def _is_ask(expr: ast.Expr) -> bool:
    return (
        isinstance(expr, ast.Call)
        and isinstance(expr.function, ast.Name)
        and expr.function.name == "ask"
    )


def _ask(call: ast.Call, values: Scope) -> dict[str, Any]:
    given = match_arguments("ask", ["critic", "question", "scale"], call.args)
    for name in ("critic", "question"):
        if name not in given:
            hint = 'write `ask(critic, "Is each step written out?")`'
            refuse("G203", f"`ask` needs `{name}`", call.span, hint=hint)
    critic = given["critic"].value
    port = values.get(critic.name) if isinstance(critic, ast.Name) else None
    if port is None or port.kind != "model":
        message = f"`{critic.span.text}` is no model of this rubric"
        models = [name for name, value in values.items() if value.kind == "model"]
        hint = (
            f"its models are: {', '.join(models)}"
            if models
            else "declare it as a parameter: `rubric NAME(critic: Model)`"
        )
        refuse("G253", message, critic.span, hint=hint)
    scale = _scale(given["scale"], values) if "scale" in given else None
    return {"critic": port.data, "question": _question(given["question"], values), "scale": scale}


def _scale(arg: ast.Arg, values: Scope) -> int | None:
    value = evaluate(arg.value, values)
    if value.kind == "none":
        return None
    low, high = _SCALE
    if value.kind != "int" or not low <= value.data <= high:
        message = f"`scale` is a whole number from {low} to {high}, not {show(value)}"
        refuse("G202", message, arg.value.span, hint="without it the answer is yes or no")
    return int(value.data)


def _question(arg: ast.Arg, values: Scope) -> str:
    value = evaluate(arg.value, values)
    if value.kind != "string" or not value.data.strip():
        refuse("G202", f"the question is a text, not {show(value)}", arg.value.span)
    try:
        parse_template(value.data)
    except ValueError as error:
        refuse("G202", str(error), arg.value.span)
    return str(value.data)


_OPERATORS = ("==", "!=", "<", "<=", ">", ">=", "and", "or", "+", "-", "*", "/")


def condition(expr: ast.Expr, scope: Scope) -> dict[str, Any]:
    """A `when` as JSON: `value`, `column`, and operators over them. Raises `Refused`."""
    match expr:
        case ast.Name(name) if name not in scope:
            return {"op": "value", "value": None} if name == "none" else _column(name)
        case ast.Number() | ast.String() | ast.Bool() | ast.Name():
            value = evaluate(expr, scope)
            if value.kind == "model":
                refuse("G255", f"`{expr.span.text}` is a model, not a value", expr.span)
            return {"op": "value", "value": value.plain()}
        case ast.Unary(op, operand):
            return {"op": "neg" if op == "-" else "not", "args": [condition(operand, scope)]}
        case ast.Binary(op, left, right) if op in _OPERATORS:
            return {"op": op, "args": [condition(left, scope), condition(right, scope)]}
    hint = 'compare columns of the data with constants: `when topic == "sums" and level > 2`'
    refuse("G255", f"`{expr.span.text}` cannot decide a category", expr.span, hint=hint)


def _column(name: str) -> dict[str, Any]:
    return {"op": "column", "name": name}
