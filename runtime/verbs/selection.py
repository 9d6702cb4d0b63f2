"""What `keep`, `best` and `pair` share: groups of rollouts, and what to do when none is left."""

from __future__ import annotations

from collections.abc import Iterable

from grape.runtime.artifacts import Completion
from grape.runtime.context import Context
from grape.runtime.errors import StageError


def by_group(rows: Iterable[Completion]) -> dict[int, list[Completion]]:
    """Rows of each group, groups and rows in the order in which they came."""
    groups: dict[int, list[Completion]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return groups


def reward_of(row: Completion) -> float:
    assert row.reward is not None, "the checker lets only scored rollouts in"
    return row.reward


_MORE = "sample more completions of each prompt (`group`), or ask for less"


def none_left(context: Context, why: str, hint: str = _MORE) -> None:
    """In a repeat a note: the round has nothing to learn from, the next one may have. Outside,
    what follows cannot run: StageError."""
    stage = context.stage
    if inside_repeat(context):
        text = f"`{stage.name}`, round {context.round + 1}: {why}; this round trains on nothing"
        context.emit({"event": "note", "text": text})
        return
    raise StageError(
        f"`{stage.name}` keeps nothing: {why}",
        hint=hint,
    )


def inside_repeat(context: Context) -> bool:
    """Stages of a repeat have no key of their own."""
    return context.stage.key == ""
