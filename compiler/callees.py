"""What can be called in a file, with parameters, settings and documentation, for editors.

Everything comes from where the checker takes it: the verbs' settings models (the documentation
stands under each field), the signatures of the built-in rewards, the declarations themselves.
"""

from __future__ import annotations

import ast as python
import inspect
from functools import cache
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from grape.compiler.rewards import BUILTINS, Parameter
from grape.compiler.settings import expected
from grape.compiler.symbols import Named, signature, symbol_of
from grape.compiler.verb import Settings, Unit, Verb
from grape.compiler.verbs import KEYWORDS, VERBS, verb
from grape.dsl import ast
from grape.dsl.lsp.analyser import Callee, Setting

_SPECIAL = {
    "algorithm": ("an algorithm, called", "The formula whose value is maximised or minimised."),
    "where": ("an expression of the rollouts", "Completions for which it holds are kept."),
}
_REWARDS = {
    "exact": "1 when the completion gives the answer, else 0.",
    "contains": "1 when the completion contains a text or the answer, else 0.",
    "regex": "1 when a pattern is found in the completion, else 0.",
    "within": "1 when the length of the completion is within bounds, else 0.",
    "format": "1 when the completion has the tags, or matches the pattern, else 0.",
    "environment": "The verifier of the environment that made the prompt.",
    "math": "1 when the completion's mathematics equals the answer's, else 0.",
    "json_schema": "1 when the completion is JSON that a schema accepts, else 0.",
    "unit_tests": "1 when the completion's program passes every test, in a sandbox, else 0.",
    "sql": "1 when the completion's query gives the rows of the answer's, else 0.",
    "classifier": "What a classifier or reward model says of prompt and completion.",
    "python": "A function of yours, `file.py:function`; it runs only under `grape run`.",
}


def callees_of(keyword: str) -> list[Callee]:
    """The verbs or sources of a keyword; `reward`: the built-in rewards."""
    if keyword == "reward":
        return [_reward(name) for name in BUILTINS]
    return [described(name) for name in KEYWORDS["stage" if keyword == "next" else keyword]]


def built_in(name: str) -> Callee | None:
    """The verb, the source or the built-in reward of a name."""
    if name in VERBS:
        return described(name)
    if name in BUILTINS:
        return _reward(name)
    return _constructor(name)


@cache
def described(name: str) -> Callee:
    """A verb or a source."""
    made = verb(name)
    settings = _settings(made.settings)
    inside = [setting for setting in settings if setting.name in made.literals]
    parameters = [*inside, *_ports(made)]
    outside = [
        Setting(
            special,
            _SPECIAL.get(special, ("", ""))[0],
            None if special in made.required else "none",
            _SPECIAL.get(special, ("", ""))[1],
        )
        for special in sorted(made.special)
    ]
    hidden = {*made.literals, "kind", "options"}
    outside += [setting for setting in settings if setting.name not in hidden]
    words = [f"{p.name} = …" if p.default is not None else p.name for p in parameters]
    text = f"{made.keyword} NAME = {name}({', '.join(words)})"
    doc = inspect.getdoc(inspect.getmodule(made.settings)) or ""
    return Callee(name, made.keyword, text, doc, tuple(parameters), tuple(outside), _makes(made))


def _ports(made: Verb) -> list[Setting]:
    found = []
    for port in made.ports:
        default = "none" if port.optional else None
        how = f"Only as `{port.name} = …`." if port.named else "An edge of the graph."
        found.append(Setting(port.name, port.accepts, default, how))
    if made.reward:
        found.append(Setting("reward", "a reward", None, "What a completion is worth."))
    return found


def _makes(made: Verb) -> str:
    name = made.name
    return {"model": "Model", "data": "Data"}.get(made.keyword, _MADE.get(name, ""))


_MADE = {
    "train": "Model",
    "merge": "Model",
    "sample": "Rollouts",
    "score": "scored Rollouts",
    "revise": "scored Rollouts or Preferences",
    "keep": "Rollouts",
    "best": "Demos",
    "pair": "Preferences",
    "evaluate": "Report",
    "export": "Files",
}


def _settings(model: type[Settings]) -> list[Setting]:
    docs = _field_docs(model)
    return [
        Setting(name, _type(field), _default(field), docs.get(name, ""), _values(field.annotation))
        for name, field in model.model_fields.items()
    ]


def _type(field: FieldInfo) -> str:
    unit = next((meta.name for meta in field.metadata if isinstance(meta, Unit)), None)
    if unit:
        return f"a {unit}"
    try:
        return expected(field.annotation)
    except (KeyError, IndexError):
        return "a value"


def _default(field: FieldInfo) -> str | None:
    if field.default is PydanticUndefined:
        return None
    value = field.default
    unit = any(isinstance(meta, Unit) and meta.name == "duration" for meta in field.metadata)
    if unit and isinstance(value, float):
        return f"{value / 60:g}min" if value >= 60 else f"{value:g}s"
    return shown(value)


def shown(value: Any) -> str:
    """A plain value as the language writes it; none for None."""
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case str():
            return f'"{value}"'
        case float():
            return f"{value:g}"
        case list():
            return f"[{', '.join(shown(item) for item in value)}]"
    return str(value)


def _values(annotation: Any) -> tuple[str, ...]:
    """What a value may be written as, where that is a short list."""
    if annotation is bool:
        return ("true", "false")
    if get_origin(annotation) is Literal:
        return tuple(shown(option) for option in get_args(annotation))
    found: list[str] = []
    for part in get_args(annotation):
        if isinstance(part, type) and issubclass(part, Settings):
            found.append(f"{part.model_fields['kind'].default}()")
        else:
            found += _values(part)
    return tuple(found)


@cache
def _field_docs(model: type[Settings]) -> dict[str, str]:
    """The strings under the fields of a model and of what it inherits from."""
    found: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        if not issubclass(kind, Settings) or kind is Settings:
            continue
        body = python.parse(inspect.cleandoc("\n" + inspect.getsource(kind))).body[0]
        assert isinstance(body, python.ClassDef)
        for field, doc in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, python.AnnAssign) and isinstance(field.target, python.Name):
                match doc:
                    case python.Expr(python.Constant(str() as text)):
                        found[field.target.id] = " ".join(text.split())
    return found


@cache
def _constructor(name: str) -> Callee | None:
    """`lora(…)` and whatever else stands as a value of a setting."""
    for made in map(verb, VERBS):
        for field in made.settings.model_fields.values():
            for part in get_args(field.annotation):
                if not (isinstance(part, type) and issubclass(part, Settings)):
                    continue
                if part.model_fields["kind"].default == name:
                    inner = tuple(s for s in _settings(part) if s.name != "kind")
                    text = f"{name}({', '.join(f'{s.name} = {s.default}' for s in inner)})"
                    return Callee(name, "value", text, inspect.getdoc(part) or "", inner)
    return None


def _reward(name: str) -> Callee:
    parameters = tuple(_parameter(parameter) for parameter in BUILTINS[name])
    words = [p.name if p.default is None else f"{p.name} = {p.default}" for p in parameters]
    text = f"reward {name}({', '.join(words)})"
    return Callee(name, "reward", text, _REWARDS.get(name, ""), parameters)


def _parameter(parameter: Parameter) -> Setting:
    required = type(parameter.default) is object
    values = tuple(shown(choice) for choice in parameter.choices)
    kinds = " or ".join(parameter.kinds)
    if not values and parameter.kinds == ("bool",):
        values = ("true", "false")
    default = None if required else shown(parameter.default)
    return Setting(parameter.name, kinds, default, "", values)


def declared_callee(declaration: Named) -> Callee:
    """A reward, rubric or algorithm of a file."""
    symbol = symbol_of(declaration)
    parameters = tuple(_declared_parameter(param) for param in declaration.params)
    text = f"{symbol.name}({signature(declaration)})"
    return Callee(symbol.name, symbol.kind, text, declaration.doc or "", parameters)


def _declared_parameter(param: ast.Param) -> Setting:
    values = ("true", "false") if param.type.span.text == "bool" else ()
    default = param.default.span.text if param.default else None
    return Setting(param.name.name, param.type.span.text, default, param.doc or "", values)
