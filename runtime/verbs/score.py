"""`score`: rollouts and a reward become scored rollouts; the rows that came in stay as they are."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean
from time import perf_counter
from typing import Any

from grape.runtime.artifacts import Rollouts
from grape.runtime.context import Context
from grape.runtime.rewards.evaluation import score_rollouts


def run(context: Context, inputs: dict[str, Any]) -> Rollouts:
    """Raises StageError when a reward cannot be used or fails, see `score_rollouts`."""
    rollouts: Rollouts = inputs["rollouts"]
    start = perf_counter()
    scored = with_rewards(context, rollouts)
    metrics = reward_metrics(scored)
    if metrics:
        context.emit(
            {
                "event": "metrics",
                "stage": context.stage.name,
                "round": context.round,
                "update": context.round,
                "seconds": perf_counter() - start,
                "tokens": sum(len(row.ids) for row in scored.rows),
                **metrics,
            }
        )
    if context.rounds > 1:
        context.emit(_shown(context, scored))
    return scored


def _shown(context: Context, scored: Rollouts) -> dict[str, Any]:
    """The first group of a round, for people: a repeat keeps no rollouts."""
    first = [row for row in scored.rows if row.group == scored.rows[0].group]
    names = ("prompt", "answer", "text", "reward", "parts", "truncated")
    rows = [{name: getattr(row, name) for name in names} for row in first]
    return {
        "event": "samples",
        "stage": context.stage.name,
        "round": context.round,
        "rows": rows,
    }


def with_rewards(context: Context, rollouts: Rollouts) -> Rollouts:
    """New rows that carry their reward and its parts."""
    assert context.stage.reward is not None
    scores = score_rollouts(
        context.stage.reward,
        rollouts,
        project=context.project,
        on_error=context.stage.settings["on_error"],
        timeout=context.stage.settings["timeout"],
        retries=context.stage.settings.get("retries", 0),
        calls_per_minute=context.stage.settings.get("calls_per_minute"),
        emit=context.emit,
    )
    rows = [
        replace(row, reward=reward, parts=parts)
        for row, (reward, parts) in zip(rollouts.rows, scores, strict=True)
    ]
    return replace(rollouts, rows=rows)


def reward_metrics(rollouts: Rollouts) -> dict[str, float]:
    """Means of reward, parts, length in tokens and share of cut completions; {} without rows."""
    rows = rollouts.rows
    if not rows:
        return {}
    parts = {
        f"reward.{part}": fmean(row.parts[part] for row in rows) for part in sorted(rows[0].parts)
    }
    return {
        "reward": fmean(row.reward for row in rows if row.reward is not None),
        **parts,
        "length": fmean(len(row.ids) for row in rows),
        "truncated": fmean(row.truncated for row in rows),
    }
