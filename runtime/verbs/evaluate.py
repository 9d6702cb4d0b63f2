"""`evaluate`: a model answers prompts, a reward judges the answers, a report remembers them."""

from __future__ import annotations

from time import perf_counter
from typing import Any

from grape.runtime.artifacts import Completion, Data, Report, Score
from grape.runtime.context import Context
from grape.runtime.critics.sampling import completions_of
from grape.runtime.stats import mean_ci95
from grape.runtime.verbs.sample import conversing
from grape.runtime.verbs.score import with_rewards
from grape.runtime.verbs.selection import by_group, reward_of


def run(context: Context, inputs: dict[str, Any]) -> Report:
    """Sample `group` completions of each prompt and score them. A note tells mean and interval.

    Raises StageError when the reward fails, see `score_rollouts`.
    """
    start = perf_counter()
    settings = context.stage.settings
    data: Data = inputs["prompts"]
    items = data.view(context.stage.inputs["prompts"].view)[: settings["prompts"]]
    sampler = settings.get("sampler")
    draw = conversing(context.project, sampler) if sampler else completions_of
    rollouts = draw(
        inputs["model"],
        items,
        group=settings["group"],
        temperature=settings["temperature"],
        top_p=settings["top_p"],
        max_tokens=settings["max_tokens"],
        stop=settings["stop"],
        rows=settings["rows"],
        compact=settings["compact"],
        own_layers=settings["own_layers"],
        pack_weights=settings["pack_weights"],
        seed=settings["seed"],
        round=context.round,
        emit=context.emit,
    )
    rollouts.environment = data.environment
    groups = by_group(with_rewards(context, rollouts, inputs).rows)
    report = Report([_score(group) for group in groups.values()])
    tokens = sum(len(row.ids) for row in rollouts.rows)
    _tell(context, report, {"seconds": perf_counter() - start, "tokens": tokens})
    return report


def _score(group: list[Completion]) -> Score:
    first = group[0]
    return Score(
        item=first.item,
        prompt=first.prompt,
        answer=first.answer,
        texts=[row.text for row in group],
        rewards=[reward_of(row) for row in group],
        parts=_values([row.parts for row in group]),
        truncated=[row.truncated for row in group],
        category=first.category,
        confidences=_values([row.confidences for row in group]),
        turns=[row.turns for row in group] if first.turns else [],
    )


def _values(rows: list[dict[str, float]]) -> dict[str, list[float | None]]:
    """Each name with its value in every row, None where a row has none."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _tell(context: Context, report: Report, cost: dict[str, float]) -> None:
    mean, low, high = mean_ci95(list(report.per_item().values()))
    text = (
        f"`{context.stage.name}`: mean {mean:.4g}, 95 % interval {low:.4g} to {high:.4g}, "
        f"{len(report.scores)} items"
    )
    context.emit({"event": "note", "text": text})
    metrics = {"reward": mean, "ci95_low": low, "ci95_high": high}
    head = {"event": "metrics", "stage": context.stage.name, "round": context.round}
    context.emit({**head, "update": context.round, **cost, **metrics})
