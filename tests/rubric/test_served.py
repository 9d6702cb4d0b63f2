"""Served critics and samplers against a server on this machine with the worst of manners."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rubric.fakes import Fake, Reply, fails, hangs, judges, says, served, serving

from grape.compiler.combine import Confidence
from grape.runtime.artifacts import Completion, Item, Rollouts
from grape.runtime.critics.questions import Answer, Failed, Question, Verdict, ask
from grape.runtime.critics.remote import judge, read_answer
from grape.runtime.critics.sampling import generate_served
from grape.runtime.critics.server import Served
from grape.runtime.errors import StageError
from grape.runtime.execute import load_artifact
from grape.runtime.rubric import Scoring, score_rubric

# --- what the client makes of it --------------------------------------------------------------

YES_NO = Question("Is it kind?", None)
GRADE = Question("How kind is it?", 5)


def one(fake: Fake, memory: Path, question: Question = YES_NO, **settings: Any) -> Answer:
    made = judge(served(fake, **settings), [question], lambda n: None, memory=memory, pause=0.01)
    return made[0]


def test_a_judge_gives_score_and_confidence_in_the_form_that_is_asked_for(tmp_path: Path) -> None:
    with serving(lambda number, body: judges(4, 0.5)) as fake:
        assert one(fake, tmp_path, GRADE) == Verdict(0.75, 0.5, "so")
    (body,) = fake.asked
    assert body["model"] == "big" and body["temperature"] == 0
    assert body["response_format"]["json_schema"]["schema"]["properties"]["score"]["enum"] == [
        1, 2, 3, 4, 5,
    ]  # fmt: skip


def test_what_was_answered_once_is_never_asked_again(tmp_path: Path) -> None:
    with serving(lambda number, body: judges("yes")) as fake:
        first = one(fake, tmp_path)
        assert one(fake, tmp_path) == first and len(fake.asked) == 1
        one(fake, tmp_path, GRADE)
        assert len(fake.asked) == 2


def test_a_damaged_memory_is_asked_anew(tmp_path: Path) -> None:
    with serving(lambda number, body: judges("yes")) as fake:
        one(fake, tmp_path)
        for file in tmp_path.rglob("*.json"):
            file.write_text("{")
        assert one(fake, tmp_path) == Verdict(1.0, 0.8, "so") and len(fake.asked) == 2


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_or_broken_server_is_asked_again(tmp_path: Path, status: int) -> None:
    replies = [fails(status, "later"), fails(status, "later"), judges("no")]
    with serving(lambda number, body: replies[number]) as fake:
        assert one(fake, tmp_path) == Verdict(0.0, 0.8, "so")


def test_a_server_says_how_long_to_wait(tmp_path: Path) -> None:
    replies = [fails(429, "slow down", Retry_After="0.3"), judges("no")]
    with serving(lambda number, body: replies[number]) as fake:
        start = time.monotonic()
        one(fake, tmp_path)
        assert time.monotonic() - start >= 0.3


def test_retries_end_with_a_reason(tmp_path: Path) -> None:
    with serving(lambda number, body: fails(500, "out of order")) as fake:
        made = one(fake, tmp_path)
        assert isinstance(made, Failed) and len(fake.asked) == 3
        assert "answered 500" in made.reason and "out of order" in made.reason
        assert "3 tries" in made.reason


def test_a_server_that_hangs_is_late(tmp_path: Path) -> None:
    with serving(lambda number, body: hangs(1.0)) as fake:
        start = time.monotonic()
        made = one(fake, tmp_path, timeout=0.2, retries=1)
        assert isinstance(made, Failed) and "within 0.2 seconds" in made.reason
        assert time.monotonic() - start < 1.0


def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    made = one(Fake("http://127.0.0.1:9/v1"), tmp_path, retries=0)
    assert isinstance(made, Failed) and "cannot be reached" in made.reason


@pytest.mark.parametrize(
    "reply",
    [(200, {}, b"<html>hello"), (200, {}, b"[]"), (200, {}, b'{"choices": []}')],
    ids=["html", "list", "no choice"],
)
def test_an_answer_outside_the_protocol_is_tried_again(tmp_path: Path, reply: Reply) -> None:
    with serving(lambda number, body: [reply, judges("yes")][number]) as fake:
        assert one(fake, tmp_path) == Verdict(1.0, 0.8, "so")


def test_a_server_without_structured_output_is_asked_in_words(tmp_path: Path) -> None:
    def manners(number: int, body: dict[str, Any]) -> Reply:
        if "response_format" in body:
            return fails(400, "extra fields not permitted")
        if "temperature" in body:
            return fails(400, "temperature is not supported by this model")
        return judges("yes")

    with serving(manners) as fake:
        questions = [YES_NO, GRADE, Question("Is it short?", None)]
        slow = served(fake, max_concurrency=1)
        made = judge(slow, questions, lambda n: None, memory=tmp_path, pause=0.01)
        assert made[0] == Verdict(1.0, 0.8, "so")
        assert len(fake.asked) == 5, "what it refuses is tried once, not with every question"


def test_a_refusal_is_a_failure_with_its_words(tmp_path: Path) -> None:
    reply = says("", refusal="I cannot judge that")
    with serving(lambda number, body: reply) as fake:
        made = one(fake, tmp_path)
        assert isinstance(made, Failed) and "I cannot judge that" in made.reason


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_server_that_will_never_answer_stops_the_run(tmp_path: Path, status: int) -> None:
    with serving(lambda number, body: fails(status, "no")) as fake, pytest.raises(StageError):
        one(fake, tmp_path)


def test_a_key_is_sent_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-very-secret")
    echo = fails(401, "Incorrect key sk-very-secret")
    with serving(lambda number, body: echo) as fake:
        with pytest.raises(StageError) as caught:
            one(fake, tmp_path, api_key={"secret": "JUDGE_KEY"})
        assert fake.headers[0]["Authorization"] == "Bearer sk-very-secret"
    assert "sk-very-secret" not in f"{caught.value.message} {caught.value.hint}"
    served(fake, api_key={"secret": "JUDGE_KEY"}).save(tmp_path)
    assert "very-secret" not in (tmp_path / "served.json").read_text()


def test_a_key_that_is_not_set_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("JUDGE_KEY", raising=False)
    with pytest.raises(StageError, match="JUDGE_KEY"):
        one(Fake("http://127.0.0.1:9/v1"), tmp_path, api_key={"secret": "JUDGE_KEY"})


def test_a_rate_limit_spaces_the_questions(tmp_path: Path) -> None:
    with serving(lambda number, body: judges("yes")) as fake:
        questions = [Question(f"Is it {number}?", None) for number in range(4)]
        start = time.monotonic()
        judge(served(fake, requests_per_minute=600), questions, lambda n: None, memory=tmp_path)
        assert time.monotonic() - start >= 0.3


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ('{"score": "Yes", "confidence": 1}', (1.0, 1.0)),
        ('Well. {"a": 1} so {"score": true, "confidence": 0.5} done', (1.0, 0.5)),
        ('```json\n{"score": "no", "confidence": 0}\n```', (0.0, 0.0)),
        ('{"score": "maybe", "confidence": 1}', None),
        ('{"score": "yes", "confidence": 90}', None),
        ('{"score": "yes"}', None),
        ('{"score": 4, "confidence": 0.5}', None),
        ("yes", None),
        ("{" * 2000, None),
    ],
)  # fmt: skip
def test_what_can_be_read_and_what_cannot(text: str, verdict: tuple[float, float] | None) -> None:
    made = read_answer(YES_NO, text)
    assert (None if made.score is None else (made.score, made.confidence)) == verdict


# --- in a rubric ------------------------------------------------------------------------------


def row(text: str = "Hello!", group: int = 0, **columns: Any) -> Completion:
    return Completion("i", group, "Say hello", [1], text, [1], [0.0], False, None, columns)


RUBRIC: dict[str, Any] = {
    "op": "rubric",
    "name": "tutor",
    "categories": [
        {
            "name": "all",
            "when": None,
            "items": [
                {"name": "brief", "weight": 1.0, "value": {"op": "number", "value": 1.0}},
                {
                    "name": "kind",
                    "weight": 1.0,
                    "ask": {"critic": "critic", "question": "Is it kind?", "scale": None},
                },
            ],
        }
    ],
}


def score(
    critic: Served, rows: list[Completion], folder: Path, **settings: Any
) -> tuple[list[Completion], list[str]]:
    notes: list[str] = []
    scoring = Scoring(
        project=folder,
        combine=Confidence().model_dump(),
        on_error="stop",
        timeout=5.0,
        emit=lambda event: notes.append(event.get("text", "")),
        critics={"critic": critic},
        answers=folder / "answers",
    )
    made = score_rubric(RUBRIC, Rollouts(rows, {}), replace(scoring, **settings))
    return made, [note for note in notes if note]


def test_scores_and_confidences_stay_in_the_rollouts(tmp_path: Path) -> None:
    with serving(lambda number, body: judges("no", 0.5)) as fake:
        (made,), _ = score(served(fake), [row()], tmp_path)
    assert made.parts == {"brief": 1.0, "kind": 0.0}
    assert made.confidences == {"brief": 1.0, "kind": 0.5}
    assert made.category == "all" and made.reward == pytest.approx(2 / 3)


def test_a_critic_that_fails_stops_the_run_and_shows_the_sample(tmp_path: Path) -> None:
    with serving(lambda number, body: fails(400, "too long")) as fake:
        critic = served(fake, retries=0)
        with pytest.raises(StageError) as caught:
            score(critic, [row("the very text")], tmp_path)
    assert "`kind`" in caught.value.message and "too long" in caught.value.message
    assert "the very text" in caught.value.message


def test_on_error_is_what_a_failed_item_scores_and_is_told(tmp_path: Path) -> None:
    with serving(lambda number, body: fails(400, "too long")) as fake:
        critic = served(fake, retries=0)
        (made,), notes = score(critic, [row()], tmp_path, on_error=0.0)
    assert made.parts["kind"] == 0.0 and "kind" not in made.confidences
    assert any("too long" in note for note in notes)


def test_an_answer_that_cannot_be_read_does_not_count_and_is_told(tmp_path: Path) -> None:
    with serving(lambda number, body: says("dunno")) as fake:
        (made,), notes = score(served(fake), [row()], tmp_path)
    assert made.parts == {"brief": 1.0} and made.reward == 1.0
    assert any("dunno" in note for note in notes)


def test_a_question_shows_columns_and_what_is_not_there_is_told() -> None:
    known = row("Hi", name="Ada")
    framed = ask("Is {name} greeted?", None, known).text
    assert "Is Ada greeted?" in framed and "<answer>\nHi\n</answer>" in framed
    assert "<answer>" not in ask("Is {completion} kind?", None, known).text
    with pytest.raises(StageError, match="did you mean `name`"):
        ask("Is {nam} greeted?", None, known)


# --- as a sampler -----------------------------------------------------------------------------


def sample(fake: Fake, **settings: Any) -> Rollouts:
    items = [Item("a", prompt="Hi"), Item("b", messages=[{"role": "user", "content": "Yo"}])]
    return generate_served(
        served(fake, retries=0, **settings),
        items,
        group=2,
        temperature=0.7,
        top_p=0.9,
        max_tokens=5,
        stop=["\n"],
        seed=3,
        round=0,
        emit=lambda event: None,
    )


def test_a_served_model_writes_text_without_tokens() -> None:
    with serving(lambda number, body: says(f"to {body['messages'][-1]['content']}")) as fake:
        made = sample(fake)
    assert [(r.group, r.prompt, r.text, r.ids) for r in made.rows] == [
        (0, "Hi", "to Hi", []), (0, "Hi", "to Hi", []),
        (1, "Yo", "to Yo", []), (1, "Yo", "to Yo", []),
    ]  # fmt: skip
    body = fake.asked[0]
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.7, 0.9, 5)
    assert len({body["seed"] for body in fake.asked}) == 4


def test_a_completion_that_never_comes_is_no_empty_one() -> None:
    with (
        serving(lambda number, body: fails(500, "down")) as fake,
        pytest.raises(StageError, match="no completion of item"),
    ):
        sample(fake)


def test_a_served_model_is_an_artifact_of_a_few_bytes(tmp_path: Path) -> None:
    made = served(Fake("http://localhost/v1"))
    made.save(tmp_path)
    assert load_artifact("Model", tmp_path) == made
