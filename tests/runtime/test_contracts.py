"""What a running training must keep to: each example of a G9 code is executed, bad and good."""

from __future__ import annotations

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from grape.compiler.plan import Ref
from grape.compiler.program import load
from grape.dsl.catalogue import codes, entry
from grape.runtime import contracts
from grape.runtime.context import Context
from grape.runtime.errors import StageError
from grape.runtime.execute import execute
from grape.runtime.preparing import prepare
from grape.runtime.worker import _reason

ELSEWHERE = {"G910", "G913", "G914", "G915", "G922", "G923"}
"""Codes whose examples need other processes, another engine or a server."""
RUN = [code for code in codes() if entry(code).depth == "run" and code not in ELSEWHERE]
os.environ.setdefault("OMP_NUM_THREADS", "1")


def run_text(project: Path, text: str) -> list[str]:
    """Execute a file stage by stage, in memory; codes of the notes and of the error."""
    file = project / "file.grape"
    file.write_text(text)
    plan = prepare(load(file).graph(), file)
    made: dict[str, Any] = {}
    said: list[str] = []

    def emit(event: dict[str, Any]) -> None:
        if "code" in event:
            said.append(event["code"])
            assert event["code"] in event["text"] and ":" in event["text"]

    def open_input(ref: Ref) -> Any:
        return copy.deepcopy(made[ref.stage])  # a store gives every stage its own

    for stage in plan.stages:
        work = project / ".work" / stage.name
        work.mkdir(parents=True, exist_ok=True)
        try:
            made[stage.name] = execute(stage, open_input, project=project, work=work, emit=emit)
        except StageError as error:
            assert error.code is not None, error.message
            assert f"grape explain {error.code}" in (error.hint or "")
            return [*said, error.code]
    return said


@pytest.mark.parametrize("code", RUN)
def test_the_bad_example_breaks_the_contract(project: Path, code: str) -> None:
    found = run_text(project, entry(code).bad)
    assert code in found
    if entry(code).severity == "error":
        assert found[-1] == code


@pytest.mark.parametrize("code", RUN)
def test_the_good_example_keeps_it(project: Path, code: str) -> None:
    assert code not in run_text(project, entry(code).good)


@dataclass
class Row:
    completion: tuple[int, ...]
    group: int
    tokens: dict[str, list[float]]
    scalars: dict[str, float]


class Stage:
    name, file, line = "next", "file.grape", 9
    settings: ClassVar = {
        "patience": 2,
        "max_truncated": 0.95,
        "min_entropy": 0.01,
        "max_kl": 5.0,
    }
    formula: ClassVar = {"needs": ["logp", "reward"]}


def context(notes: list[dict[str, Any]], **changes: Any) -> Context:
    settings = {"round": 1, "rounds": 3, **changes}
    return Context(Stage(), Path(), Path(), notes.append, **settings)  # type: ignore[arg-type]


def test_a_watchdog_waits_for_its_patience_and_barks_once() -> None:
    notes: list[dict[str, Any]] = []
    watch = contracts.Watch()
    same = [Row((1,), 0, {}, {"reward": 0.5}) for _ in range(4)]
    other = [*same, Row((1,), 0, {}, {"reward": 1.0})]
    for rows in (same, other, same, same, same):
        watch.update(context(notes), rows, {"loss": 0.0})
    assert [note["code"] for note in notes] == ["G904"]
    assert "`next`, round 2, at file.grape:9" in notes[0]["text"]


def test_groups_that_differ_only_from_each_other_have_no_spread() -> None:
    notes: list[dict[str, Any]] = []
    watch = contracts.Watch()
    rows = [Row((1,), group, {}, {"reward": float(group)}) for group in (0, 0, 1, 1)]
    for _ in range(2):
        watch.update(context(notes), rows, {})
    assert [note["code"] for note in notes] == ["G904"]


def test_weights_that_lag_behind_stop_the_run() -> None:
    contracts.check_weights(context([]), "4", 4)
    with pytest.raises(StageError, match=r"G902.*update 3.*update 4") as stopped:
        contracts.check_weights(context([]), "3", 4)
    assert stopped.value.code == "G902"


def test_a_full_memory_is_told_with_a_way_out() -> None:
    told = _reason(MemoryError(), {"store": "s", "log": "l"})
    assert told["code"] == "G910" and "micro_tokens" in told["hint"]
