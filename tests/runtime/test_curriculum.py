"""Which prompts are drawn, and how many completions each gets."""

from __future__ import annotations

from typing import Any

import pytest

from grape.runtime import curriculum
from grape.runtime.artifacts import Completion, Item
from grape.runtime.errors import StageError

ITEMS = [Item(f"i{n}", prompt=str(n), columns={"level": (7 * n) % 20}) for n in range(20)]
COLUMN: dict[str, Any] = {"name": "level", "start": 0.25, "descending": False}
RATE: dict[str, Any] = {
    "between": [0.2, 0.8], "success": 1.0, "decay": 0.5, "explore": 0.0, "least": None,
}  # fmt: skip


def levels(progress: float, **changes: Any) -> set[int]:
    how = {**COLUMN, **changes}
    found = curriculum.by_column(ITEMS, how, 5, progress, f"7/{progress}", 0)
    assert len({item.id for item in found}) == 5
    return {item.columns["level"] for item in found}


def test_the_first_by_a_column_come_first_and_the_share_grows() -> None:
    assert levels(0.0) == {0, 1, 2, 3, 4}
    assert levels(0.0, descending=True) == {15, 16, 17, 18, 19}
    assert max(levels(1 / 3)) < 10
    assert any(max(levels(1 - 1e-9 * n)) > 14 for n in range(5))


def test_further_draws_of_a_round_are_other_prompts() -> None:
    seen = [
        item.id
        for attempt in range(4)
        for item in curriculum.by_column(ITEMS, COLUMN, 5, 1.0, "key", 5 * attempt)
    ]
    assert len(set(seen)) == 20
    again = [
        item.id
        for attempt in range(4)
        for item in curriculum.by_rate(ITEMS, RATE, {}, 5, "key", 5 * attempt)
    ]
    assert len(set(again)) == 20


def test_a_column_without_numbers_is_named() -> None:
    with pytest.raises(StageError, match="ordered by `hard`, and item i0 has None"):
        curriculum.by_column(ITEMS, {**COLUMN, "name": "hard"}, 5, 0.0, "key", 0)


def test_the_band_comes_first_then_what_is_nearest_to_it() -> None:
    rates = {f"i{n}": [10.0, float(n % 11)] for n in range(20)}
    found = curriculum.by_rate(ITEMS, RATE, rates, 20, "key", 0)
    apart = [max(0.2 - rates[item.id][1] / 10, rates[item.id][1] / 10 - 0.8, 0) for item in found]
    assert apart == sorted(apart)
    some = curriculum.by_rate(ITEMS, {**RATE, "explore": 0.4}, rates, 5, "key", 0)
    outside = [item for item in some if not 2 <= rates[item.id][1] <= 8]
    assert len(outside) == 2
    fresh = curriculum.by_rate(ITEMS, RATE, {"i3": [4.0, 0.0]}, 19, "key", 0)
    assert "i3" not in {item.id for item in fresh}, "what was never tried is in the band"


def row(item: str, reward: float) -> Completion:
    return Completion(item, 0, "", [], "", [], [], False, reward=reward)


def test_success_is_measured_with_less_and_less_weight() -> None:
    rates: curriculum.Rates = {}
    curriculum.measure(rates, RATE, [row("a", 1.0), row("a", 0.5), row("b", 1.5)])
    assert rates == {"a": [2.0, 1.0], "b": [1.0, 1.0]}
    curriculum.measure(rates, RATE, [row("a", 1.0), row("a", 1.0)])
    assert rates == {"a": [3.0, 2.5], "b": [1.0, 1.0]}


def test_completions_go_where_the_rate_is_least_known() -> None:
    rates = {"i0": [1000.0, 500.0], "i1": [4.0, 2.0]}
    sizes = curriculum.budget(ITEMS[:3], 2, 6, rates)
    assert sum(sizes) == 18 and min(sizes) >= 2
    assert sizes[0] < sizes[1] < sizes[2], "the third was never tried"
    assert curriculum.budget(ITEMS[:3], 2, 6, {}) == [6, 6, 6]
    assert curriculum.budget(ITEMS[:3], 6, 6, rates) == [6, 6, 6]
