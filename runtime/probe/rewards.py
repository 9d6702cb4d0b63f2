"""Rewards against the first rows: columns that Python asks for, answers that get nothing.

Only rewards that ship with Grape and cannot take long are computed; a `python(…)` reward is read as
syntax and runs in a run only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from grape.compiler.graph import Stage
from grape.compiler.hygiene.walk import nodes_of
from grape.compiler.names import Refused
from grape.compiler.python_reward import read_reward
from grape.compiler.rewards import walk
from grape.dsl import ast
from grape.dsl.findings import Finding, Label
from grape.dsl.nearest import did_you_mean
from grape.dsl.source import Span
from grape.runtime.artifacts import Completion, Item, Rollouts
from grape.runtime.errors import StageError
from grape.runtime.rewards.evaluation import score_rollouts

TRIED = 16


def check_columns(
    stage: Stage,
    declared: ast.PipelineDecl,
    data: Stage,
    items: list[Item],
    project: Path,
    *,
    talks: bool = False,
) -> Iterator[Finding]:
    """G420: arguments of a Python reward that neither the data has nor, where the completions are
    of several turns, their sampler."""
    assert stage.reward is not None
    known = [*(items[0].columns if items else ()), "prompt", "answer"]
    known += ["transcript"] if talks else []
    for node in walk(stage.reward):
        if node["op"] != "call" or node["name"] != "python":
            continue
        text = node["params"]["source"]
        try:
            signature = read_reward(text, stage.span, project)
        except Refused:
            continue
        for argument in signature.required:
            if argument not in known:
                message = (
                    f"`{text}` asks for `{argument}`, which `{data.name}` does not have"
                    f"{did_you_mean(argument, known)}"
                )
                labels = (Label(data.span, "the data"),)
                hint = f"it can ask for completion, {', '.join(dict.fromkeys(known))}"
                yield Finding("G420", message, reward_span(stage, declared), labels, hint=hint)
                return


def check_reward(
    stage: Stage, declared: ast.PipelineDecl, data: Stage, items: list[Item], project: Path
) -> Iterator[Finding]:
    """G417: a reward that gives the reference answers what it gives an empty completion."""
    assert stage.reward is not None
    tried = [item for item in items if _told(item) is not None][:TRIED]
    if not tried or not _quick(stage.reward):
        return
    try:
        right = _scores(stage.reward, [(item, _told(item) or "") for item in tried], project)
        empty = _scores(stage.reward, [(item, "") for item in tried], project)
    except StageError as error:
        message = error.message.splitlines()[0].removeprefix("G903: ")
        yield Finding("G417", f"on the first rows, {message}", reward_span(stage, declared))
        return
    if right == empty:
        message = (
            f"the reward gives the reference answers of the first {len(tried)} rows "
            f"{right[0]:g}, and an empty completion the same"
        )
        shown = _told(tried[0]) or ""
        hint = f"the first answer is {shown[:60]!r}; does `extract` find in it what is compared?"
        labels = (Label(data.span, "the answers"),)
        yield Finding("G417", message, reward_span(stage, declared), labels, hint=hint)


def _told(item: Item) -> str | None:
    return item.completion if item.completion is not None else item.answer


def _quick(reward: Mapping[str, Any]) -> bool:
    """Whether a reward compares texts, and can be computed here: no user code, no pattern that may
    run for ever, no critic to ask."""
    if reward["op"] == "rubric":
        return False
    calls = [node for node in walk(reward) if node["op"] == "call"]
    for node in calls:
        name, params = node["name"], node["params"]
        fine = name in ("exact", "contains") or (
            (name == "within" and params["unit"] != "tokens")
            or (name == "format" and params["pattern"] is None)
        )
        if not fine:
            return False
    return any(node["name"] in ("exact", "contains", "format") for node in calls)


def _scores(reward: Mapping[str, Any], pairs: list[tuple[Item, str]], project: Path) -> list[float]:
    rows = [
        Completion(
            item=item.id,
            group=number,
            prompt=item.prompt or "",
            prompt_ids=[],
            text=text,
            ids=[],
            logps=[],
            truncated=False,
            answer=item.answer,
            columns=item.columns,
        )
        for number, (item, text) in enumerate(pairs)
    ]
    scored = score_rollouts(
        reward,
        Rollouts(rows, {}, ""),
        project=project,
        on_error="stop",
        timeout=2.0,
        emit=lambda event: None,
    )
    return [value for value, _ in scored]


def reward_span(stage: Stage, declared: ast.PipelineDecl) -> Span:
    """The last argument of a stage's call: its reward."""
    for node in nodes_of(declared):
        if node.span == stage.span and isinstance(node.call, ast.Call) and node.call.args:
            return node.call.args[-1].span
    return stage.span
