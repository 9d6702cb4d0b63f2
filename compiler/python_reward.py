"""A `python("file.py:function")` reward or tool, read as syntax: is it there, can it be called, is
it pure.

The file is parsed and never imported. What only a run can tell (the values it gives) is not
judged here.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from grape.compiler.names import is_path, refuse, unknown
from grape.dsl.source import Source, Span

MAX_BYTES = 1_000_000
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Signature:
    """What a reward asks for: arguments that it must have, that it may have, whether it takes any
    column."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    any_column: bool


def read_reward(text: str, span: Span, project: Path) -> Signature:
    """Check the reward that `text` names; `span` is its call. Raises `Refused`."""
    path, function = _parts(text, span)
    tree = _tree(path, span, project)
    found = _function(tree, path, function, span)
    _check_kind(found, text, span)
    return _signature(found, text, span)


def read_tool(text: str, span: Span, project: Path) -> str:
    """Check the tool that `text` names, and give the name that it is called by. Raises
    `Refused`."""
    path, function = _parts(text, span)
    found = _function(_tree(path, span, project), path, function, span)
    if isinstance(found, ast.AsyncFunctionDef):
        refuse("G262", f"`{text}` is `async`; a tool gives its result at once", span)
    if any(isinstance(node, ast.Yield | ast.YieldFrom) for node in _own_nodes(found)):
        refuse("G262", f"`{text}` yields; a tool returns one result", span)
    if found.args.posonlyargs:
        name = found.args.posonlyargs[0].arg
        message = f"`{text}`: the argument `{name}` cannot be given by name, as a chat calls it"
        refuse("G262", message, span, hint="remove the `/` from its signature")
    return function


def _parts(text: str, span: Span) -> tuple[str, str]:
    path, _, function = text.partition(":")
    if not path.endswith(".py") or not function.isidentifier() or not is_path(path):
        refuse("G202", f'`python` takes "FILE.py:FUNCTION", not "{text}"', span)
    return path, function


def _tree(path: str, span: Span, project: Path) -> ast.Module:
    file = (project / path).resolve()
    if not file.is_relative_to(project.resolve()):
        hint = "a Python file stays inside the folder of the pipeline file"
        refuse("G702", f'"{path}" lies outside the project folder', span, hint=hint)
    if not file.is_file():
        refuse("G113", f'there is no file "{path}"', span)
    if file.stat().st_size > MAX_BYTES:
        refuse("G113", f'"{path}" is too large to be read: over 1 MB', span)
    try:
        return ast.parse(file.read_text(encoding="utf-8"))
    except SyntaxError as error:
        message = f'"{path}" is no valid Python: {error.msg} in line {error.lineno}'
        refuse("G113", message, span)
    except (ValueError, RecursionError, MemoryError):
        refuse("G113", f'"{path}" cannot be read as Python text', span)


def _function(tree: ast.Module, path: str, function: str, span: Span) -> Function:
    functions = {
        node.name: node
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    if function not in functions:
        message = f'"{path}" defines no function `{function}`'
        unknown("G113", message, function, span, functions, listing="it defines")
    return functions[function]


def _check_kind(found: Function, text: str, span: Span) -> None:
    if isinstance(found, ast.AsyncFunctionDef):
        refuse("G418", f"`{text}` is `async`; a reward returns its number at once", span)
    if any(isinstance(node, ast.Yield | ast.YieldFrom) for node in _own_nodes(found)):
        refuse("G418", f"`{text}` yields; a reward returns one number", span)
    told = _annotation(found.returns)
    if told not in (None, "float", "int", "bool", "Any", "object"):
        message = f"`{text}` says that it returns `{told}`; a reward returns one number"
        hint = "it is called once for each completion: `-> float`"
        refuse("G418", message, span, hint=hint)
    ends = [node for node in _own_nodes(found) if isinstance(node, ast.Return | ast.Raise)]
    if told is None and not any(isinstance(node, ast.Raise) or node.value for node in ends):
        refuse("G418", f"`{text}` returns nothing; a reward returns one number", span)


def _annotation(node: ast.expr | None) -> str | None:
    if node is None:
        return None
    if isinstance(node, ast.Constant):
        return str(node.value)
    return ast.unparse(node).removeprefix("typing.")


def _own_nodes(found: Function) -> Iterator[ast.AST]:
    """The nodes of a function, without those of functions inside it."""
    open_: list[ast.AST] = list(found.body)
    while open_:
        node = open_.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            open_ += ast.iter_child_nodes(node)


def _signature(found: Function, text: str, span: Span) -> Signature:
    taken = found.args
    first = [*taken.posonlyargs, *taken.args]
    if not first:
        hint = "write `def NAME(completion, answer, **columns) -> float:`"
        refuse("G418", f"`{text}` takes no completion", span, hint=hint)
    if len(taken.posonlyargs) > 1:
        name = taken.posonlyargs[1].arg
        message = f"`{text}`: the argument `{name}` cannot be given by name"
        refuse("G418", message, span, hint="remove the `/` from its signature")
    named = [argument.arg for argument in first]
    cut = len(named) - len(taken.defaults)
    required = [*named[1 : max(cut, 1)]]
    optional = [*named[max(cut, 1) :]]
    for argument, default in zip(taken.kwonlyargs, taken.kw_defaults, strict=True):
        (required if default is None else optional).append(argument.arg)
    return Signature(tuple(required), tuple(optional), taken.kwarg is not None)


_IMPURE = {
    "random": "draws random numbers",
    "secrets": "draws random numbers",
    "uuid": "draws random numbers",
    "time": "reads the clock",
    "datetime": "reads the clock",
    "requests": "uses the network",
    "httpx": "uses the network",
    "socket": "uses the network",
    "urllib.request": "uses the network",
    "aiohttp": "uses the network",
}
_HARMLESS = {"time": {"strptime", "mktime"}, "datetime": {"timedelta", "strptime"}}
_RANDOM = ("numpy.random", "np.random", "torch.rand", "torch.randn")


def impurities(text: str, project: Path) -> Iterator[tuple[Span, str]]:
    """Places of a reward's file where its value comes to depend on more than its arguments, each
    with what is done there: at most one of a kind."""
    path, _, function = text.partition(":")
    file = project / path
    try:
        source = Source(path, file.read_text(encoding="utf-8"))
        tree = ast.parse(source.text)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    names = dict(_imported(tree))
    told: set[str] = set()
    for node in _reached(tree, function):
        what = _impure_call(node, names)
        if what is not None and what not in told:
            told.add(what)
            yield _line(source, node), what


def _reached(tree: ast.Module, function: str) -> Iterator[ast.AST]:
    """The nodes of a function and of all that it may call in its file: functions by their names,
    and whatever is no function, which runs when the file is loaded or is a class."""
    functions = {node.name: node for node in tree.body if isinstance(node, Function)}
    waiting = [node for node in tree.body if not isinstance(node, Function)]
    open_: list[ast.stmt] = [
        *waiting,
        *([functions.pop(function)] if function in functions else []),
    ]
    while open_:
        for node in ast.walk(open_.pop(0)):
            yield node
            if isinstance(node, ast.Name) and node.id in functions:
                open_.append(functions.pop(node.id))


def loose_calls(text: str, project: Path) -> Iterator[Span]:
    """Calls that importing a reward's file would make: the first one."""
    path = text.partition(":")[0]
    try:
        source = Source(path, (project / path).read_text(encoding="utf-8"))
        tree = ast.parse(source.text)
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    for node in tree.body:
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            yield _line(source, node)
            return


def _imported(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Local names of impure modules and their members: name to `module` or `module.member`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in _IMPURE:
                    yield alias.asname or alias.name, alias.name
        elif isinstance(node, ast.ImportFrom) and node.module in _IMPURE:
            for alias in node.names:
                yield alias.asname or alias.name, f"{node.module}.{alias.name}"


def _impure_call(node: ast.AST, names: dict[str, str]) -> str | None:
    if not isinstance(node, ast.Call):
        return None
    called = _dotted(node.func)
    if called.startswith(_RANDOM) and not called.endswith(("default_rng", "Generator")):
        return "draws random numbers"
    for local, full in names.items():
        if called != local and not called.startswith(local + "."):
            continue
        module = full if full in _IMPURE else full.rpartition(".")[0]
        last = called.rpartition(".")[2] if called != local else full.rpartition(".")[2]
        seeded = module == "random" and last == "Random" and node.args
        if seeded or last in _HARMLESS.get(module, ()):
            return None
        if module == "datetime" and last not in ("now", "today", "utcnow"):
            return None
        return _IMPURE[module]
    return None


def _dotted(node: ast.expr) -> str:
    """`random.choice` of such a call; nothing for a call on what another call made."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (before := _dotted(node.value)):
        return f"{before}.{node.attr}"
    return ""


def _line(source: Source, node: ast.AST) -> Span:
    """The first line of a node, as a span of the Python file."""
    lines = source.text.split("\n")
    number: int = getattr(node, "lineno")  # noqa: B009
    start = sum(len(line) + 1 for line in lines[: number - 1])
    text = lines[number - 1]
    indent = len(text) - len(text.lstrip())
    return Span(source, start + indent, start + len(text.rstrip()))
