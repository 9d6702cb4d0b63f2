"""`score`: rollouts and a reward become scored rollouts; the rows that came in stay as they are."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from statistics import fmean
from time import perf_counter
from typing import TYPE_CHECKING, Any

from grape.runtime import ranks
from grape.runtime.artifacts import Completion, Rollouts
from grape.runtime.context import Context, answers_of
from grape.runtime.errors import StageError
from grape.runtime.nodes import node_values
from grape.runtime.rewards.evaluation import score_rollouts
from grape.runtime.rewards.text import clusters
from grape.runtime.verbs.selection import by_group

if TYPE_CHECKING:
    from grape.runtime.rubric import Scoring


def run(context: Context, inputs: dict[str, Any]) -> Rollouts:
    """Raises StageError when a reward cannot be used or fails, see `score_rollouts`."""
    rollouts: Rollouts = inputs["rollouts"]
    start = perf_counter()
    scored = _of_programs(context, rollouts, inputs)
    if context.stage.settings.get("cluster") is not None:
        scored = replace(scored, rows=_clustered(scored.rows, context.stage.settings["cluster"]))
    if rollouts.companions:
        scored = _with_baseline(context, scored, inputs)
    if any("tree" in row.added for row in scored.rows):
        scored = replace(scored, rows=node_values(scored.rows))
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


def _of_programs(context: Context, rollouts: Rollouts, inputs: dict[str, Any]) -> Rollouts:
    """Scored rollouts; of a program its last call is judged, and all its calls get that reward."""
    if not any("program" in row.added for row in rollouts.rows):
        return with_rewards(context, rollouts, inputs)
    last = max(row.added["module"] for row in rollouts.rows)
    ends = replace(rollouts, rows=[row for row in rollouts.rows if row.added["module"] == last])
    judged = {row.added["program"]: row for row in with_rewards(context, ends, inputs).rows}
    rows = []
    for row in rollouts.rows:
        end = judged.get(row.added["program"])
        if end is not None:  # a rubric may leave completions out
            rows.append(
                replace(
                    row,
                    reward=end.reward,
                    parts=end.parts,
                    category=end.category,
                    confidences=end.confidences,
                )
            )
    return replace(rollouts, rows=rows)


def _clustered(rows: Sequence[Completion], extract: str) -> list[Completion]:
    """Rows with the number of their cluster in their group."""
    found: dict[int, float] = {}
    for group in by_group(rows).values():
        numbers = clusters([row.text for row in group], extract)
        found |= {id(row): float(number) for row, number in zip(group, numbers, strict=True)}
    return [replace(row, added={**row.added, "cluster": found[id(row)]}) for row in rows]


def _with_baseline(context: Context, scored: Rollouts, inputs: dict[str, Any]) -> Rollouts:
    """Every row with the reward of its prompt's greedy completion, which is judged apart, so that
    it takes part in no average."""
    aside = replace(context, state=deepcopy(context.state))
    alone = replace(scored, rows=scored.companions)
    companions = with_rewards(aside, alone, inputs).rows
    found = {row.item: row.reward for row in companions}
    rows = []
    for row in scored.rows:
        baseline = found.get(row.item)
        if baseline is None:
            raise StageError(
                f"`{context.stage.name}`: the greedy completion of item {row.item} has no reward",
                hint="a rubric that leaves completions out (`uncertain`) leaves no baseline",
            )
        rows.append(replace(row, added={**row.added, "greedy_reward": baseline}))
    return replace(scored, rows=rows, companions=companions)


def _shown(context: Context, scored: Rollouts) -> dict[str, Any]:
    """The first group of a round, for people: a repeat keeps no rollouts."""
    first = [row for row in scored.rows if row.group == scored.rows[0].group]
    names = ("prompt", "answer", "text", "reward", "parts", "truncated", "turns")
    rows = [{name: getattr(row, name) for name in names} for row in first]
    return {
        "event": "samples",
        "stage": context.stage.name,
        "round": context.round,
        "rows": rows,
    }


def with_rewards(context: Context, rollouts: Rollouts, inputs: dict[str, Any]) -> Rollouts:
    """New rows that carry their reward and its parts. `inputs` holds the critics of a rubric."""
    assert context.stage.reward is not None
    if context.stage.reward["op"] == "model":
        from grape.runtime.core.judging import judged

        return judged(inputs["judge"], rollouts)
    return ranks.once(lambda: _rewarded(context, rollouts, inputs))


def _rewarded(context: Context, rollouts: Rollouts, inputs: dict[str, Any]) -> Rollouts:
    assert context.stage.reward is not None
    if context.stage.reward["op"] == "rubric":
        return _judged(context, rollouts, inputs)
    scores = score_rollouts(
        context.stage.reward,
        rollouts,
        project=context.project,
        on_error=context.stage.settings["on_error"],
        timeout=context.stage.settings["timeout"],
        retries=context.stage.settings.get("retries", 0),
        calls_per_minute=context.stage.settings.get("calls_per_minute"),
        emit=context.emit,
        models=inputs,
        known=context.apart.outcome if context.apart is not None else None,
    )
    rows = [
        replace(row, reward=reward, parts=parts)
        for row, (reward, parts) in zip(rollouts.rows, scores, strict=True)
    ]
    return replace(rollouts, rows=rows)


def _judged(context: Context, rollouts: Rollouts, inputs: dict[str, Any]) -> Rollouts:
    from grape.runtime.rubric import score_rubric

    assert context.stage.reward is not None
    rows = score_rubric(context.stage.reward, rollouts, scoring_of(context, inputs))
    return replace(rollouts, rows=rows)


def scoring_of(context: Context, inputs: dict[str, Any]) -> Scoring:
    """How a stage's settings and inputs want a rubric's items judged."""
    from grape.runtime.rubric import Scoring

    settings = context.stage.settings
    return Scoring(
        project=context.project,
        combine=settings["combine"],
        on_error=settings["on_error"],
        timeout=settings["timeout"],
        retries=settings["retries"],
        calls_per_minute=settings["calls_per_minute"],
        emit=context.emit,
        critics=inputs,
        answers=answers_of(context.work),
        memory=context.state.setdefault("memory", {}),
        apart=context.apart,
    )


def reward_metrics(rollouts: Rollouts) -> dict[str, float]:
    """Means of reward, of parts and confidences over the completions that have them, of length in
    tokens, and the share of cut completions; {} without rows."""
    rows = rollouts.rows
    if not rows:
        return {}
    parts = _means("reward", [row.parts for row in rows])
    parts |= _means("confidence", [row.confidences for row in rows])
    return {
        "reward": fmean(row.reward for row in rows if row.reward is not None),
        **parts,
        **({"length": fmean(row.drawn for row in rows)} if rows[0].ids else {}),
        "truncated": fmean(row.truncated for row in rows),
    }


def _means(head: str, rows: Sequence[dict[str, float]]) -> dict[str, float]:
    names = sorted({name for row in rows for name in row})
    return {f"{head}.{name}": fmean(row[name] for row in rows if name in row) for name in names}
