"""The store is complete or absent; checks have three answers; outputs never clobber."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from grape.compiler.plan import PlannedCheck
from grape.runtime.artifacts import Report, Score
from grape.runtime.checking import judge
from grape.runtime.errors import StageError
from grape.runtime.store import Store


def test_publishing_is_all_or_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    folder = store.temporary()
    (folder / "a.txt").write_text("one")
    assert not store.has("k")
    store.publish("k", folder, {"key": "k"})
    assert store.has("k") and (store.path("k") / "a.txt").read_text() == "one"
    other = store.temporary()
    (other / "a.txt").write_text("two")
    store.publish("k", other, {"key": "k"})
    assert (store.path("k") / "a.txt").read_text() == "one" and not other.exists()


def test_leftovers_of_dead_processes_are_swept(tmp_path: Path) -> None:
    store = Store(tmp_path)
    mine = store.temporary()
    dead = tmp_path / "tmp" / "999999999-abc"
    dead.mkdir()
    store.sweep()
    assert mine.exists() and not dead.exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write anywhere")
def test_an_unwritable_store_says_so(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StageError, match="may not be written"):
        Store(tmp_path / "store").temporary()


def test_a_file_in_the_way_says_so(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    with pytest.raises(StageError, match="a file is in the way"):
        Store(tmp_path / "store").temporary()


def report(rewards: list[float]) -> Report:
    scores = [
        Score(str(item), "p", "a", ["t"], [reward], {"exact": [reward]}, [False])
        for item, reward in enumerate(rewards)
    ]
    return Report(scores)


def metric(stage: str) -> dict[str, object]:
    return {"op": "metric", "stage": stage, "name": "mean", "args": []}


def check(confidence: float | None) -> PlannedCheck:
    test = {"op": ">", "args": [metric("after"), metric("before")]}
    return PlannedCheck(text="c", test=test, confidence=confidence, file="f", line=1)


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ([0.0] * 40, [0.0, 1.0] * 20, "pass"),
        ([0.0, 1.0] * 20, [0.0] * 40, "fail"),
        ([0.0, 1.0] * 20, [1.0, 0.0] * 20, "inconclusive"),
        ([0.0] * 40, [0.0] * 40, "inconclusive"),
        ([0.0] * 40, [1.0] * 39, "inconclusive"),
    ],
)
def test_paired_checks(before: list[float], after: list[float], verdict: str) -> None:
    reports = {"before": report(before), "after": report(after)}
    assert judge(check(0.95), reports).verdict == verdict


@pytest.mark.parametrize(("op", "verdict"), [("<", "fail"), ("<=", "fail"), (">=", "pass")])
def test_paired_checks_know_which_side_is_larger(op: str, verdict: str) -> None:
    reports = {"before": report([0.0] * 40), "after": report([0.0, 1.0] * 20)}
    paired = check(0.95)
    turned = paired.model_copy(update={"test": {**paired.test, "op": op}})
    assert judge(turned, reports).verdict == verdict


def test_as_many_items_are_not_the_same_items() -> None:
    other = report([1.0] * 40)
    moved = [replace(score, item=f"other-{score.item}") for score in other.scores]
    verdict = judge(check(0.95), {"before": report([0.0] * 40), "after": Report(moved)})
    assert verdict.verdict == "inconclusive" and "differ in 80 items" in verdict.detail


@pytest.mark.parametrize("confidence", [None, 0.95])
def test_items_without_completions_decide_nothing(confidence: float | None) -> None:
    empty = Report([replace(score, rewards=[]) for score in report([1.0] * 40).scores])
    verdict = judge(check(confidence), {"before": report([0.0] * 40), "after": empty})
    assert verdict.verdict == "inconclusive" and "without completions" in verdict.detail


def test_one_item_decides_nothing() -> None:
    verdict = judge(check(0.95), {"before": report([0.0]), "after": report([1.0])})
    assert verdict.verdict == "inconclusive"


def test_plain_checks() -> None:
    reports = {"before": report([0.0, 1.0]), "after": report([1.0, 1.0])}
    assert judge(check(None), reports).verdict == "pass"
    assert (
        judge(check(None), {"before": reports["after"], "after": reports["before"]}).verdict
        == "fail"
    )
