"""GRAPE's reward: golden numbers, the four properties of the method, and what it leaves open."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import grape
from grape.compiler.combine import Confidence, RowConfidence, Weights
from grape.compiler.verb import Settings
from grape.runtime.artifacts import Completion
from grape.runtime.rubric import Judged, Scoring, combine, combined

Table = list[list[float]]
share = st.floats(0, 1)
sure = st.floats(0.05, 1)


def judged(
    scores: Table, confidences: Table, weights: list[float] | None = None
) -> dict[str, Judged]:
    """Items by column from rows of scores and confidences."""
    count = len(scores[0])
    return {
        f"item{k}": Judged(
            (weights or [1.0] * count)[k],
            [row[k] for row in scores],
            [row[k] for row in confidences],
        )
        for k in range(count)
    }


def rewards(
    items: dict[str, Judged], groups: list[int] | None = None, how: Settings | None = None
) -> list[float]:
    count = len(next(iter(items.values())).scores)
    settings: dict[str, Any] = (how or Confidence()).model_dump()
    made = combine(items, groups or [0] * count, settings, {})
    return [value for value in made if value is not None]


def centred(values: list[float]) -> list[float]:
    return [value - fmean(values) for value in values]


def standard(values: list[float]) -> list[float]:
    return [value / stdev(values) for value in centred(values)]


SCORES = [[1, 0.2], [0, 0.9], [1, 0.4], [0, 0.1]]
CONFIDENCES = [[1, 0.4], [1, 0.6], [1, 0.2], [1, 0.8]]


def test_the_golden_numbers() -> None:
    items = judged(SCORES, CONFIDENCES)
    plain = rewards(items, how=Confidence(normalize="none"))
    assert plain == pytest.approx([1.1, 0.45, 1.2, 0.05])
    assert centred(plain) == pytest.approx([0.4, -0.25, 0.5, -0.65])
    mean = rewards(items)
    assert mean == pytest.approx([0.733333, 0.3, 0.8, 0.033333], abs=1e-6)
    assert centred(mean) == pytest.approx([0.266667, -0.166667, 0.333333, -0.433333], abs=1e-6)
    for values in (plain, mean):
        assert standard(values) == pytest.approx([0.7323, -0.4577, 0.9154, -1.1900], abs=1e-4)


@given(st.lists(share, min_size=2, max_size=6), sure)
def test_one_item_with_any_constant_confidence_is_grpo(scores: list[float], c: float) -> None:
    items = judged([[score] for score in scores], [[c]] * len(scores))
    assert rewards(items) == scores
    scaled = rewards(items, how=Confidence(normalize="none"))
    assert scaled == pytest.approx([score * c for score in scores])


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo"])
def test_one_item_gives_the_loss_of_the_algorithm_on_the_bare_scores(name: str) -> None:
    import torch

    scores = [1.0, 0.0, 0.5, 0.0]
    items = judged([[score] for score in scores], [[0.3]] * 4)
    logp = torch.linspace(-2, -1, 12).reshape(4, 3)
    algorithm = grape.algorithm(name)

    def loss(values: list[float]) -> float:
        batch: dict[str, Any] = {
            **{need: logp for need in algorithm.needs if need.endswith("logp")},
            "reward": torch.tensor(values),
            "mask": torch.ones(4, 3, dtype=torch.bool),
            "group": torch.zeros(4, dtype=torch.long),
        }
        return float(algorithm.evaluate(batch).loss)

    assert loss(rewards(items)) == loss(scores)


@st.composite
def tables(draw: st.DrawFn) -> tuple[Table, Table]:
    rows, items = draw(st.integers(2, 5)), draw(st.integers(2, 4))

    def table(of: st.SearchStrategy[float]) -> Table:
        return [[draw(of) for _ in range(items)] for _ in range(rows)]

    return table(share), table(sure)


@given(tables())
def test_an_item_without_confidence_counts_as_if_it_were_not_there(
    both: tuple[Table, Table],
) -> None:
    scores, confidences = both
    items = judged(scores, [[0.0, *row[1:]] for row in confidences])
    fewer = judged([row[1:] for row in scores], [row[1:] for row in confidences])
    for rule in (Confidence(), Confidence(normalize="none")):
        assert rewards(items, how=rule) == pytest.approx(rewards(fewer, how=rule))


@given(tables(), st.floats(0.1, 1))
def test_scaling_every_confidence_changes_no_standardised_reward(
    both: tuple[Table, Table], factor: float
) -> None:
    scores, confidences = both
    less = [[factor * value for value in row] for row in confidences]
    for rule, scale in ((Confidence(), 1.0), (Confidence(normalize="none"), factor)):
        before = rewards(judged(scores, confidences), how=rule)
        after = rewards(judged(scores, less), how=rule)
        assert after == pytest.approx([scale * value for value in before])


@given(tables())
def test_a_rows_own_confidence_acts_through_the_average_alone(both: tuple[Table, Table]) -> None:
    """Confidences of an item moved from row to row leave every reward as it is; with
    `row_confidence` they do not have to."""
    scores, confidences = both
    turned = [*confidences[1:], confidences[0]]
    before, after = (rewards(judged(scores, table)) for table in (confidences, turned))
    assert before == pytest.approx(after)


def test_row_confidence_is_another_rule() -> None:
    items = judged([[1.0, 0.0], [1.0, 0.0]], [[1.0, 1.0], [1.0, 0.0]])
    assert rewards(items, how=RowConfidence()) == pytest.approx([0.5, 1.0])
    assert rewards(items) == pytest.approx([2 / 3, 2 / 3])
    assert rewards(items, how=Weights()) == pytest.approx([0.5, 0.5])


@given(tables(), tables())
def test_groups_never_mix_their_weights(
    one: tuple[Table, Table], other: tuple[Table, Table]
) -> None:
    width = min(len(one[0][0]), len(other[0][0]))
    tables = [[[row[:width] for row in table] for table in both] for both in (one, other)]
    groups = [0] * len(one[0]) + [1] * len(other[0])
    whole = rewards(judged(tables[0][0] + tables[1][0], tables[0][1] + tables[1][1]), groups)
    apart = [value for scores, sure in tables for value in rewards(judged(scores, sure))]
    assert whole == pytest.approx(apart)


def test_the_scope_of_the_average_is_a_choice() -> None:
    items = judged([[1, 0], [1, 0]], [[1, 1], [1, 0]])
    assert rewards(items, [0, 1]) == pytest.approx([0.5, 1.0])
    assert rewards(items, [0, 1], Confidence(scope="batch")) == pytest.approx([2 / 3, 2 / 3])


def test_a_running_average_remembers_earlier_rounds_and_an_empty_one_changes_nothing() -> None:
    how = Confidence(scope="running", decay=0.5).model_dump()
    memory: dict[str, float] = {}
    for confidence, expected in ((1.0, 0.5), (0.0, 1 / 3)):
        items = judged([[0, 1]], [[1, confidence]])
        assert combine(items, [0], how, memory, "r.c") == pytest.approx([expected])
    unread = {"item0": Judged(1, [0.0], [1.0]), "item1": Judged(1, [None], [None])}
    combine(unread, [0], how, memory, "r.c")
    assert memory["r.c.item1"] == 0.5


def test_an_item_that_does_not_apply_leaves_its_weight_to_the_others() -> None:
    items = {
        "right": Judged(1, [1.0, 1.0], [1.0, 1.0]),
        "kind": Judged(1, [0.0, None], [1.0, None]),
    }
    assert rewards(items) == pytest.approx([0.5, 1.0])
    assert rewards(items, how=Confidence(normalize="none")) == pytest.approx([1.0, 2.0])


def test_without_any_confidence_the_written_weights_count_or_nothing_does() -> None:
    items = judged([[1, 0], [0, 1]], [[0, 0], [0, 0]], [3, 1])
    assert rewards(items) == pytest.approx([0.75, 0.25])
    for rule in ("drop", "stop"):
        assert rewards(items, how=Confidence(uncertain=rule)) == []


def test_written_weights_multiply_the_confidence() -> None:
    items = judged([[1, 0]], [[1, 0.5]], [3, 2])
    assert rewards(items) == pytest.approx([0.75])


@pytest.mark.parametrize("scope", ["group", "batch", "running"])
def test_categories_never_mix_the_weights_of_their_items(scope: Any) -> None:
    """Two categories in one group, with items of the same names, reward as each does alone."""
    names = ("right", "kind")

    def row(category: str, scores: list[float], sure: list[float]) -> Completion:
        parts, confidences = (dict(zip(names, values, strict=True)) for values in (scores, sure))
        made = Completion("i", 0, "p", [], "t", [], [], False, parts=parts, category=category)
        made.confidences = confidences
        return made

    sums = [row("sums", [1, 0.2], [1, 0.4]), row("sums", [0, 0.9], [1, 0.6])]
    talk = [row("talk", [0.5, 1], [0.1, 1]), row("talk", [1, 0.3], [0.3, 0.2])]
    weights = {"sums": (3.0, 1.0), "talk": (1.0, 2.0)}

    def rewarded(rows: list[Completion]) -> list[float]:
        items = {
            name: [{"name": n, "weight": w} for n, w in zip(names, ws, strict=True)]
            for name, ws in weights.items()
        }
        rubric = {
            "name": "tutor",
            "categories": [{"name": name, "items": items[name]} for name in weights],
        }
        how = Confidence(scope=scope).model_dump()
        scoring = Scoring(Path(), how, "stop", 1.0, lambda event: None, {}, Path())
        return [made.reward or 0 for made in combined(rubric, rows, scoring) if made]

    mixed = rewarded([sums[0], talk[0], talk[1], sums[1]])
    apart = [*rewarded(sums), *rewarded(talk)]
    assert mixed == pytest.approx([apart[0], apart[2], apart[3], apart[1]])
    assert apart[0] == pytest.approx((3 * 1 + 0.5 * 0.2) / 3.5)
    assert apart[2] == pytest.approx((0.2 * 0.5 + 2 * 0.6 * 1) / (0.2 + 2 * 0.6))
