"""Which prompts come next, and how many completions each gets: curricula.

Choices are functions of the seed, the round and what was measured; the measurements, success per
prompt, lie in the sampler's memory, which checkpoints keep. It samples and scores nothing.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any

from grape.runtime.artifacts import Completion, Item
from grape.runtime.errors import StageError
from grape.runtime.stats import wilson

Rates = dict[str, list[float]]
"""By item: the weight of what was measured, and how much of it succeeded."""


def shuffled(items: Sequence[Item], key: str) -> list[Item]:
    found = list(items)
    random.Random(key).shuffle(found)
    return found


def by_column(
    items: Sequence[Item], how: Mapping[str, Any], count: int, progress: float, key: str, skip: int
) -> list[Item]:
    """`count` of the first items by a column, of a share that grows with `progress` from `start` to
    all, without the `skip` that the round has drawn. StageError where a row has no number there."""
    ranks = {id(item): _number(item, how["name"]) for item in items}
    ordered = sorted(items, key=lambda item: ranks[id(item)], reverse=how["descending"])
    share = how["start"] + (1 - how["start"]) * progress
    pool = shuffled(ordered[: max(count, math.ceil(share * len(items)))], key)
    return [pool[(skip + number) % len(pool)] for number in range(count)]


def _number(item: Item, name: str) -> float:
    value = item.columns.get(name)
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise StageError(
            f"the prompts are ordered by `{name}`, and item {item.id} has {value!r} there",
            hint="take a column of numbers; here are "
            + (", ".join(sorted(item.columns)) or "none"),
        )
    return number


def by_rate(
    items: Sequence[Item], how: Mapping[str, Any], rates: Rates, count: int, key: str, skip: int
) -> list[Item]:
    """`count` items whose success rate lies in the band or was never measured; a share `explore`,
    and what is missing, from the others, those nearest to the band first. The `skip` that the round
    has drawn come last."""
    low, high = map(float, how["between"])
    order = shuffled(items, key)

    def apart(item: Item) -> float:
        if item.id not in rates:
            return 0.0
        weight, succeeded = rates[item.id]
        return max(low - succeeded / weight, succeeded / weight - high, 0.0)

    outside = [item for item in order if apart(item) > 0]
    looked = outside[: round(how["explore"] * count)]
    taken = {id(item) for item in looked}
    rest = sorted((item for item in order if id(item) not in taken), key=apart)
    row = rest[: count - len(looked)] + looked + rest[count - len(looked) :]
    return [row[(skip + number) % len(row)] for number in range(count)]


def measure(rates: Rates, how: Mapping[str, Any], rows: Sequence[Completion]) -> None:
    """Take in a round: what was known of a prompt keeps `decay` of its weight."""
    found: Rates = {}
    for row in rows:
        counted = found.setdefault(row.item, [0.0, 0.0])
        counted[0] += 1
        counted[1] += row.reward is not None and row.reward >= how["success"]
    for item, (weight, succeeded) in found.items():
        before = rates.get(item, [0.0, 0.0])
        rates[item] = [
            before[0] * how["decay"] + weight,
            before[1] * how["decay"] + succeeded,
        ]


def budget(items: Sequence[Item], least: int, group: int, rates: Rates) -> list[int]:
    """Completions of each item, `group` on average: `least` for everyone, the others in proportion
    to the width of the 95 % interval of the success rate; whole numbers by largest remainder."""
    widths = []
    for item in items:
        weight, succeeded = rates.get(item.id, [0.0, 0.0])
        low, high = wilson(succeeded / weight, weight) if weight else (0.0, 1.0)
        widths.append(high - low)
    free = len(items) * (group - least)
    exact = [free * width / sum(widths) for width in widths]
    sizes = [math.floor(share) for share in exact]
    late = sorted(range(len(items)), key=lambda n: (sizes[n] - exact[n], n))
    for number in late[: free - sum(sizes)]:
        sizes[number] += 1
    return [least + size for size in sizes]
