"""Rewards and rubrics against the first rows: columns that they name, rows of no category.

Nothing is judged and no critic is asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from grape.compiler.graph import Stage
from grape.compiler.hygiene.walk import setting_span
from grape.compiler.rewards import walk
from grape.compiler.rubrics import items_of
from grape.compiler.templates import parse_template
from grape.dsl import ast
from grape.dsl.findings import Finding, Label
from grape.dsl.nearest import did_you_mean
from grape.dsl.source import Span
from grape.runtime.artifacts import Completion, Item
from grape.runtime.errors import StageError
from grape.runtime.probe.rewards import reward_span
from grape.runtime.rubric import category_of, columns_of

_NAMED = {"exact": ("of",), "math": ("of",), "sql": ("of", "schema"), "unit_tests": ("of",)}
"""By reward: its parameters that name a column."""


def check_shown(
    stage: Stage, declared: ast.PipelineDecl, data: Stage, items: list[Item]
) -> Iterator[Finding]:
    """G420: columns that are not there; G448: rows that no category takes."""
    assert stage.reward is not None
    if not items:
        return
    known = [*dict.fromkeys(name for item in items for name in item.columns), "prompt", "answer"]
    labels = (Label(data.span, "the data"),)
    span = reward_span(stage, declared)
    for what, column in _named(stage.reward):
        if column not in (*known, "completion"):
            yield _lacking(what, column, known, data, span, labels)
            return
    if stage.verb == "revise":
        span = setting_span(stage, declared, "template")
        for column in parse_template(stage.settings["template"]).columns:
            if column not in (*known, "completion", "critique"):
                yield _lacking("the template of a revision", column, known, data, span, labels)
                return
    if stage.reward["op"] == "rubric":
        yield from _categories(stage.reward, items, data, reward_span(stage, declared), labels)


def _named(reward: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What names a column, in the reader's words, and the column."""
    for node in walk(reward):
        for parameter in _NAMED.get(node.get("name", ""), ()):
            column = node["params"][parameter]
            if column is not None:
                yield f"`{parameter}` of `{node['name']}`", column
    if reward["op"] != "rubric":
        return
    for category in reward["categories"]:
        for column in columns_of(category["when"]):
            yield f"`when` of the category `{category['name']}`", column
    for item in items_of(reward):
        if "ask" in item:
            for column in parse_template(item["ask"]["question"]).columns:
                yield f"the question of `{item['name']}`", column


def _lacking(
    what: str, column: str, known: list[str], data: Stage, span: Span, labels: tuple[Label, ...]
) -> Finding:
    message = f"{what} names the column `{column}`, which `{data.name}` does not have"
    hint = f"it has {', '.join(dict.fromkeys(known))}"
    return Finding("G420", message + did_you_mean(column, known), span, labels, hint=hint)


def _categories(
    rubric: Mapping[str, Any],
    items: list[Item],
    data: Stage,
    span: Span,
    labels: tuple[Label, ...],
) -> Iterator[Finding]:
    for number, item in enumerate(items, 1):
        row = Completion(item.id, 0, item.prompt or "", [], "", [], [], False)
        row.answer, row.columns = item.answer, item.columns
        try:
            category_of(rubric, row)
        except StageError as error:
            message = f"row {number} of `{data.name}`: {error.message.splitlines()[0]}"
            yield Finding("G448", message, span, labels, hint=error.hint)
            return
