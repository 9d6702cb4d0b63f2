"""GRAPE: the items of a rubric become one reward for each completion.

In come a compiled rubric, rollouts and critics; out come the rows with reward, the score and the
confidence of every item that applies, and their category. The arithmetic is `combine`, a pure
function of scores and confidences; asking is done by `runtime.critics`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grape.dsl.nearest import did_you_mean
from grape.runtime.artifacts import Completion, Rollouts
from grape.runtime.context import Emit
from grape.runtime.critics.questions import Answer, Failed, Question, ask
from grape.runtime.critics.server import Served
from grape.runtime.errors import StageError
from grape.runtime.rewards.evaluation import score_rollouts

if TYPE_CHECKING:
    from grape.runtime.rewards.overlap import Overlap

Node = Mapping[str, Any]


@dataclass(slots=True)
class Judged:
    """One item on the completions of a category: scores and confidences, None where it does not
    apply. A score without confidence is what `on_error` gave: it counts, and tells nothing about
    how sure the critic is."""

    weight: float
    scores: list[float | None]
    confidences: list[float | None]


@dataclass(slots=True)
class Scoring:
    """What one call works with. `memory` keeps running averages from round to round."""

    project: Path
    combine: dict[str, Any]
    on_error: float | str
    timeout: float
    emit: Emit
    critics: Mapping[str, Any]
    answers: Path
    retries: int = 0
    calls_per_minute: int | None = None
    memory: dict[str, float] = field(default_factory=dict)
    apart: Overlap | None = None
    """What was found while other completions were drawn."""


def score_rubric(rubric: Node, rollouts: Rollouts, scoring: Scoring) -> list[Completion]:
    """New rows in the order of the old ones; fewer where `uncertain = "drop"` drops some.

    Raises StageError for a completion of no category and for whatever `on_error` does not cover."""
    rows = combined(rubric, judged_rows(rubric, rollouts, scoring), scoring)
    return [row for row in rows if row is not None]


def judged_rows(rubric: Node, rollouts: Rollouts, scoring: Scoring) -> list[Completion]:
    """Every row with its category and with score and confidence of every item that applies; its
    reward is left to `combined`. Raises StageError as `score_rubric`."""
    places = [category_of(rubric, row) for row in rollouts.rows]
    made = list(rollouts.rows)
    for number, category in enumerate(rubric["categories"]):
        members = [at for at, place in enumerate(places) if place == number]
        if not members:
            continue
        part = replace(rollouts, rows=[rollouts.rows[at] for at in members])
        judged = {item["name"]: _judged(item, part, scoring) for item in category["items"]}
        for place, at in enumerate(members):
            made[at] = _row(rollouts.rows[at], place, judged, category["name"])
    return made


def combined(rubric: Node, rows: Sequence[Completion], scoring: Scoring) -> list[Completion | None]:
    """Judged rows with their rewards, in place; None where `uncertain = "drop"` drops one, of which
    a note tells. Raises StageError for a completion of which nothing can be said."""
    made: dict[int, Completion] = {}
    for category in rubric["categories"]:
        members = [at for at, row in enumerate(rows) if row.category == category["name"]]
        judged = {
            item["name"]: Judged(
                item["weight"],
                [rows[at].parts.get(item["name"]) for at in members],
                [rows[at].confidences.get(item["name"]) for at in members],
            )
            for item in category["items"]
        }
        key = f"{rubric['name']}.{category['name']}"
        groups = [rows[at].group for at in members]
        rewards = combine(judged, groups, scoring.combine, scoring.memory, key) if members else []
        for place, (at, reward) in enumerate(zip(members, rewards, strict=True)):
            if reward is None and not _dropped(rows[at], place, judged, category["name"], scoring):
                reward = float(scoring.on_error)
            if reward is not None:
                made[at] = replace(rows[at], reward=reward)
    _tell(len(rows) - len(made), scoring)
    return [made.get(at) for at in range(len(rows))]


def _dropped(
    row: Completion,
    place: int,
    judged: Mapping[str, Judged],
    category: str,
    scoring: Scoring,
) -> bool:
    """Whether a completion without reward is left out; False where it gets what `on_error` says."""
    if all(item.scores[place] is None for item in judged.values()):
        if scoring.on_error == "stop":
            raise _stopped(row, f"none of the items of `{category}` applies: no answer can be read")
        return False
    if scoring.combine["uncertain"] == "drop":
        return True
    raise _stopped(row, f"no item of `{category}` that applies has a weight: confidences are 0")


def _stopped(row: Completion, why: str) -> StageError:
    return StageError(
        f"{why}\n  prompt:     {short(row.prompt)}\n  completion: {short(row.text)}",
        hint="see docs/rubrics.md: `uncertain` of `combine`, and `on_error`",
    )


def short(text: str) -> str:
    """A text for a message: quoted, and cut in the middle where it is long."""
    return repr(text if len(text) <= 200 else f"{text[:160]} … {text[-30:]}")


def _tell(dropped: int, scoring: Scoring) -> None:
    if dropped:
        text = f"{dropped} completions left out: every confidence was 0"
        scoring.emit({"event": "note", "text": text})


def _row(row: Completion, place: int, judged: Mapping[str, Judged], category: str) -> Completion:
    parts = {n: j.scores[place] for n, j in judged.items() if j.scores[place] is not None}
    sure = {n: j.confidences[place] for n, j in judged.items() if j.confidences[place] is not None}
    known: Any = (parts, sure)
    return replace(row, reward=None, parts=known[0], confidences=known[1], category=category)


# --- categories -------------------------------------------------------------------------------


def category_of(rubric: Node, row: Completion) -> int:
    """The number of the first category whose `when` holds. Raises StageError where none does."""
    for number, category in enumerate(rubric["categories"]):
        if category["when"] is None or _holds(category, row):
            return number
    names = ", ".join(f"`{category['name']}`" for category in rubric["categories"])
    read = (name for category in rubric["categories"] for name in columns_of(category["when"]))
    shown = {name: row.columns.get(name) for name in read}
    raise StageError(
        f"a completion belongs to no category of `{rubric['name']}` ({names})\n"
        f"  prompt:  {short(row.prompt)}\n  columns: {short(str(shown))}",
        hint="end the rubric with a category that has no `when`",
    )


def columns_of(node: Node | None) -> Iterator[str]:
    """The columns that a condition looks at."""
    if node is None:
        return
    if node["op"] == "column":
        yield node["name"]
    for child in node.get("args", ()):
        yield from columns_of(child)


def _holds(category: Node, row: Completion) -> bool:
    where = f"`when` of the category `{category['name']}`"
    value = _value(category["when"], row, where)
    if not isinstance(value, bool):
        raise StageError(f"{where} gives {value!r}, which is neither true nor false")
    return value


_OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
}


def _value(node: Node, row: Completion, where: str) -> Any:
    match node["op"]:
        case "value":
            return node["value"]
        case "column":
            return _column(node["name"], row, where)
        case "neg" | "not":
            inner = _value(node["args"][0], row, where)
            return not inner if node["op"] == "not" else -inner
        case "and" | "or":
            left = _value(node["args"][0], row, where)
            if bool(left) == (node["op"] == "or"):
                return left
            return _value(node["args"][1], row, where)
    left, right = (_value(arg, row, where) for arg in node["args"])
    try:
        return _OPERATIONS[node["op"]](left, right)
    except (TypeError, ZeroDivisionError):
        raise StageError(
            f"{where} cannot compute {left!r} {node['op']} {right!r}, for the prompt "
            f"{short(row.prompt)}"
        ) from None


def _column(name: str, row: Completion, where: str) -> Any:
    known = {**row.columns, "prompt": row.prompt, "answer": row.answer}
    if name not in known:
        raise StageError(
            f"{where} reads the column `{name}`, which the data does not have"
            f"{did_you_mean(name, known)}",
            hint=f"it has {', '.join(row.columns) or 'no columns'}",
        )
    return known[name]


# --- items ------------------------------------------------------------------------------------


def _judged(item: Node, part: Rollouts, scoring: Scoring) -> Judged:
    if "ask" in item:
        return _asked(item, part, scoring)
    scored = score_rollouts(
        item["value"],
        part,
        project=scoring.project,
        on_error=scoring.on_error,
        timeout=scoring.timeout,
        retries=scoring.retries,
        calls_per_minute=scoring.calls_per_minute,
        emit=scoring.emit,
        models=scoring.critics,
        known=scoring.apart.outcome if scoring.apart is not None else None,
    )
    scores: list[float | None] = [value for value, _ in scored]
    return Judged(item["weight"], scores, [1.0] * len(scores))


def _asked(item: Node, part: Rollouts, scoring: Scoring) -> Judged:
    template, scale = item["ask"]["question"], item["ask"]["scale"]
    questions = [ask(template, scale, row) for row in part.rows]
    answers = _answers(item["ask"]["critic"], questions, scoring)
    made = Judged(item["weight"], [], [])
    unread: list[str] = []
    failed: list[str] = []
    for row, answer in zip(part.rows, answers, strict=True):
        if isinstance(answer, Failed):
            if scoring.on_error == "stop":
                raise _unanswered(item["name"], row, answer.reason)
            failed.append(answer.reason)
            made.scores.append(float(scoring.on_error))
            made.confidences.append(None)
        elif answer.score is None:
            unread.append(answer.text)
            made.scores.append(None)
            made.confidences.append(None)
        else:
            made.scores.append(answer.score)
            made.confidences.append(answer.confidence)
    if failed:
        text = f"got {scoring.on_error} because the critic failed; the first: {failed[0]}"
        _note(scoring, item["name"], len(failed), len(answers), text)
    if unread:
        text = f"do not count: no answer can be read; the first: {short(unread[0])}"
        _note(scoring, item["name"], len(unread), len(answers), text)
    return made


def _note(scoring: Scoring, name: str, count: int, total: int, text: str) -> None:
    scoring.emit({"event": "note", "text": f"`{name}`: {count} of {total} judgements {text}"})


def _unanswered(name: str, row: Completion, reason: str) -> StageError:
    return StageError(
        f"the critic gave no answer for the item `{name}`: {reason}\n"
        f"  prompt:     {short(row.prompt)}\n  completion: {short(row.text)}",
        hint="mend the critic, or say what such an item scores: `on_error = 0`",
    )


def _answers(name: str, questions: Sequence[Question], scoring: Scoring) -> list[Answer]:
    apart = scoring.apart
    known = [apart.answer(name, one) if apart is not None else None for one in questions]
    open_ = [question for question, answer in zip(questions, known, strict=True) if answer is None]
    rest = iter(_judgements(scoring.critics[name], open_, scoring) if open_ else ())
    return [next(rest) if answer is None else answer for answer in known]


def _judgements(critic: Any, questions: Sequence[Question], scoring: Scoring) -> list[Answer]:
    def done(count: int) -> None:
        total = len(questions)
        scoring.emit({"event": "progress", "done": count, "total": total, "unit": "judgements"})

    if isinstance(critic, Served):
        from grape.runtime.critics import remote

        return remote.judge(critic, questions, done, memory=scoring.answers)
    from grape.runtime.critics import local

    return local.judge(critic, questions, done)


# --- the reward -------------------------------------------------------------------------------


def combine(
    judged: Mapping[str, Judged],
    groups: Sequence[int],
    how: Mapping[str, Any],
    memory: dict[str, float],
    key: str = "",
) -> list[float | None]:
    """The reward of each completion of one category; None where nothing has a weight.

    `groups` numbers the prompt of each completion, `how` is the setting `combine`; `memory` holds
    running averages under `key`. With S the scores, C the confidences and a the written weights:
    W[k] = a[k] * mean C[:, k] over the scope, R[i] = sum W[k] S[i, k], divided by the weights of
    the items that apply (`sum`), or carried over from those that do not (`none`)."""
    averages = _averages(judged, groups, how, memory, key)
    rewards: list[float | None] = []
    for row in range(len(groups)):
        applies = [name for name, item in judged.items() if item.scores[row] is not None]
        weights = {name: judged[name].weight * averages[name][row] for name in judged}
        whole = sum(weights.values())
        present = sum(weights[name] for name in applies)
        if present <= 0 and how["uncertain"] == "weights":
            weights = {name: item.weight for name, item in judged.items()}
            whole = sum(weights.values())
            present = sum(weights[name] for name in applies)
        if present <= 0:
            rewards.append(None)
            continue
        whole = 1.0 if how["normalize"] == "sum" else whole
        # A share of exactly 1 for an item that is alone makes one item plain GRPO to the last bit.
        shares = {name: weights[name] / present * whole for name in applies}
        rewards.append(sum(shares[name] * (judged[name].scores[row] or 0.0) for name in applies))
    return rewards


def _averages(
    judged: Mapping[str, Judged],
    groups: Sequence[int],
    how: Mapping[str, Any],
    memory: dict[str, float],
    key: str,
) -> dict[str, list[float]]:
    """The confidence that weighs each item, for every completion."""
    if how["kind"] == "weights":
        return {name: [1.0] * len(groups) for name in judged}
    if how["kind"] == "row_confidence":
        return {name: [c or 0.0 for c in item.confidences] for name, item in judged.items()}
    if how["scope"] == "group":
        return {name: _per_group(item.confidences, groups) for name, item in judged.items()}
    made = {}
    for name, item in judged.items():
        value = _mean(item.confidences)
        if how["scope"] == "running":
            value = _running(memory, f"{key}.{name}", value, how["decay"])
        made[name] = [value or 0.0] * len(groups)
    return made


def _per_group(confidences: Sequence[float | None], groups: Sequence[int]) -> list[float]:
    inside: dict[int, list[float | None]] = {}
    for group, confidence in zip(groups, confidences, strict=True):
        inside.setdefault(group, []).append(confidence)
    means = {group: _mean(values) or 0.0 for group, values in inside.items()}
    return [means[group] for group in groups]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _running(
    memory: dict[str, float], name: str, value: float | None, decay: float
) -> float | None:
    """The average over rounds; the first round is taken as it is, an empty one changes nothing."""
    before = memory.get(name)
    if value is None:
        return before
    memory[name] = value if before is None else decay * before + (1 - decay) * value
    return memory[name]
