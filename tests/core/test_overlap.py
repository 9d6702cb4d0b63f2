"""Rewards that are computed while other completions are drawn give what they give afterwards."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from core.pipes import Pipe, run
from rubric.fakes import judges, serving

from grape.runtime.errors import StageError

REWARDS = '''"""Rewards of the tests; every call leaves a line."""

import os
import random
import time

calls = 0
random.seed(3)


def note(what):
    with open("CALLS", "a") as file:
        file.write(f"{os.getpid()} {time.monotonic()} {what!r}\\n")


def slow(completion, answer, **columns):
    note(completion)
    time.sleep(0.01)
    return 0.1 * completion.count("a") + len(completion) % 3 + 1e-17 / 3


def broken(completion, a):
    note(completion)
    return 1 / (len(completion) - len(completion))


def flaky(completion):
    global calls
    calls += 1
    note(completion)
    if calls % 2:
        raise OSError("the first try")
    return len(completion) % 2


def hanging(completion):
    note(completion)
    while len(completion) % 2:
        try:
            sum(range(10**6))
        except Exception:
            pass
    return 1.0


def nothing(completion):
    return None if len(completion) % 2 else 1.0


def deadly(completion):
    note(completion)
    if len(completion) % 2:
        os._exit(7)
    return 1.0


def wants(completion, no_such_column):
    return 1.0


def reading(completion):
    import sys
    print("seen", file=sys.stdout)
    return float(sys.stdin.read() == "") * (len(completion) % 2)
'''
BODY = """
  repeat 2 with policy = base {{
    stage tries = sample(policy, sums) {{
      prompts = 4, group = 4, max_tokens = {longest}, rows = 4
    }}
    stage scored = score(tries, {reward}) {{ workers = {workers}{settings} }}
    next policy = train(policy, scored) {{ algorithm = grpo(), lr = 1e-3 }}
  }}
  output policy as "m"
"""


def go(folder: Path, reward: str, workers: int, settings: str = "", longest: int = 4) -> Pipe:
    folder.mkdir()
    (folder / "r.py").write_text(REWARDS.replace("CALLS", str(folder / "calls")))
    if "(" not in reward:
        reward = f'python("r.py:{reward}")'
    body = BODY.format(reward=reward, workers=workers, settings=settings, longest=longest)
    return run(folder, body, "grpo")


def told(pipe: Pipe) -> list[dict[str, Any]]:
    """Everything that was said of the score stage, but for how long it took."""
    of_stage = [e for e in pipe.events if e.get("stage") == "scored" and e["event"] != "timing"]
    return [{k: v for k, v in event.items() if k not in ("seconds", "at")} for event in of_stage]


def calls(pipe: Pipe) -> list[tuple[int, float, str]]:
    lines = (pipe.folder / "calls").read_text().splitlines()
    parts = [line.split(" ", 2) for line in lines]
    return [(int(pid), float(at), text) for pid, at, text in parts]


def same(on: Pipe, off: Pipe) -> None:
    assert told(on) == told(off)
    assert (on.folder / "made/policy/model.safetensors").read_bytes() == (
        off.folder / "made/policy/model.safetensors"
    ).read_bytes()


@pytest.mark.parametrize("workers", [1, 3])
def test_the_same_bytes_with_and_without(tmp_path: Path, workers: int) -> None:
    reward = 'python("r.py:slow") + 0.5 * contains("e")'
    on, off = go(tmp_path / "on", reward, workers), go(tmp_path / "off", reward, 0)
    same(on, off)
    assert {pid for pid, _, _ in calls(off)} == {os.getpid()}
    apart = {pid for pid, _, _ in calls(on)}
    assert os.getpid() not in apart and len(apart) <= workers
    assert sorted(text for *_, text in calls(on)) == sorted(text for *_, text in calls(off))


def test_a_group_is_scored_while_the_next_is_drawn(tmp_path: Path) -> None:
    """In the second round, since in the first a process is started."""
    on = go(tmp_path / "on", "slow", 1, longest=32)
    ends = [e["at"] for e in on.events if e["event"] == "timing" and e["stage"] == "tries"]
    begun = [at for _, at, _ in calls(on)[16:]]
    assert begun[0] < ends[1], "no reward was begun before the last completion was drawn"


@pytest.mark.parametrize(
    ("reward", "settings", "message"),
    [
        ("broken", "", "G903.*r.py:broken.*ZeroDivisionError.*r.py, line 24"),
        ("nothing", "", "gave nothing .None., which is no number"),
        ("hanging", ", timeout = 300ms", "took longer than 0.3 seconds"),
        ("wants", "", "asks for the argument `no_such_column`"),
        ('log(python("r.py:slow") - 9)', "", "cannot compute `log`"),
    ],
)
def test_a_failing_reward_stops_with_the_same_words(
    tmp_path: Path, reward: str, settings: str, message: str
) -> None:
    errors = []
    for name, workers in (("on", 2), ("off", 0)):
        with pytest.raises(StageError) as failed:
            go(tmp_path / name, reward, workers, settings)
        errors.append((failed.value.message, failed.value.hint, failed.value.code))
    assert errors[0] == errors[1]
    assert re.search(message, errors[0][0], re.DOTALL)


@pytest.mark.parametrize(
    ("reward", "settings"),
    [
        ("broken", ", on_error = 0.5"),
        ("nothing", ", on_error = 0"),
        ("flaky", ", retries = 1"),
        ("hanging", ", timeout = 300ms, on_error = 0"),
    ],
)
def test_what_a_failing_reward_gives_is_the_same(
    tmp_path: Path, reward: str, settings: str
) -> None:
    on = go(tmp_path / "on", reward, 1, settings)
    off = go(tmp_path / "off", reward, 0, settings)
    same(on, off)
    notes = [event["text"] for event in told(on) if event["event"] == "note"]
    assert bool(notes) == ("on_error" in settings)


def test_a_reward_that_ends_its_process_fails_and_no_more(tmp_path: Path) -> None:
    pipe = go(tmp_path / "on", "deadly", 1, ", on_error = 0.25")
    notes = [event["text"] for event in told(pipe) if event["event"] == "note"]
    assert notes and all("`the reward` ended its process (exit code 7)" in text for text in notes)
    assert len({pid for pid, _, _ in calls(pipe)}) > 1
    with pytest.raises(StageError, match="G903: the reward ended its process"):
        go(tmp_path / "stops", "deadly", 1)


def test_a_reward_that_reads_or_prints_stands_in_nobody_s_way(tmp_path: Path) -> None:
    assert go(tmp_path / "on", "reading", 1).metrics("scored")


def test_nothing_is_started_for_a_reward_that_takes_no_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from grape.runtime.rewards import overlap

    def no(*args: object) -> None:
        raise AssertionError("a process was started")

    monkeypatch.setattr(overlap, "_Process", no)
    go(tmp_path / "on", 'contains("a") + within(3)', 1)


RUBRIC = """
rubric tutor(critic: Model) {
  category even when a == 2 { item short weight 2 = python("r.py:slow") }
  category other {
    item kind weight 1 = ask(critic, "Is the tone kind?")
    item long weight 1 = python("r.py:slow")
  }
}

"""
JUDGED = (
    """
  model judge = served("URL") {{ model = "j" }}
"""
    + BODY
)


def test_a_served_critic_is_asked_as_often_and_says_the_same(tmp_path: Path) -> None:
    """Every question is one of its own: the text to be judged is in it."""
    pipes, asked = [], []
    for name, workers in (("on", 1), ("off", 0)):
        with serving(lambda number, body: judges("yes" if len(str(body)) % 2 else "no")) as fake:
            folder = tmp_path / name
            folder.mkdir()
            (folder / "r.py").write_text(REWARDS.replace("CALLS", str(folder / "calls")))
            body = JUDGED.format(reward="tutor(judge)", workers=workers, settings="", longest=4)
            pipes.append(run(folder, body.replace("URL", fake.url), "grpo", extra=RUBRIC))
            asked.append(sorted(str(body["messages"]) for body in fake.asked))
    same(*(replace(pipe, events=quiet(pipe)) for pipe in pipes))
    assert asked[0] == asked[1] and asked[0]


def quiet(pipe: Pipe) -> list[dict[str, Any]]:
    """Without how many judgements are still to come."""
    return [event for event in pipe.events if event.get("unit") != "judgements"]
