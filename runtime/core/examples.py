"""Artifacts to training examples: ids, groups, and what the formula may ask about each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from grape.runtime.artifacts import (
    Completion,
    Data,
    Demo,
    Demos,
    Item,
    Preference,
    Preferences,
    Rollouts,
    part_values,
)
from grape.runtime.context import Context
from grape.runtime.core.models import Policy
from grape.runtime.core.packing import Example
from grape.runtime.core.text import chat_turns, completion_ids, encode_prompt
from grape.runtime.errors import StageError


def examples_of(
    context: Context, policy: Policy, data: Data | Demos | Rollouts | Preferences
) -> list[Example]:
    """The examples of a train stage's data; those too long for the model are handled as
    `overlong` says. Preferences give two examples per pair, the chosen one first."""
    assert context.stage.formula is not None
    learns = context.stage.formula["on"]
    if isinstance(data, Rollouts):
        found = [[example] for example in of_rollouts(data, context.stage.formula["needs"])]
    elif isinstance(data, Demos):
        found = [[_demo(policy, row, number)] for number, row in enumerate(data.rows)]
    elif isinstance(data, Preferences):
        found = [_pair(policy, row, number) for number, row in enumerate(data.rows)]
    else:
        items = data.view(context.stage.inputs["data"].view)
        make = {"Preferences": _item_pair}.get(learns, _item)
        found = [make(policy, item, number) for number, item in enumerate(items)]
    return _fitting(context, policy, found)


def _fitting(context: Context, policy: Policy, rows: list[list[Example]]) -> list[Example]:
    settings = context.stage.settings
    limit = min(policy.context_length, settings["max_length"] or policy.context_length)
    kept = []
    for number, row in enumerate(rows, 1):
        longest = max((len(one.prompt) + len(one.completion) for one in row), default=0)
        if longest <= limit:
            kept += row
        elif settings["overlong"] == "error":
            raise StageError(
                f"row {number} of the data of `{context.stage.name}` has {longest} tokens, and "
                f"{limit} fit",
                hint='shorten it, or write overlong = "drop" to leave such rows out',
            )
    dropped = sum(len(row) for row in rows) - len(kept)
    if dropped:
        text = f"{context.stage.name}: {dropped} sequences longer than {limit} tokens left out"
        context.emit({"event": "note", "text": text})
    return kept


def of_rollouts(data: Rollouts, needs: Iterable[str]) -> list[Example]:
    """One example of each row, in their order, with all that is known of it."""
    names = {part for row in data.rows for part in row.parts}
    names |= {name.removeprefix("reward.") for name in needs if name.startswith("reward.")}
    parts = {f"reward.{name}": part_values(data.rows, name) for name in sorted(names)}
    return [
        Example(
            tuple(row.prompt_ids),
            tuple(row.ids),
            row.group,
            {"behavior_logp": row.logps, **row.tokens, **_by_token(row)},
            {
                **({} if row.reward is None else {"reward": row.reward}),
                "truncated": float(row.truncated),
                **{name: values[number] for name, values in parts.items()},
                **row.added,
            },
            _spans(row.observed),
        )
        for number, row in enumerate(data.rows)
    ]


def _spans(observed: list[list[int]]) -> tuple[tuple[int, int], ...]:
    return tuple((start, end) for start, end in observed)


def _by_token(row: Completion) -> dict[str, list[float]]:
    """The number of each token's step, and what is known of the step."""
    if not row.path:
        return {}
    steps = row.numbered_steps()
    known = {name: [values[step] for step in steps] for name, values in row.steps.items()}
    return {"step": [float(step) for step in steps], **known}


def _demo(policy: Policy, row: Demo, number: int) -> Example:
    if row.prompt_ids is not None and row.completion_ids is not None:
        made = Example(tuple(row.prompt_ids), tuple(row.completion_ids), number)
        return replace(made, observed=_spans(row.observed))
    return _texts(policy, row.prompt, row.completion, number)


def _texts(policy: Policy, prompt: str, completion: str, number: int) -> Example:
    tokenizer = policy.tokenizer
    return Example(
        tuple(encode_prompt(tokenizer, prompt)),
        tuple(completion_ids(tokenizer, completion)),
        number,
    )


def _item(policy: Policy, item: Item, number: int) -> list[Example]:
    if item.prompt is None or item.completion is None:
        turns = chat_turns(policy.tokenizer, item.messages or [])
        return [Example(tuple(before), tuple(answer), number) for before, answer in turns]
    example = _texts(policy, item.prompt, item.completion, number)
    if item.desirable is not None:
        example.scalars["desirable"] = float(item.desirable)
    return [example]


def _item_pair(policy: Policy, item: Item, number: int) -> list[Example]:
    prompt, chosen, rejected = item.prompt or "", item.chosen or "", item.rejected or ""
    return [_texts(policy, prompt, side, number) for side in (chosen, rejected)]


def _pair(policy: Policy, row: Preference, number: int) -> list[Example]:
    tokenizer: Any = policy.tokenizer
    prompt = row.prompt_ids or encode_prompt(tokenizer, row.prompt)
    sides = (
        row.chosen_ids or completion_ids(tokenizer, row.chosen),
        row.rejected_ids or completion_ids(tokenizer, row.rejected),
    )
    scalars = {} if row.margin is None else {"margin": row.margin}
    read = (_spans(row.chosen_observed), _spans(row.rejected_observed))
    return [
        Example(tuple(prompt), tuple(side), number, {}, dict(scalars), spans)
        for side, spans in zip(sides, read, strict=True)
    ]
