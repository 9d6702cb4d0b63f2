"""The reward `python("file.py:function")`: a function of the user's, loaded from the project.

It is called as `function(completion, answer=…, prompt=…, COLUMN=…)` with those arguments that its
signature names, or with all of them when it takes `**columns`.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from grape.dsl.nearest import did_you_mean
from grape.runtime.artifacts import Completion
from grape.runtime.errors import StageError
from grape.runtime.rewards.text import Scorer


def python(params: Mapping[str, Any], project: Path) -> Scorer:
    """Load the function and check its signature. Raises StageError when it cannot be used."""
    source: str = params["source"]
    path, _, name = source.partition(":")
    function = load_function(project / path, path, name)
    signature = inspect.signature(function)
    takes_all = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    first, wanted, optional = _arguments(signature, source)

    def scorer(row: Completion) -> float:
        known = {**row.columns, "prompt": row.prompt, "answer": row.answer}
        known.pop(first, None)
        missing = [argument for argument in wanted if argument not in known]
        if missing:
            raise StageError(
                f"`{source}` asks for the argument `{missing[0]}`, which the data does not have"
                f"{did_you_mean(missing[0], known)}",
                hint=f"it can ask for completion, {', '.join(known)}",
            )
        names: Iterable[str] = known if takes_all else (*wanted, *optional)
        # The user's function may return anything; `evaluation` checks that it is a number.
        made: float = function(row.text, **{name: known[name] for name in names if name in known})
        return made

    return scorer


def load_function(file: Path, path: str, name: str, what: str = "reward") -> Callable[..., Any]:
    """A function of a Python file of the project; `path` is how messages call the file. Raises
    StageError when there is none, or the file cannot be loaded."""
    if not file.is_file():
        raise StageError(f"there is no file `{path}` with the {what} `{name}`")
    spec = importlib.util.spec_from_file_location(f"grape_{what}_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickling look a module up by name
    sys.path.insert(0, str(file.parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's code can raise anything
        raise StageError(
            f"`{path}` cannot be loaded: {one_line(error)}{place_in(error, file)}",
            hint="run the file with Python by itself to see why",
        ) from None
    finally:
        sys.path.remove(str(file.parent))
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise StageError(
            f"`{path}` defines no function `{name}`{did_you_mean(name, known)}",
            hint=f"it defines {', '.join(known)}" if known else None,
        )
    return function  # type: ignore[no-any-return]


def _arguments(signature: inspect.Signature, source: str) -> tuple[str, list[str], list[str]]:
    """Names of the completion's parameter, of the required and of the optional others."""
    parameters = list(signature.parameters.values())
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if not parameters or parameters[0].kind not in positional:
        raise StageError(
            f"`{source}` takes no completion",
            hint="a reward is `def NAME(completion, answer, **columns): return 0.0`",
        )
    wanted: list[str] = []
    optional: list[str] = []
    for parameter in parameters[1:]:
        if parameter.kind is parameter.POSITIONAL_ONLY:
            raise StageError(
                f"`{source}`: the argument `{parameter.name}` cannot be given by name",
                hint="remove the `/` from its signature",
            )
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        (wanted if parameter.default is parameter.empty else optional).append(parameter.name)
    return parameters[0].name, wanted, optional


def one_line(error: BaseException) -> str:
    """`ZeroDivisionError: division by zero`."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__


def place_in(error: BaseException, file: Path) -> str:
    """` (rewards.py, line 3: return 1 / 0)`: the innermost line of the user's file."""
    if isinstance(error, SyntaxError) and error.filename == str(file):
        return f" ({file.name}, line {error.lineno})"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
    if not frames:
        return ""
    line = f": {frames[-1].line}" if frames[-1].line else ""
    return f" ({file.name}, line {frames[-1].lineno}{line})"
