"""Built-in rewards, reward expressions, and what happens when a reward fails."""

from __future__ import annotations

import math
import threading
from pathlib import Path
from typing import Any

import pytest

from grape.runtime.artifacts import Completion, Rollouts
from grape.runtime.errors import StageError
from grape.runtime.rewards.evaluation import score_rollouts
from grape.runtime.rewards.text import last_number

EXACT: dict[str, Any] = {"extract": "text", "ignore_case": False, "of": "answer"}


def row(text: str, answer: str | None = "4", **columns: Any) -> Completion:
    ids = list(range(len(text.split())))
    return Completion("i", 0, "2 + 2 =", [1], text, ids, [0.0] * len(ids), False, answer, columns)


def call(name: str, part: str | None = None, **params: Any) -> dict[str, Any]:
    return {"op": "call", "name": name, "part": part or name, "params": params}


def score(
    expression: dict[str, Any], *rows: Completion, project: Path = Path(), **options: Any
) -> list[tuple[float, dict[str, float]]]:
    notes: list[dict[str, Any]] = options.pop("notes", [])
    settings = {"on_error": "stop", "timeout": 5.0, **options}
    return score_rollouts(
        expression, Rollouts(list(rows), {}), project=project, emit=notes.append, **settings
    )


def one(expression: dict[str, Any], completion: Completion) -> float:
    return score(expression, completion)[0][0]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so it is 1,234.50.", "1234.5"),
        ("x = -3", "-3"),
        ("x = −3", "-3"),
        ("5-3", "3"),
        ("(5)-3", "3"),
        ("1e3", "1000"),
        (".5", "0.5"),
        ("12,34", "34"),
        ("1,234,567", "1234567"),
        ("7 apples or 8", "8"),
        ("105.0", "105"),
    ],
)
def test_the_last_number_of_a_text(text: str, number: str) -> None:
    from decimal import Decimal

    assert last_number(text) == Decimal(number)


def test_a_text_without_number_has_none() -> None:
    assert last_number("no idea") is None


@pytest.mark.parametrize(
    ("expression", "text", "expected"),
    [
        (call("exact", **EXACT), " 4\n", 1.0),
        (call("exact", **EXACT), "4.", 0.0),
        (call("exact", **{**EXACT, "extract": "number"}), "it is 4.0", 1.0),
        (call("exact", **{**EXACT, "extract": "number"}), "none", 0.0),
        (call("exact", **{**EXACT, "extract": "last_line"}), "thinking\n4\n", 1.0),
        (call("contains", text=None, ignore_case=False), "it is 4, sure", 1.0),
        (call("contains", text="SURE", ignore_case=False), "it is 4, sure", 0.0),
        (call("contains", text="SURE", ignore_case=True), "it is 4, sure", 1.0),
        (call("regex", pattern=r"\d,"), "it is 4, sure", 1.0),
        (call("within", max=3, unit="words", min=2), "one two three", 1.0),
        (call("within", max=3, unit="words", min=2), "one", 0.0),
        (call("within", max=3, unit="characters", min=0), "four", 0.0),
        (call("within", max=2, unit="tokens", min=0), "one two", 1.0),
        (call("format", tags=["think", "answer"], pattern=None),
         "<think>a</think>\n<answer>4</answer>", 1.0),
        (call("format", tags=["think", "answer"], pattern=None),
         "<answer>4</answer><think>a</think>", 0.0),
        (call("format", tags=["answer"], pattern=None), "so <answer>4</answer>", 0.0),
        (call("format", tags=None, pattern=r"A: .*"), "A: yes", 1.0),
    ],
)  # fmt: skip
def test_built_in_rewards(expression: dict[str, Any], text: str, expected: float) -> None:
    assert one(expression, row(text)) == expected


def test_exact_can_compare_with_another_column() -> None:
    assert one(call("exact", **{**EXACT, "of": "sum"}), row("9", sum=9)) == 1.0


def test_a_missing_answer_is_told() -> None:
    with pytest.raises(StageError, match="compares with the answer"):
        one(call("exact", **EXACT), row("4", answer=None))


def test_an_answer_without_number_is_told() -> None:
    with pytest.raises(StageError, match="contains no number"):
        one(call("exact", **{**EXACT, "extract": "number"}), row("4", answer="four"))


def test_expressions_and_their_parts() -> None:
    right = call("exact", **EXACT)
    brief = call("within", max=3, unit="words", min=0)
    expression = {
        "op": "+",
        "args": [
            {"op": "part", "part": "quality", "value": right},
            {"op": "*", "args": [{"op": "number", "value": 0.5}, brief]},
        ],
    }
    assert score(expression, row("4"), row("a b c d")) == [
        (1.5, {"quality": 1.0, "exact": 1.0, "within": 1.0}),
        (0.0, {"quality": 0.0, "exact": 0.0, "within": 0.0}),
    ]


def test_a_branch_that_does_not_count_still_has_its_parts() -> None:
    yes, no = call("exact", **EXACT), call("within", max=9, unit="words", min=0)
    expression = {"op": "if", "args": [{"op": "number", "value": 1}, yes, no]}
    assert score(expression, row("x")) == [(0.0, {"exact": 0.0, "within": 1.0})]


REWARDS = """
import math, time

def good(completion, answer, bonus=1):
    return float(completion == answer) + bonus

def everything(completion: str, **columns) -> float:
    return float(sorted(columns) == ["answer", "prompt", "topic"])

def broken(completion):
    return 1 / len(completion)

def nothing(completion): pass
def not_a_number(completion): return math.nan
def text(completion): return "1"

def slow(completion):
    while True:
        try:
            time.sleep(0.01)
        except Exception:
            pass

def asks(completion, anwser): return 1
def only(completion, /, answer, *, topic): return float(topic == "sums")
def no_arguments(): return 1
def leaves(completion): raise SystemExit(3)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "rewards.py").write_text(REWARDS, encoding="utf-8")
    return tmp_path


def python(name: str) -> dict[str, Any]:
    return call("python", source=f"rewards.py:{name}")


def test_a_python_reward_gets_what_it_names(project: Path) -> None:
    assert score(python("good"), row("4"), project=project) == [(2.0, {"python": 2.0})]
    assert score(python("everything"), row("4", topic="t"), project=project)[0][0] == 1.0
    assert score(python("only"), row("4", topic="sums"), project=project)[0][0] == 1.0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", r"ZeroDivisionError: division by zero \(rewards.py, line 11: return 1 / len"),
        ("nothing", r"gave nothing \(None\), which is no number"),
        ("not_a_number", "gave nan, which is no finite number"),
        ("text", "gave str '1', which is no number"),
        ("slow", "took longer than 0.1 seconds"),
        ("leaves", "SystemExit: 3"),
        ("asks", "asks for the argument `anwser`.*did you mean `answer`"),
        ("no_arguments", "takes no completion"),
        ("brokn", "defines no function `brokn`; did you mean `broken`"),
    ],
)
def test_a_failing_python_reward_stops_and_says_why(project: Path, name: str, message: str) -> None:
    with pytest.raises(StageError, match=message):
        score(python(name), row(""), project=project, timeout=0.1)


def test_the_stop_shows_the_sample(project: Path) -> None:
    with pytest.raises(StageError) as caught:
        score(python("not_a_number"), row("five"), project=project)
    assert "'2 + 2 ='" in caught.value.message
    assert "'five'" in caught.value.message
    assert "on_error" in str(caught.value.hint)


def test_a_declared_number_stands_in_and_is_counted(project: Path) -> None:
    notes: list[dict[str, Any]] = []
    scored = score(
        python("broken"), row(""), row("ab"), project=project, on_error=-1.0, notes=notes
    )
    assert scored == [(-1.0, {"python": -1.0}), (0.5, {"python": 0.5})]
    assert len(notes) == 1
    assert "1 of 2 completions got -1" in notes[0]["text"]


def test_a_slow_reward_is_stopped_in_another_thread_too(project: Path) -> None:
    caught: list[StageError] = []

    def body() -> None:
        try:
            score(python("good"), row("4"), project=project)
            score(call("python", source="waits.py:wait"), row("4"), project=project, timeout=0.05)
        except StageError as error:
            caught.append(error)

    (project / "waits.py").write_text("import time\ndef wait(c): time.sleep(0.5)\n")
    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert "took longer than 0.05 seconds" in caught[0].message


def test_a_file_that_does_not_load_is_told(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("x = 1\nimport no_such_thing\n", encoding="utf-8")
    message = r"`bad.py` cannot be loaded: ModuleNotFoundError.*\(bad.py, line 2"
    with pytest.raises(StageError, match=message):
        score(call("python", source="bad.py:f"), row("4"), project=tmp_path)
    with pytest.raises(StageError, match=r"there is no file `none.py`"):
        score(call("python", source="none.py:f"), row("4"), project=tmp_path)


def test_division_by_zero_in_an_expression_is_a_failure() -> None:
    expression = {"op": "/", "args": [{"op": "number", "value": 1}, {"op": "number", "value": 0}]}
    with pytest.raises(StageError, match="cannot compute `/` of 1, 0"):
        one(expression, row("4"))
    assert score(expression, row("4"), on_error=0.0)[0][0] == 0.0


def test_a_power_without_real_value_is_a_failure() -> None:
    args = [{"op": "number", "value": -1}, {"op": "number", "value": 0.5}]
    with pytest.raises(StageError, match="no number"):
        one({"op": "^", "args": args}, row("4"))


def test_the_verifier_of_an_environment() -> None:
    pytest.importorskip("reasoning_gym")
    from grape.runtime.environments import build_tasks

    environment = {
        "name": "reasoning_gym:chain_sum", "options": {}, "size": 3, "seed": 1,
    }  # fmt: skip
    entry = build_tasks(environment)[1]
    columns = {"index": 1, "question": entry["question"]}
    rows = [row(f" {entry['answer']} ", **columns), row("wrong", **columns)]
    rollouts = Rollouts(rows, {}, environment=environment)
    scored = score_rollouts(
        call("environment"), rollouts, project=Path(), on_error="stop", timeout=5, emit=print
    )
    assert scored[0][0] == 1.0
    assert scored[1][0] < 1.0
    assert math.isfinite(scored[1][0])


def test_the_verifier_needs_an_environment() -> None:
    with pytest.raises(StageError, match="come from a file"):
        one(call("environment"), row("4"))


def test_a_failing_reward_is_asked_again(tmp_path: Path) -> None:
    (tmp_path / "moody.py").write_text(
        "seen = []\n\ndef f(c):\n    seen.append(c)\n    return 1.0 if len(seen) > 2 else None\n"
    )
    moody = call("python", source="moody.py:f")
    assert score(moody, row("a"), project=tmp_path, retries=2)[0][0] == 1.0
    with pytest.raises(StageError, match="G903") as stopped:
        score(moody, row("a"), project=tmp_path, retries=1)
    assert stopped.value.code == "G903"


def test_calls_keep_their_distance() -> None:
    import time

    began = time.monotonic()
    score(call("regex", pattern="a"), row("a"), row("b"), row("c"), calls_per_minute=600)
    assert time.monotonic() - began >= 0.2
