"""score, keep, best, pair and evaluate on hand-made rollouts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from grape.compiler.formula.ir import Formula, Term
from grape.compiler.formula.levels import Level
from grape.compiler.plan import PlannedStage, Ref
from grape.runtime.artifacts import Completion, Data, Item, Report, Rollouts
from grape.runtime.context import Context
from grape.runtime.errors import StageError
from grape.runtime.verbs import best, evaluate, keep, pair, score

EXACT: dict[str, Any] = {
    "op": "call",
    "name": "exact",
    "part": "exact",
    "params": {"extract": "text", "ignore_case": False, "of": "answer"},
}


def rollouts(*groups: list[float]) -> Rollouts:
    rows = [
        Completion(
            f"i{g}", g, f"p{g}", [g], f"t{g}{k}", list(range(k + 1)), [0.0] * (k + 1), False,
            reward=reward, parts={"exact": reward},
        )
        for g, rewards in enumerate(groups)
        for k, reward in enumerate(rewards)
    ]  # fmt: skip
    return Rollouts(rows, {"group": len(groups[0]) if groups else 0})


def context(verb: str, events: list[dict[str, Any]], key: str = "k", **more: Any) -> Context:
    given = {"inputs": {}, "settings": {}, **more}
    stage = PlannedStage(name="s", verb=verb, type="", key=key, **given)
    return Context(stage, Path(), Path(), events.append)


def texts(made: Rollouts) -> list[str]:
    return [row.text for row in made.rows]


def varied() -> dict[str, Any]:
    """`std(reward per group) > 0`."""
    terms = (
        Term("input", (), (("name", "reward"),), Level.SEQUENCE, False, False),
        Term("reduce", (0,), (("kind", "std"), ("ddof", 1)), Level.GROUP, False, False),
        Term("const", (), (("value", 0.0),), Level.BATCH, False, False),
        Term("gt", (1, 2), (), Level.GROUP, False, False, True),
    )
    needs = frozenset({"reward"})
    return Formula(
        "where", "Rollouts", (), terms, "maximize", 3, (), needs, Level.GROUP
    ).to_json()  # fmt: skip


def at_least(name: str, least: float) -> dict[str, Any]:
    terms = (
        Term("input", (), (("name", name),), Level.SEQUENCE, False, False),
        Term("const", (), (("value", least),), Level.BATCH, False, False),
        Term("ge", (0, 1), (), Level.SEQUENCE, False, False, True),
    )
    needs = frozenset({name})
    return Formula(
        "where", "Rollouts", (), terms, "maximize", 2, (), needs, Level.SEQUENCE
    ).to_json()  # fmt: skip


def test_keep_by_group() -> None:
    events: list[dict[str, Any]] = []
    given = {"rollouts": rollouts([1, 1], [0, 1], [0, 0])}
    made = keep.run(context("keep", events, formula=varied()), given)
    assert texts(made) == ["t10", "t11"]
    assert "keeps 2 of 6" in events[0]["text"]


@pytest.mark.parametrize(
    ("name", "least", "kept"),
    [("reward", 1, ["t01", "t10"]), ("reward.exact", 1, ["t01", "t10"]),
     ("length", 2, ["t01", "t11"])],
)  # fmt: skip
def test_keep_by_sequence(name: str, least: float, kept: list[str]) -> None:
    given = {"rollouts": rollouts([0, 1], [1, 0])}
    made = keep.run(context("keep", [], formula=at_least(name, least)), given)
    assert texts(made) == kept


def test_keeping_nothing_stops_outside_a_repeat_and_is_noted_inside() -> None:
    given = {"rollouts": rollouts([0, 0])}
    with pytest.raises(StageError, match="keeps nothing: `where` holds for none of 2"):
        keep.run(context("keep", [], formula=varied()), given)
    events: list[dict[str, Any]] = []
    made = keep.run(context("keep", events, key="", formula=varied()), given)
    assert made.rows == []
    assert "trains on nothing" in events[0]["text"]
    again = keep.run(context("keep", events, key="", formula=varied()), {"rollouts": made})
    assert again.rows == []


def test_keep_takes_the_top_of_each_group() -> None:
    given = {"rollouts": rollouts([0.2, 0.9, 0.7, 0.9], [0.1, 0.6, 0.6])}
    made = keep.run(context("keep", [], settings={"top": 2}), given)
    assert texts(made) == ["t01", "t03", "t11", "t12"]


def test_keep_takes_those_whose_advantages_vary_most() -> None:
    """Equal rewards are in the middle, whatever they are; the best and the worst are kept."""
    given = {"rollouts": rollouts([5, 5, 5], [0, 1, 0, 0], [1, 0, 1, 1])}
    made = keep.run(context("keep", [], settings={"count": 4}), given)
    assert {"t11", "t21"} <= set(texts(made)) and len(made.rows) == 4
    assert {row.group for row in made.rows} == {1, 2}


def test_best_takes_the_top_of_each_group_with_its_tokens() -> None:
    settings = {"top": 2, "threshold": 0.5}
    given = {"rollouts": rollouts([0.2, 0.9, 0.7, 0.9], [0.1, 0.6])}
    made = best.run(context("best", [], settings=settings), given)
    assert [demo.completion for demo in made.rows] == ["t01", "t03", "t11"]
    assert (made.rows[0].prompt_ids, made.rows[0].completion_ids) == ([0], [0, 1])


def test_best_of_nothing() -> None:
    settings = {"top": 1, "threshold": 0.5}
    with pytest.raises(StageError, match=r"no completion has a reward of at least 0\.5"):
        best.run(context("best", [], settings=settings), {"rollouts": rollouts([0.0])})


def pairs(by: str, margin: float, given: Rollouts, events: list[dict[str, Any]]) -> list[Any]:
    settings = {"by": by, "margin": margin}
    made = pair.run(context("pair", events, settings=settings), {"rollouts": given})
    return [(row.chosen, row.rejected, row.margin) for row in made.rows]


def test_pairs_of_extremes_and_a_note_on_groups_without() -> None:
    events: list[dict[str, Any]] = []
    given = rollouts([0, 1, 2], [1, 1, 1])
    assert pairs("extremes", 0.0, given, events) == [("t02", "t00", 2)]
    assert "1 of 2 groups gave no pair" in events[0]["text"]


def test_all_pairs_beyond_the_margin() -> None:
    given = rollouts([0, 1, 3])
    assert pairs("all", 1.0, given, []) == [("t02", "t00", 3), ("t02", "t01", 2)]


def test_no_pair_at_all() -> None:
    with pytest.raises(StageError, match="in none of 1 groups"):
        pairs("all", 0.0, rollouts([1, 1]), [])


def test_score_makes_new_rows() -> None:
    given = rollouts([0.0, 0.0])
    for row in given.rows:
        row.reward, row.parts, row.answer = None, {}, "t01"
    events: list[dict[str, Any]] = []
    settings = {"on_error": "stop", "timeout": 5.0}
    made = score.run(context("score", events, settings=settings, reward=EXACT), {"rollouts": given})
    assert [row.reward for row in made.rows] == [0.0, 1.0]
    assert [row.reward for row in given.rows] == [None, None]
    assert events[0]["reward"] == events[0]["reward.exact"] == 0.5
    assert events[0]["tokens"] == 3


def test_evaluate_reports_every_item(monkeypatch: pytest.MonkeyPatch) -> None:
    from grape.runtime.core import rollout

    asked: dict[str, Any] = {}

    def answer(policy: object, items: list[Item], **how: Any) -> Rollouts:
        asked.update(how, items=len(items))
        rows = [
            Completion(item.id, g, item.prompt or "", [1], text, [1], [0.0], False, item.answer)
            for g, item in enumerate(items)
            for text in ("4", "5")
        ]
        return Rollouts(rows, {})

    monkeypatch.setattr(rollout, "generate_for", answer)
    items = [Item(str(i), prompt=f"p{i}", answer="4") for i in range(4)]
    data = Data(items, {"train": [0], "test": [1, 2, 3]})
    settings = {
        "group": 2, "temperature": 1.0, "top_p": 1.0, "max_tokens": 4, "stop": [], "prompts": 2,
        "seed": 3, "on_error": "stop", "timeout": 5.0, "rows": 64, "compact": True,
        "own_layers": True,
        "pack_weights": 0,
    }  # fmt: skip
    inputs = {"model": Ref(stage="m"), "prompts": Ref(stage="d", view="test")}
    events: list[dict[str, Any]] = []
    where = context("evaluate", events, settings=settings, reward=EXACT, inputs=inputs)
    report: Report = evaluate.run(where, {"model": object(), "prompts": data})
    assert (asked["items"], asked["group"], asked["seed"]) == (2, 2, 3)
    assert [entry.item for entry in report.scores] == ["1", "2"]
    assert report.scores[0].rewards == [1.0, 0.0]
    assert report.scores[0].parts == {"exact": [1.0, 0.0]}
    assert "mean 0.5, 95 % interval" in events[0]["text"]
    assert events[1]["reward"] == 0.5


@pytest.mark.parametrize("reward", [0.0, 0.1, 1 / 3, 0.7, 1e-8, 1e8])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 16])
def test_equal_rewards_have_no_deviation(reward: float, size: int) -> None:
    """Rounding must not make a group of equal rewards look as if they differed."""
    given = {"rollouts": rollouts([reward] * size, [0.0, 1.0])}
    made = keep.run(context("keep", [], formula=varied()), given)
    assert {row.group for row in made.rows} == {1}
