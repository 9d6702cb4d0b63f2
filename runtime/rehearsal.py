"""Python rewards tried before anything is trained: a few calls on the first rows of their data.

In come a plan and what the store has, then, in a worker, one stage and its data; a reward that
gives no single number ends the run there with G903. What the numbers are is not judged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grape.compiler.plan import Plan, PlannedStage, Ref
from grape.compiler.rewards import walk
from grape.runtime.artifacts import Completion, Data, Item
from grape.runtime.context import Context, Emit
from grape.runtime.contracts import broken
from grape.runtime.errors import StageError
from grape.runtime.rewards.evaluation import Asked

TRIED = 4
"""Rows that a reward is tried on; one where its calls are rationed."""
MADE_UP = "an answer"
"""What stands for a completion where a row has neither completion nor answer."""


@dataclass(frozen=True, slots=True)
class Trial:
    """A stage whose reward is to be tried, the task that it is part of, and its data."""

    owner: PlannedStage
    stage: PlannedStage
    data: Ref


def trials_of(plan: Plan, made: Callable[[str], bool]) -> list[Trial]:
    """What to try before the plan runs: each Python reward once for each data that it meets, of
    stages that will run. `made` tells whether the store has a key."""
    found: dict[tuple[object, ...], Trial] = {}
    for owner in plan.stages:
        if made(owner.key):
            continue
        known = {stage.name: stage for stage in (*plan.stages, *owner.body)}
        for stage in owner.body or (owner,):
            sources = tuple(node["params"]["source"] for node in _python(stage))
            data = _data_of(stage, known)
            if sources and data is not None:
                key = (sources, data.stage, data.view, stage.settings["on_error"])
                found.setdefault(key, Trial(owner, stage, data))
    return list(found.values())


def _python(stage: PlannedStage) -> list[Mapping[str, Any]]:
    nodes = walk(stage.reward) if stage.reward is not None else ()
    return [node for node in nodes if node["op"] == "call" and node["name"] == "python"]


def _data_of(stage: PlannedStage, known: Mapping[str, PlannedStage]) -> Ref | None:
    """Where the prompts of what a stage scores come from."""
    while True:
        ports = (stage.inputs.get(port) for port in ("prompts", "rollouts", "data"))
        ref = next((ref for ref in ports if ref is not None), None)
        if ref is None or known[ref.stage].type == "Data":
            return ref
        stage = known[ref.stage]


def rehearse(
    stage: PlannedStage, data: Data, view: str | None, *, project: Path, work: Path, emit: Emit
) -> None:
    """Call the Python rewards of a stage as the run would. Raises StageError (G903) where one
    cannot be used, or fails and the stage says that a failure stops the run."""
    context = Context(stage, project, work, emit)
    settings = stage.settings
    rows = data.view(view)[: 1 if settings.get("calls_per_minute") else TRIED]
    for node in _python(stage):
        source = node["params"]["source"]
        asked = Asked(node, project, settings["timeout"], settings.get("retries", 0))
        try:
            reasons = [asked.failure(row) for row in map(_completed, rows)]
            empty = asked.failure(_completed(rows[0], "")) if rows else None
        except StageError as error:
            hint = error.hint or "mend the reward"
            raise broken(context, "G903", error.message, hint) from None
        failed = [reason for reason in reasons if reason is not None]
        if failed and settings["on_error"] == "stop":
            row = _completed(rows[reasons.index(failed[0])])
            raise broken(context, "G903", *_stopped(source, failed[0], row))
        for text in _notes(source, failed, len(rows), empty, settings["on_error"]):
            emit({"event": "note", "code": "G903", "text": text})


def _stopped(source: str, reason: str, row: Completion) -> tuple[str, str]:
    asked = f"on prompt {_short(row.prompt)} and completion {_short(row.text)}"
    return (
        f"the reward `{source}` {reason}, {asked}; nothing has been trained yet",
        "mend the reward, or say what such a completion gets: `on_error = 0`",
    )


def _notes(
    source: str, failed: list[str], tried: int, empty: str | None, on_error: float | str
) -> Iterator[str]:
    if failed and len(failed) == tried:
        yield (
            f"G903: the reward `{source}` {failed[0]}, and so on each of the first {tried} rows; "
            f"`on_error` gives them {on_error}"
        )
    elif empty is not None and on_error == "stop":
        yield (
            f"G903: the reward `{source}` {empty} on an empty completion, which a model may give; "
            "the run would stop there (`on_error` says what it gets instead)"
        )


def _completed(item: Item, text: str | None = None) -> Completion:
    """A row with a made-up completion: the one that it has, else its answer."""
    own = (item.completion, item.chosen, item.answer, MADE_UP)
    turns = item.messages or ()
    asked = [str(turn.get("content") or "") for turn in turns if turn.get("role") == "user"]
    return Completion(
        item=item.id,
        group=0,
        prompt=item.prompt or (asked[-1] if asked else ""),
        prompt_ids=[],
        text=text if text is not None else next(told for told in own if told is not None),
        ids=[],
        logps=[],
        truncated=False,
        answer=item.answer,
        columns=item.columns,
    )


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}…")
