"""Checks after a run: expressions over reports, and paired tests with three answers."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from statistics import fmean
from typing import Any

from grape.compiler.plan import PlannedCheck
from grape.runtime.artifacts import Report
from grape.runtime.errors import StageError
from grape.runtime.stats import mean_ci95, paired_difference, pass_at

_BINARY: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "^": operator.pow,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """`verdict` is pass, fail or inconclusive; only pass lets outputs be published."""

    text: str
    verdict: str
    detail: str

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def judge(check: PlannedCheck, reports: Mapping[str, Report]) -> Verdict:
    """Evaluate one check on the reports of the run. What has no data is inconclusive."""
    names = sorted(_stages(check.test))
    for name in names:
        lacking = _lacking(reports[name])
        if lacking:
            return Verdict(check.text, "inconclusive", f"{name} has {lacking}")
    if check.confidence is not None:
        return _paired(check, reports)
    try:
        holds = bool(value_of(check.test, lambda test: report_metric(test, reports[test["stage"]])))
    except ZeroDivisionError:
        return Verdict(check.text, "inconclusive", "a division by zero")
    detail = ", ".join(_interval(name, reports[name]) for name in names)
    return Verdict(check.text, "pass" if holds else "fail", detail)


def _lacking(report: Report) -> str:
    """What keeps a report from being judged; empty when nothing does."""
    if not report.scores:
        return "no items"
    rewards = [reward for score in report.scores for reward in score.rewards]
    if any(not score.rewards for score in report.scores):
        return "items without completions"
    return "" if all(map(isfinite, rewards)) else "rewards that are no numbers"


def _interval(name: str, report: Report) -> str:
    mean, low, high = mean_ci95(list(report.per_item().values()))
    return f"{name} {mean:.3f} [{low:.3f}, {high:.3f}]"


def _paired(check: PlannedCheck, reports: Mapping[str, Report]) -> Verdict:
    assert check.confidence is not None
    op, (left, right) = check.test["op"], check.test["args"]
    if op in ("<", "<="):
        left, right = right, left
    one, other = reports[left["stage"]].per_item(), reports[right["stage"]].per_item()
    if one.keys() != other.keys():
        missing = len(one.keys() ^ other.keys())
        detail = f"the reports differ in {missing} items, so they cannot be paired"
        return Verdict(check.text, "inconclusive", detail)
    items = sorted(one)
    two_sided = 1 - 2 * (1 - check.confidence)  # one side of it holds `confidence`
    mean, low, high, verdict = paired_difference(
        [one[item] for item in items], [other[item] for item in items], two_sided
    )
    answer = {"higher": "pass", "lower": "fail", "inconclusive": "inconclusive"}[verdict]
    detail = (
        f"difference {mean:+.3f} [{low:+.3f}, {high:+.3f}] on {len(items)} items at "
        f"{check.confidence:.0%}"
    )
    return Verdict(check.text, answer, detail)


def _stages(test: Any) -> set[str]:
    if not isinstance(test, dict):
        return set()
    if test.get("op") == "metric":
        return {test["stage"]}
    return {name for arg in test.get("args", ()) for name in _stages(arg)}


class Unknown(Exception):
    """A metric that nothing has made yet."""


def value_of(test: dict[str, Any], metric: Callable[[dict[str, Any]], Any]) -> Any:
    """The value of a test, `metric` telling those of its metrics.

    A part that raises `Unknown` leaves `and` and `or` open only where the other part does not
    decide them (Kleene's logic)."""
    op = test["op"]
    if op == "number":
        return test["value"]
    if op == "metric":
        return metric(test)
    if op in ("not", "neg"):
        inner = value_of(test["args"][0], metric)
        return not inner if op == "not" else -inner
    if op in ("and", "or"):
        return _joined(test, metric)
    left, right = (value_of(arg, metric) for arg in test["args"])
    return _BINARY[op](left, right)


def _joined(test: dict[str, Any], metric: Callable[[dict[str, Any]], Any]) -> bool:
    decides: bool = test["op"] == "or"
    open_part = False
    for arg in test["args"]:
        try:
            if bool(value_of(arg, metric)) == decides:
                return decides
        except Unknown:
            open_part = True
    if open_part:
        raise Unknown
    return not decides


def report_metric(test: dict[str, Any], report: Report) -> float:
    """One metric of a report."""
    name = test["name"]
    if name == "pass_at":
        k = int(test["args"][0])
        rows = [(sum(r >= 1 for r in score.rewards), len(score.rewards)) for score in report.scores]
        return fmean(pass_at(k, right, samples) for right, samples in rows)
    if name == "part":
        part = test["args"][0]
        values = [value for score in report.scores for value in score.part(part)]
        if not values:
            raise StageError(f"`{test['stage']}` has no completion that `{part}` applies to")
        return fmean(values)
    mean, low, high = mean_ci95(list(report.per_item().values()))
    return {"mean": mean, "ci95_low": low, "ci95_high": high}[name]
