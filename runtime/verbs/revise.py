"""`revise`: low items are criticised, a model answers again, and the rubric judges both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from time import perf_counter
from typing import Any

from grape.runtime.artifacts import Completion, Preference, Preferences, Rollouts
from grape.runtime.context import Context
from grape.runtime.critics.server import Served
from grape.runtime.errors import StageError
from grape.runtime.revising import faults_of, revised, written
from grape.runtime.rubric import combined, judged_rows
from grape.runtime.verbs.sample import derived
from grape.runtime.verbs.score import scoring_of
from grape.runtime.verbs.selection import none_left, reward_of

Pairs = list[tuple[Completion, Completion]]
"""What was revised, and its revision."""


def run(context: Context, inputs: dict[str, Any]) -> Rollouts | Preferences:
    """Revisions, pairs or both kinds of completions, as `gives` says. Confidences are averaged over
    rollouts and revisions together, so that their rewards mean the same.

    Raises StageError for critics and rewards that fail, and where nothing comes out outside a
    repeat."""
    start = perf_counter()
    rollouts: Rollouts = inputs["rollouts"]
    settings, rubric = context.stage.settings, context.stage.reward
    assert rubric is not None
    scoring = scoring_of(context, inputs)
    seed = derived(settings["seed"], "revise", context.attempt)
    faults = faults_of(rubric, rollouts.rows, settings)
    told = written(faults, rollouts.rows, scoring, context)
    fresh = replace(rollouts, rows=[])
    if told:
        fresh = revised(inputs["model"], rollouts, told, context, seed)
    if settings["gives"] != "revisions" and not isinstance(inputs["model"], Served):
        _check_tokens(context, rollouts.rows, fresh.rows)
    before = [replace(row, added={"revised": 0.0, **row.added}) for row in rollouts.rows]
    judged = judged_rows(rubric, fresh, scoring)
    rows = combined(rubric, [*before, *judged], scoring)
    first, later = rows[: len(before)], rows[len(before) :]
    sources = [number for number in told for _ in range(settings["tries"])]
    pairs = [
        (old, new)
        for old, new in zip((first[number] for number in sources), later, strict=True)
        if old is not None and new is not None
    ]
    _tell(context, len(before), len(told), pairs, perf_counter() - start)
    if not pairs:
        _nothing(context, len(faults))
    if settings["gives"] == "pairs":
        return Preferences(_preferences(context, pairs))
    kept = [new for old, new in pairs if not settings["only_better"] or _better(context, old, new)]
    if settings["gives"] == "group":
        return replace(rollouts, rows=[*(row for row in first if row is not None), *kept])
    if pairs and not kept:
        none_left(context, _worse(len(pairs)), _MORE)
    return replace(fresh, rows=kept)


_MORE = "raise `tries`, lower `margin`, or look at the critiques: they may not help"


def _worse(count: int) -> str:
    return f"none of {count} revisions scores higher than what it revises"


def _check_tokens(
    context: Context, before: Sequence[Completion], after: Sequence[Completion]
) -> None:
    """What is learned from beside each other must be written in the same tokens."""
    prompts = {row.group: row.prompt_ids for row in before if row.prompt_ids}
    if any(row.prompt_ids != prompts.get(row.group, row.prompt_ids) for row in after):
        raise StageError(
            f"`{context.stage.name}`: the model that revises has another tokenizer than the one "
            "that sampled",
            hint='take its revisions alone: `gives = "revisions"`, then `best` and `sft()`',
        )


def _better(context: Context, old: Completion, new: Completion) -> bool:
    margin: float = context.stage.settings["margin"]
    return reward_of(new) - reward_of(old) > margin


def _preferences(context: Context, pairs: Pairs) -> list[Preference]:
    """Of every completion the best revision that is better, the earlier one on a tie."""
    best: dict[int, tuple[Completion, Completion]] = {}
    for old, new in pairs:
        known = best.get(id(old))
        if _better(context, old, new) and (known is None or reward_of(new) > reward_of(known[1])):
            best[id(old)] = old, new
    if pairs and not best:
        none_left(context, _worse(len(pairs)), _MORE)
    return [_preference(old, new) for old, new in best.values()]


def _preference(old: Completion, new: Completion) -> Preference:
    """Without ids where a served model wrote one of them."""
    tokens = bool(old.ids and new.ids)
    read = list(old.observed) if tokens else []
    return Preference(
        new.prompt,
        new.text,
        old.text,
        margin=reward_of(new) - reward_of(old),
        prompt_ids=list(new.prompt_ids) if tokens else None,
        chosen_ids=list(new.ids) if tokens else None,
        rejected_ids=list(old.ids) if tokens else None,
        rejected_observed=read,
    )


def _nothing(context: Context, faults: int) -> None:
    """Nobody was revised: because nothing is wrong, or because nothing could be said about it."""
    if context.stage.settings["gives"] == "group":
        return
    why = "no critique could be had"
    if not faults:
        why = f"no item scores below {context.stage.settings['below']:g}"
    none_left(context, why, "raise `below`, or look at what the critic writes")


def _tell(context: Context, count: int, told: int, pairs: Pairs, seconds: float) -> None:
    gains = [reward_of(new) - reward_of(old) for old, new in pairs]
    text = f"`{context.stage.name}`: {told} of {count} completions criticised"
    if gains:
        better, worse = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
        text += (
            f"; of {len(gains)} revisions {better} score higher and {worse} lower, "
            f"{fmean(gains):+.3g} on average"
        )
    context.emit({"event": "note", "text": text})
    context.emit(
        {
            "event": "metrics",
            "stage": context.stage.name,
            "round": context.round,
            "update": context.round,
            "seconds": seconds,
            "tokens": sum(len(new.ids) for _, new in pairs),
            "criticised": told / count if count else 0.0,
            "revisions": len(gains),
            **({"gain": fmean(gains), "better": fmean(g > 0 for g in gains)} if gains else {}),
        }
    )
    if context.rounds > 1 and pairs:
        context.emit(_shown(context, pairs))


def _shown(context: Context, pairs: Pairs) -> dict[str, Any]:
    """The first revisions of a round, each after what it revises, for people."""
    names = (
        "prompt",
        "answer",
        "text",
        "reward",
        "parts",
        "truncated",
        "turns",
        "critique",
        "revises",
    )
    rows = [{name: getattr(row, name) for name in names} for pair in pairs[:4] for row in pair]
    head = {"event": "samples", "stage": context.stage.name, "round": context.round}
    return {**head, "rows": rows}
