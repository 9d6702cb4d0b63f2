"""Which category judges a completion, local critics, and items that do not apply everywhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grape.compiler.combine import Confidence
from grape.compiler.constants import Value
from grape.compiler.rubrics import condition
from grape.dsl import ast
from grape.dsl.parse import parse
from grape.dsl.source import Source
from grape.runtime.artifacts import Completion, Rollouts, Score, part_values
from grape.runtime.errors import StageError
from grape.runtime.report import _parts
from grape.runtime.rubric import Scoring, score_rubric


def row(group: int = 0, text: str = "4", **columns: Any) -> Completion:
    return Completion("i", group, "2 + 2 =", [1], text, [1], [0.0], False, "4", columns)


def when(text: str, **values: Value) -> dict[str, Any]:
    source = f"grape 1\nrubric r() {{\n category c when {text} {{\n item i = exact()\n }}\n}}\n"
    file, findings = parse(Source("r.grape", source))
    assert not findings
    (declared,) = file.declarations
    assert isinstance(declared, ast.RubricDecl)
    test = declared.categories[0].when
    assert test is not None
    return condition(test, values)


def category(name: str, test: dict[str, Any] | None, **items: float) -> dict[str, Any]:
    made = [
        {"name": item, "weight": 1.0, "value": {"op": "number", "value": value}}
        for item, value in items.items()
    ]
    return {"name": name, "when": test, "items": made}


def score(rows: list[Completion], *categories: dict[str, Any]) -> list[Completion]:
    scoring = Scoring(
        project=Path(),
        combine=Confidence().model_dump(),
        on_error="stop",
        timeout=5.0,
        emit=lambda event: None,
        critics={},
        answers=Path(),
    )
    rubric = {"op": "rubric", "name": "tutor", "categories": list(categories)}
    return score_rubric(rubric, Rollouts(rows, {}), scoring)


def test_the_first_category_that_holds_judges() -> None:
    made = score(
        [row(0, topic="sums"), row(1, topic="talk"), row(2, topic="sums")],
        category("arithmetic", when('topic == "sums"'), right=1.0),
        category("other", None, kind=0.25, brief=0.75),
    )
    assert [r.category for r in made] == ["arithmetic", "other", "arithmetic"]
    assert [r.reward for r in made] == [1.0, 0.5, 1.0]
    assert [set(r.parts) for r in made] == [{"right"}, {"kind", "brief"}, {"right"}]


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ('topic == "sums"', True),
        ('topic != "sums" or level > 2', True),
        ('not (topic == "sums") and missing > 2', False),
        ("level >= least", True),
        ("level * 2 == 6", True),
        ("answer == none", False),
        ("easy", False),
    ],
)
def test_conditions_on_columns(text: str, holds: bool) -> None:
    test = when(text, least=Value(3, "int"))
    only = row(topic="sums", level=3, easy=False)
    made = score([only], category("yes", test, a=1.0), category("no", None, a=0.0))
    assert made[0].category == ("yes" if holds else "no")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('topik == "sums"', "did you mean `topic`"),
        ("level", "neither true nor false"),
        ("topic > 3", "cannot compute"),
        ('topic == "talk"', "belongs to no category"),
    ],
)
def test_what_decides_nothing_is_told(text: str, reason: str) -> None:
    with pytest.raises(StageError, match=reason):
        score([row(topic="sums", level=3)], category("a", when(text), b=1.0))


def test_formulas_see_the_groups_mean_where_an_item_does_not_apply() -> None:
    rows = [
        replace(row(0), parts={"kind": 1.0}),
        replace(row(0), parts={"kind": 0.5}),
        replace(row(0), parts={}),
        replace(row(1), parts={}),
    ]
    assert part_values(rows, "kind") == [1.0, 0.5, 0.75, 0.0]


def test_the_report_shows_items_by_category() -> None:
    def judged(name: str, **parts: float | None) -> Score:
        values = {part: [value] for part, value in parts.items()}
        sure = {part: [None if value is None else 0.5] for part, value in parts.items()}
        return Score("i", "p", None, ["t"], [1.0], values, [False], name, sure)

    class Made:
        scores = (judged("a", kind=1.0), judged("a", kind=None), judged("b", kind=0.0))

    shown: Callable[[Any], dict[str, list[float]]] = _parts
    assert shown(Made) == {
        "a · kind": [1.0],
        "a · kind · confidence": [0.5],
        "b · kind": [0.0],
        "b · kind · confidence": [0.5],
    }


# --- local critics ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def critic() -> Any:
    from grape.runtime.verbs.fresh import new_model, train_tokenizer

    settings = {
        "architecture": "llama", "layers": 1, "hidden": 16, "heads": 2, "kv_heads": None,
        "intermediate": None, "context": 700,
    }  # fmt: skip
    return new_model(settings, train_tokenizer(iter(["Yes", " yes no 1 2 3"]), 270), seed=1)


def test_a_local_critic_judges_by_the_probabilities_of_its_answers(critic: Any) -> None:
    import math

    import torch

    from grape.runtime.critics.local import _prompt, _written, judge
    from grape.runtime.critics.questions import Question, Verdict

    question = Question("Is it kind?", None)
    (made,) = judge(critic, [question], lambda n: None)

    def logp(way: tuple[int, ...]) -> float:
        ids = [*_prompt(critic.tokenizer, question), *way]
        with torch.no_grad():
            table = critic.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
        start = len(ids) - len(way)
        return sum(float(table[start - 1 + i, token]) for i, token in enumerate(way))

    no, yes = (
        sum(math.exp(logp(way)) for way in ways) for ways in _written(critic.tokenizer, question)
    )
    p = yes / (no + yes)
    entropy = -(p * math.log(p) + (1 - p) * math.log(1 - p))
    assert isinstance(made, Verdict) and made.score == pytest.approx(p, abs=1e-5)
    assert made.confidence == pytest.approx(1 - entropy / math.log(2), abs=1e-5)


def test_other_questions_in_the_batch_change_nothing(critic: Any) -> None:
    from grape.runtime.critics.local import judge
    from grape.runtime.critics.questions import Question, Verdict

    questions = [Question("Kind?" * n, scale) for n in (1, 4, 9) for scale in (None, 3)]
    together = judge(critic, questions, lambda n: None)
    for question, made in zip(questions, together, strict=True):
        (alone,) = judge(critic, [question], lambda n: None)
        assert isinstance(made, Verdict) and isinstance(alone, Verdict)
        assert made.score == pytest.approx(alone.score, abs=1e-5)
        assert 0 <= made.confidence <= 1


def test_a_question_that_does_not_fit_fails_by_itself(critic: Any) -> None:
    from grape.runtime.critics.local import judge
    from grape.runtime.critics.questions import Failed, Question, Verdict

    long, short = judge(
        critic, [Question("x " * 900, None), Question("Kind?", None)], lambda n: None
    )
    assert isinstance(long, Failed) and "the critic takes 700" in long.reason
    assert isinstance(short, Verdict)
