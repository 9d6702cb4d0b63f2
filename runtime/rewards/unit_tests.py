"""The reward `unit_tests`: a program that a model wrote passes the tests of its row.

A test is Python source that runs after the program in the same interpreter, or an object with
`input` and `output`: what the program is given to read and has to print. Everything runs in the
sandbox of `runtime.rewards.sandbox`.
"""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Mapping
from typing import Any

from grape.runtime.artifacts import Completion
from grape.runtime.errors import StageError
from grape.runtime.rewards.extract import extracted
from grape.runtime.rewards.sandbox import Limits, NoSandbox, run_program
from grape.runtime.rewards.text import Scorer

_HARNESS = """\
import sys as _sys
def _grape():
    mark = _sys.stdin.readline()
    scope = {{"__name__": "__main__"}}
    exec(compile({program!r}, "completion.py", "exec"), scope)
    exec(compile({test!r}, "tests.py", "exec"), scope)
    _sys.stdout.flush()
    _sys.stderr.flush()
    _sys.__stdout__.write("\\n" + mark)
    _sys.__stdout__.flush()
_grape()
"""


def unit_tests(params: Mapping[str, Any]) -> Scorer:
    """1 where every test passes; with `partial` the share of those that do."""
    limits = Limits(params["timeout"], params["memory"])

    def scorer(row: Completion) -> float:
        program = extracted(row.text, params["extract"])
        tests = _tests(row, params["of"])
        passed = 0
        for test in tests:
            good = _passes(program, test, limits, params["sandbox"])
            if not good and not params["partial"]:
                return 0.0
            passed += good
        return passed / len(tests)

    return scorer


def _tests(row: Completion, column: str) -> list[Any]:
    value = row.answer if column == "answer" else row.columns.get(column)
    if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
        with contextlib.suppress(ValueError):  # Python source can begin with a bracket too
            value = json.loads(value)
    tests = value if isinstance(value, list) else [value]
    if not tests or not all(_is_test(test) for test in tests):
        raise StageError(
            f"the column `{column}` of the prompt {row.prompt[:60]!r} holds no tests",
            hint='a test is Python source, or {"input": "…", "output": "…"}; or a list of them',
        )
    return tests


def _is_test(test: object) -> bool:
    if isinstance(test, dict):
        return isinstance(test.get("input"), str) and isinstance(test.get("output"), str)
    return isinstance(test, str) and bool(test.strip())


def _passes(program: str, test: Any, limits: Limits, mode: str) -> bool:
    try:
        if isinstance(test, dict):
            ended = run_program(program, test["input"], limits, mode)
            return ended.code == 0 and _lines(ended.output) == _lines(test["output"])
        mark = secrets.token_hex(16)
        source = _HARNESS.format(program=program, test=test)
        ended = run_program(source, mark, limits, mode)
        return ended.code == 0 and ended.output.endswith(mark)
    except NoSandbox as error:
        raise StageError(
            f"programs cannot be run safely here: {error}",
            hint="allow user namespaces on this machine, or accept limits alone: "
            '`unit_tests(sandbox = "process")`',
        ) from None


def _lines(text: str) -> list[str]:
    """Lines without white space at their ends, and without empty ones at the end of the text."""
    return [line.rstrip() for line in text.rstrip().splitlines()]
