"""Reward expressions over rollouts: one number and its parts for each completion.

In come the expression of the plan and rollouts, out come (reward, parts) in the order of the rows.
A reward that raises, hangs or gives no finite number never becomes 0 by itself: the run stops and
shows the sample, or the sample gets the number that the file declares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grape.compiler.rewards import judge_port
from grape.runtime.artifacts import Completion, Rollouts
from grape.runtime.errors import StageError
from grape.runtime.rewards import text
from grape.runtime.rewards.clock import Late, Pace, within_seconds
from grape.runtime.rewards.python import one_line, place_in, python
from grape.runtime.rewards.text import Scorer
from grape.runtime.rewards.verifier import verifier

if TYPE_CHECKING:
    from grape.runtime.context import Emit

Node = Mapping[str, Any]
Scored = tuple[float, dict[str, float]]


def _late(name: str) -> Any:
    """The module of a reward that needs more than text: imported when a file uses it."""
    return import_module(f"grape.runtime.rewards.{name}")


BUILTINS: dict[str, Callable[[Node, Rollouts, Path], Scorer]] = {
    "exact": lambda params, rollouts, project: text.exact(params),
    "contains": lambda params, rollouts, project: text.contains(params),
    "regex": lambda params, rollouts, project: text.regex(params),
    "within": lambda params, rollouts, project: text.within(params),
    "format": lambda params, rollouts, project: text.form(params),
    "environment": lambda params, rollouts, project: verifier(rollouts.environment),
    "python": lambda params, rollouts, project: python(params, project),
    "math": lambda params, rollouts, project: _late("math").math(params),
    "json_schema": lambda params, rollouts, project: _late("json_schema").json_schema(
        params, project
    ),
    "unit_tests": lambda params, rollouts, project: _late("unit_tests").unit_tests(params),
    "sql": lambda params, rollouts, project: _late("sql").sql(params, project),
    "classifier": lambda params, rollouts, project: _late("classifier").classifier(
        params, rollouts, project
    ),
}

OPERATORS: dict[str, Callable[..., float]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "^": lambda a, b: a**b,
    "neg": lambda a: -a,
    "not": lambda a: float(not a),
    "and": lambda a, b: float(bool(a) and bool(b)),
    "or": lambda a, b: float(bool(a) or bool(b)),
    "==": lambda a, b: float(a == b),
    "!=": lambda a, b: float(a != b),
    "<": lambda a, b: float(a < b),
    "<=": lambda a, b: float(a <= b),
    ">": lambda a, b: float(a > b),
    ">=": lambda a, b: float(a >= b),
    "min": min,
    "max": max,
    "abs": abs,
    "exp": math.exp,
    "log": math.log,
    "sqrt": math.sqrt,
    "clamp": lambda x, low, high: max(low, min(high, x)),
}


@dataclass(slots=True)
class Failure(Exception):
    """A reward that gave no number for a completion."""

    part: str
    reason: str


@dataclass(slots=True)
class Scoring:
    """What is the same for all completions of one call."""

    scorers: dict[str, Scorer]
    files: dict[str, Path]
    timeout: float
    retries: int = 0


Outcome = tuple[float | Failure, dict[str, float]]
"""A reward, or why there is none, and the parts that are known."""
Known = Callable[[Node, Completion], Outcome | None]
"""Outcomes that were found before; None for one that was not."""


def prepared(
    expression: Node,
    rollouts: Rollouts,
    project: Path,
    timeout: float,
    retries: int,
    models: Node | None = None,
) -> Scoring:
    """The rewards of an expression, loaded. Raises StageError when one cannot be used."""
    nodes = [node for node in walk(expression) if node["op"] == "call"]
    return Scoring(
        {
            node["part"]: BUILTINS[node["name"]](_params(node, models or {}), rollouts, project)
            for node in nodes
        },
        {
            node["part"]: project / node["params"]["source"].partition(":")[0]
            for node in nodes
            if node["name"] == "python"
        },
        timeout,
        retries,
    )


def outcome_of(expression: Node, row: Completion, scoring: Scoring) -> Outcome:
    """Reward and parts of a completion, or why its reward failed."""
    parts: dict[str, float] = {}
    try:
        return _row(expression, row, parts, scoring), parts
    except Failure as failure:
        return failure, parts


@dataclass(frozen=True, slots=True)
class Asked:
    """A Python reward by itself, to be called as a stage would call it."""

    node: Node
    project: Path
    timeout: float
    retries: int = 0
    _scoring: list[Scoring] = field(default_factory=list)

    def failure(self, row: Completion) -> str | None:
        """Why it gives no number for a completion; None when it does. Raises StageError when it
        cannot be used at all."""
        if not self._scoring:  # loaded once, as in a stage
            params, part = self.node["params"], self.node["part"]
            file = self.project / params["source"].partition(":")[0]
            scorers = {part: python(params, self.project)}
            self._scoring.append(Scoring(scorers, {part: file}, self.timeout, self.retries))
        try:
            _call(self.node, row, self._scoring[0])
        except Failure as failure:
            return failure.reason
        return None


def score_rollouts(
    expression: Node,
    rollouts: Rollouts,
    *,
    project: Path,
    on_error: float | str,
    timeout: float,
    emit: Emit,
    retries: int = 0,
    calls_per_minute: int | None = None,
    models: Node | None = None,
    known: Known | None = None,
) -> list[Scored]:
    """Reward and parts of every row, in order.

    `on_error` is "stop" or the number that a sample gets whose reward fails; `timeout` is seconds
    for one built-in or Python reward of one completion, which is asked `retries` times more when
    it fails; at most `calls_per_minute` completions are begun in a minute. `models` are the
    inputs that `classifier` may ask, by port; `known` gives what was found while others were drawn.
    Raises StageError when a reward cannot be used at all, and on
    the first failing sample with "stop".
    """
    labels = [node["part"] for node in walk(expression) if "part" in node]
    how = (expression, rollouts, project, timeout, retries, models)
    scoring = prepared(*how) if known is None or not rollouts.rows else None
    pace = Pace(calls_per_minute)
    made: list[Scored] = []
    failures: list[Failure] = []
    for row in rollouts.rows:
        outcome = known(expression, row) if known is not None else None
        if outcome is None:
            scoring = scoring or prepared(*how)
            pace.wait()
            outcome = outcome_of(expression, row, scoring)
        found, parts = outcome
        if isinstance(found, Failure):
            if on_error == "stop":
                raise _stopped(found, row)
            failures.append(found)
            number = float(on_error)
            made.append((number, {label: parts.get(label, number) for label in labels}))
        else:
            made.append((found, parts))
    if failures:
        first = failures[0]
        emit(
            {
                "event": "note",
                "text": f"{len(failures)} of {len(rollouts.rows)} completions got "
                f"{float(on_error):g} because their reward failed; the first: "
                f"`{first.part}` {first.reason}",
            }
        )
    return made


def _params(node: Node, models: Node) -> Node:
    """The parameters of a call, the model itself where they name the port it comes in by."""
    port = judge_port(node)
    return node["params"] if port is None else {**node["params"], "source": models[port]}


def walk(node: Node) -> Iterator[Node]:
    yield node
    for child in (*node.get("args", ()), *([node["value"]] if node["op"] == "part" else ())):
        yield from walk(child)


def _row(expression: Node, row: Completion, parts: dict[str, float], scoring: Scoring) -> float:
    """The reward; `parts` is filled with every part, also of the branches that do not count."""
    total = _value(expression, row, parts, scoring)
    for node in walk(expression):
        if "part" in node and node["part"] not in parts:
            _value(node, row, parts, scoring)
    return _finite(total, "the reward")


def _value(node: Node, row: Completion, parts: dict[str, float], scoring: Scoring) -> float:
    match node["op"]:
        case "number":
            return float(node["value"])
        case "call":
            parts[node["part"]] = _call(node, row, scoring)
            return parts[node["part"]]
        case "part":
            value = _finite(_value(node["value"], row, parts, scoring), node["part"])
            parts[node["part"]] = value
            return value
        case "if":
            test, yes, no = node["args"]
            branch = yes if _value(test, row, parts, scoring) else no
            return _value(branch, row, parts, scoring)
    args = [_value(arg, row, parts, scoring) for arg in node["args"]]
    try:
        # A negative number to a broken power is complex: no reward.
        return _finite(OPERATORS[node["op"]](*args), "the reward")
    except (ZeroDivisionError, OverflowError, ValueError) as error:
        shown = ", ".join(f"{arg:g}" for arg in args)
        raise Failure(
            "the reward", f"cannot compute `{node['op']}` of {shown}: {one_line(error)}"
        ) from None


def _call(node: Node, row: Completion, scoring: Scoring) -> float:
    for _ in range(scoring.retries):
        try:
            return _called(node, row, scoring)
        except Failure:
            continue
    return _called(node, row, scoring)


def _called(node: Node, row: Completion, scoring: Scoring) -> float:
    part = node["part"]
    name = node["params"]["source"] if node["name"] == "python" else part
    scorer = scoring.scorers[part]
    try:
        value = within_seconds(scoring.timeout, lambda: scorer(row))
    except StageError:
        raise
    except Late:
        raise Failure(name, f"took longer than {scoring.timeout:g} seconds") from None
    except (Exception, SystemExit) as error:  # the user's code can raise anything
        place = place_in(error, scoring.files[part]) if part in scoring.files else ""
        raise Failure(name, f"failed with {one_line(error)}{place}") from None
    return _finite(value, name)


def _finite(value: object, part: str) -> float:
    """A bool, an int or a float that is a finite number, as a float."""
    number = value.item() if hasattr(value, "item") and not hasattr(value, "__len__") else value
    if not isinstance(number, (bool, int, float)):
        raise Failure(part, f"gave {_shown(value)}")
    if not math.isfinite(number):
        raise Failure(part, f"gave {float(number)}, which is no finite number")
    return float(number)


def _shown(value: object) -> str:
    if value is None:
        return "nothing (None), which is no number"
    shown = f"{type(value).__name__} {str(value)[:40]!r}"
    if isinstance(value, (str, bytes, dict)) or not hasattr(value, "__len__"):
        return f"{shown}, which is no number"
    many = f"{len(value)} value{'' if len(value) == 1 else 's'}"
    return f"{many} ({shown}) where one completion gets one number"


def _stopped(failure: Failure, row: Completion) -> StageError:
    name = failure.part if failure.part.startswith("the ") else f"the reward `{failure.part}`"
    return StageError(
        f"G903: {name} {failure.reason}\n"
        f"  prompt:     {_short(row.prompt)}\n"
        f"  completion: {_short(row.text)}\n"
        f"  answer:     {_short(row.answer) if row.answer is not None else 'none'}",
        hint="mend the reward, or say what such a completion gets: `on_error = 0` "
        "(`grape explain G903`)",
        code="G903",
    )


def _short(text: str) -> str:
    return repr(text if len(text) <= 200 else f"{text[:160]} … {text[-30:]}")
