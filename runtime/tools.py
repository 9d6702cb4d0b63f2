"""Tools that a model calls while it is sampled: how a call is written, run and answered.

In: the text that a model wrote in one turn. Out: the text of the results. What a model gets wrong
(a name, the arguments, the form) it is told; a tool that fails is told too, or stops the run. No
tokens here, and nothing is run but functions of the project, within their time.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grape.dsl.nearest import did_you_mean
from grape.runtime.errors import StageError
from grape.runtime.rewards.clock import Late, within_seconds
from grape.runtime.rewards.python import load_function, one_line, place_in

OPEN, CLOSE = "<tool>", "</tool>"
MOST = 10_000
"""Characters of a call's arguments that are read as Python literals."""
_TYPES = {int: "integer", float: "number", bool: "boolean", str: "string"}


@dataclass(frozen=True, slots=True)
class Call:
    """A call as the model wrote it; `wrong` says why it cannot be made."""

    name: str
    args: tuple[object, ...] = ()
    named: Mapping[str, object] = field(default_factory=dict)
    wrong: str = ""


def tagged_calls(text: str) -> list[Call]:
    """The call that ends a turn: `<tool>name(arguments)</tool>`; [] where there is none.

    The arguments are Python literals; whatever is not, is one text: `calculator(2 + 3)`."""
    if CLOSE not in text:
        return []
    before = text[: text.index(CLOSE)]
    if OPEN not in before:
        return [Call("", wrong=f"a call begins with {OPEN}")]
    written = before[before.rindex(OPEN) + len(OPEN) :].strip()
    found = re.fullmatch(r"([A-Za-z_]\w*)\s*\((.*)\)", written, re.DOTALL)
    if found is None:
        return [Call("", wrong=f"a call is {OPEN}name(arguments){CLOSE}")]
    args, named = _literals(found[2].strip())
    return [Call(found[1], args, named)]


def _literals(text: str) -> tuple[tuple[object, ...], dict[str, object]]:
    if not text:
        return (), {}
    if len(text) <= MOST:
        try:
            node = ast.parse(f"f({text})", mode="eval").body
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                args = tuple(ast.literal_eval(arg) for arg in node.args)
                named = {str(k.arg): ast.literal_eval(k.value) for k in node.keywords if k.arg}
                if len(named) == len(node.keywords):
                    return args, named
        except (SyntaxError, ValueError, TypeError, MemoryError, RecursionError):
            pass
    return (text,), {}


def chat_calls(text: str) -> list[Call]:
    """The calls of a turn in the form of chat templates: JSON with `name` and `arguments`, each
    between `<tool_call>` and `</tool_call>`."""
    calls = []
    for piece in text.split("<tool_call>")[1:]:
        written, closed, _ = piece.partition("</tool_call>")
        calls.append(_json_call(written) if closed else Call("", wrong="a call was not closed"))
    return calls


def _json_call(written: str) -> Call:
    try:
        found = json.loads(written)
        name, named = found["name"], found.get("arguments", {})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return Call("", wrong='a call is JSON: {"name": …, "arguments": {…}}')
    if not isinstance(name, str) or not isinstance(named, dict):
        return Call("", wrong="`name` is a text and `arguments` an object")
    return Call(name, (), named)


@dataclass(frozen=True, slots=True)
class Tool:
    name: str
    file: Path
    source: str
    function: Callable[..., object]
    signature: inspect.Signature

    def schema(self) -> dict[str, Any]:
        """What a chat template shows of it."""
        fields, required = {}, []
        for name, parameter in self.signature.parameters.items():
            kind = _annotated(parameter)
            fields[name] = {"type": _TYPES[kind]} if kind in _TYPES else {}
            if parameter.default is parameter.empty:
                required.append(name)
        return {
            "type": "function",
            "function": {
                "name": self.name,
                "description": inspect.getdoc(self.function) or "",
                "parameters": {"type": "object", "properties": fields, "required": required},
            },
        }


def _annotated(parameter: inspect.Parameter) -> object:
    """The annotated type, also where it is written as text."""
    names = {kind.__name__: kind for kind in _TYPES}
    found = parameter.annotation
    return names.get(found, found) if isinstance(found, str) else found


class Toolbox:
    """The tools of a sampler, loaded. Raises StageError where one cannot be."""

    def __init__(self, sampler: Mapping[str, Any], project: Path) -> None:
        self.timeout, self.on_error = sampler["timeout"], sampler["on_error"]
        self.tools: dict[str, Tool] = {}
        for entry in sampler["tools"]:
            path, _, name = entry["source"].partition(":")
            function = load_function(project / path, path, name, "tool")
            signature = inspect.signature(function)
            self.tools[name] = Tool(name, project / path, entry["source"], function, signature)

    def schemas(self) -> list[dict[str, Any]]:
        return [tool.schema() for tool in self.tools.values()]

    def answer(self, call: Call) -> str:
        """The result of a call as text, or what was wrong with it. Raises StageError (G912) for a
        tool that fails where that stops the run."""
        if call.wrong:
            return f"error: {call.wrong}"
        tool = self.tools.get(call.name)
        if tool is None:
            near = did_you_mean(call.name, self.tools) or f"; there is {', '.join(self.tools)}"
            return f"error: there is no tool `{call.name}`{near}"
        try:
            bound = tool.signature.bind(*call.args, **call.named)
        except TypeError as error:
            return f"error: {tool.name}{tool.signature}: {error}"
        for name, value in bound.arguments.items():
            if _annotated(tool.signature.parameters[name]) is str:
                bound.arguments[name] = str(value)
        return self._called(tool, call, bound)

    def _called(self, tool: Tool, call: Call, bound: inspect.BoundArguments) -> str:
        made: list[object] = []

        def run() -> float:
            made.append(tool.function(*bound.args, **bound.kwargs))
            return 0.0

        place = ""
        try:
            within_seconds(self.timeout, run)
            return _shown(made[0])
        except Late:
            reason = f"took longer than {self.timeout:g} seconds"
        except (Exception, SystemExit) as error:  # the user's code can raise anything
            reason, place = one_line(error), place_in(error, tool.file)
        if self.on_error == "tell":
            return f"error: {reason}"
        shown = ", ".join([*map(repr, call.args), *(f"{k}={v!r}" for k, v in call.named.items())])
        raise StageError(
            f"G912: the tool `{tool.source}` failed: {reason}{place}\n"
            f"  call: {tool.name}({shown[:200]})",
            hint='mend it, or let the model read why: `on_error = "tell"` (`grape explain G912`)',
            code="G912",
        )


def _shown(value: object) -> str:
    """A result as text. Raises TypeError for what no text says."""
    match value:
        case str():
            return value
        case bool() | None | dict() | list() | tuple():
            return json.dumps(value, ensure_ascii=False)
        case int() | float():
            return str(value)
    raise TypeError(f"it gave a {type(value).__name__}, and a result is text, a number or JSON")


def told(results: Sequence[str]) -> str:
    """Results as the model reads them after tagged calls."""
    return "".join(f"<result>{result}</result>" for result in results)
