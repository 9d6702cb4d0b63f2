"""Python rewards are tried on the first rows before anything is trained, where they will run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import grape
from grape.compiler.plan import Plan
from grape.runtime.artifacts import Data, Item
from grape.runtime.errors import StageError
from grape.runtime.rehearsal import rehearse, trials_of

PIPELINE = """grape 1

use grpo from "std/algorithms"

pipeline p() {{
  data sums = jsonl("data/sums.jsonl") {{
    prompt = "{{a}} + {{b}} ="
    completion = " {{sum}}"
    answer = "{{sum}}"
    split = 75%
  }}
  model base = fresh("llama", sums) {{ layers = 1, hidden = 16, heads = 2, context = 64 }}
  stage first = evaluate(base, sums.test, {reward}) {{ max_tokens = 4 }}
  repeat 2 with policy = base {{
    stage tries = sample(policy, sums.train) {{ prompts = 4, group = 4, max_tokens = 4 }}
    stage some = keep(tries) {{ where = not truncated }}
    stage scored = score(some, {reward}) {{ {settings} }}
    next policy = train(policy, scored) {{ algorithm = grpo(), lr = 1e-5 }}
  }}
}}
"""
CODE = """
calls = []


def right(completion: str, answer: str, **columns: object) -> float:
    calls.append((completion, answer))
    return float(answer in completion)


def many(completion: str):
    return [0.0, 1.0]


def none(completion: str):
    print("no return")
    return None


def words(completion: str):
    return "good"


def endless(completion: str):
    return float("nan")


def raises(completion: str):
    raise KeyError("sum")


def first_letter(completion: str) -> float:
    return float(completion[0] == "4")


def late(completion: str) -> float:
    while True:
        pass


def never(completion: str, b: int) -> float:
    raise AssertionError("of one that is cached")
"""
ITEMS = [Item(str(n), prompt=f"{n} + 1 =", answer=str(n + 1)) for n in range(9)]
DATA = Data(ITEMS, {"train": list(range(2, 9)), "test": [0, 1]})


def planned(project: Path, reward: str, settings: str = 'on_error = "stop"') -> Plan:
    (project / "judge.py").write_text(CODE, encoding="utf-8")
    file = project / "p.grape"
    named = f'python("judge.py:{reward}")'
    file.write_text(PIPELINE.format(reward=named, settings=settings), encoding="utf-8")
    return grape.load(file).plan()


def tried(project: Path, reward: str, settings: str = 'on_error = "stop"') -> list[str]:
    """What the rehearsal of the scoring says."""
    plan = planned(project, reward, settings)
    notes: list[str] = []
    (trial,) = [one for one in trials_of(plan, lambda key: False) if one.stage.name == "scored"]

    def emit(event: dict[str, Any]) -> None:
        notes.append(event["text"])

    rehearse(trial.stage, DATA, trial.data.view, project=project, work=project, emit=emit)
    return notes


def test_what_will_run_is_tried_once_for_each_data(project: Path) -> None:
    plan = planned(project, "right")
    trials = trials_of(plan, lambda key: False)
    assert [(t.owner.name, t.stage.name, t.data.view) for t in trials] == [
        ("first", "first", "test"),
        ("policy", "scored", "train"),
    ]
    cached = plan.stage("policy").key
    assert [t.owner.name for t in trials_of(plan, cached.__eq__)] == ["first"]
    assert trials_of(plan, lambda key: True) == []


def test_a_reward_that_works_says_nothing(project: Path) -> None:
    assert tried(project, "right") == []
    module = sys.modules["grape_reward_judge"]
    assert module.calls == [("3", "3"), ("4", "4"), ("5", "5"), ("6", "6"), ("", "3")]


def test_rationed_calls_are_made_for_one_row(project: Path) -> None:
    tried(project, "right", 'on_error = "stop", calls_per_minute = 60')
    assert sys.modules["grape_reward_judge"].calls == [("3", "3"), ("", "3")]


@pytest.mark.parametrize(
    ("reward", "why"),
    [
        ("many", r"gave 2 values \(list '\[0.0, 1.0\]'\) where one completion gets one number"),
        ("none", r"gave nothing \(None\)"),
        ("words", "gave str 'good', which is no number"),
        ("endless", "gave nan, which is no finite number"),
        ("raises", r"failed with KeyError: 'sum' \(judge.py, line \d+: raise KeyError"),
        ("late", "took longer than 0.1 seconds"),
    ],
)
def test_one_that_gives_no_single_number_ends_the_run(project: Path, reward: str, why: str) -> None:
    with pytest.raises(StageError, match=why) as caught:
        tried(project, reward, 'on_error = "stop", timeout = 0.1s')
    assert caught.value.code == "G903"
    assert "on prompt '2 + 1 =' and completion '3'" in caught.value.message
    assert "(`scored`, at " in caught.value.message and "p.grape:17)" in caught.value.message
    assert caught.value.hint is not None and "on_error" in caught.value.hint


def test_an_argument_that_the_data_lacks_ends_the_run(project: Path) -> None:
    with pytest.raises(StageError, match=r"asks for the argument `b`.*p\.grape:17"):
        tried(project, "never", "on_error = 0")


def test_a_declared_number_is_only_warned_of(project: Path) -> None:
    (note,) = tried(project, "raises", "on_error = 0")
    assert "each of the first 4 rows; `on_error` gives them 0" in note


def test_an_empty_completion_is_only_warned_of(project: Path) -> None:
    (note,) = tried(project, "first_letter")
    assert "IndexError" in note and "on an empty completion" in note
    assert tried(project, "first_letter", "on_error = 0") == []


def test_trying_loads_no_torch(project: Path) -> None:
    code = "import sys, grape.runtime.worker, grape.runtime.rehearsal\n"
    code += "print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "False"
