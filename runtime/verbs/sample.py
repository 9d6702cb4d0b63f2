"""`sample(model, prompts)`: completions of the next prompts of the data. It scores nothing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from grape.runtime.artifacts import Data, Item, Rollouts
from grape.runtime.context import Context
from grape.runtime.critics.sampling import completions_of


def drawn(items: Sequence[Item], count: int, seed: int, round: int) -> list[Item]:
    """The items of a round: `count` from position `round * count` of an endless row of shuffled
    passes over the data; each pass has an order of its own, a function of `seed`."""
    chosen: list[Item] = []
    orders: dict[int, list[int]] = {}
    for position in range(round * count, (round + 1) * count):
        lap, place = divmod(position, len(items))
        if lap not in orders:
            orders[lap] = list(range(len(items)))
            random.Random(f"{seed}/{lap}").shuffle(orders[lap])
        chosen.append(items[orders[lap][place]])
    return chosen


def run(context: Context, inputs: dict[str, object]) -> Rollouts:
    """`group` completions of each of `prompts` items. Raises StageError when a prompt leaves no
    room for `max_tokens`."""
    settings = context.stage.settings
    model, data = inputs["model"], inputs["prompts"]
    assert isinstance(data, Data)
    items = data.view(context.stage.inputs["prompts"].view)
    seed = settings["seed"]
    count = settings["prompts"]
    chosen = list(items) if count is None else drawn(items, count, seed, context.round)

    def emit(event: dict[str, object]) -> None:
        context.emit({**event, "stage": context.stage.name})

    how: dict[str, Any] = {
        name: settings[name]
        for name in ("group", "temperature", "top_p", "max_tokens", "stop", "rows", "compact")
    }
    how |= {"seed": seed, "round": context.round, "emit": emit}
    rollouts = completions_of(model, chosen, **how)
    rollouts.environment = data.environment
    if settings["greedy"]:
        likeliest = {**how, "group": 1, "temperature": 0.0}
        rollouts.companions = completions_of(model, chosen, **likeliest).rows
    return rollouts
