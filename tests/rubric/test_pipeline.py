"""The tiny rubric pipeline for real: two categories, each with a verified and a judged item."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import grape
from grape.runtime import server
from grape.runtime.artifacts import read_lines

TINY = Path(__file__).parents[2] / "pipelines" / "tiny"


@pytest.fixture(scope="module", autouse=True)
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A Prefect server of its own, stopped afterwards."""
    before = {name: os.environ.get(name) for name in ("GRAPE_HOME", "PREFECT_HOME")}
    os.environ["GRAPE_HOME"] = str(tmp_path_factory.mktemp("home"))
    os.environ.pop("PREFECT_HOME", None)
    yield
    os.environ.pop("PREFECT_API_URL", None)
    server.stop()
    for name, value in before.items():
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})


@pytest.mark.slow
def test_a_rubric_trains_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    shutil.copytree(TINY, tmp_path, dirs_exist_ok=True)
    run = grape.load(tmp_path / "rubric.grape").run()
    assert run.state == "completed"

    lines = list(read_lines(run.folder / "metrics" / "scored.jsonl"))
    items = ("correct", "shows_work", "addressed", "kind")
    assert len(lines) == 2
    for line in lines:
        assert {f"reward.{item}" for item in items} <= line.keys()
        assert line["confidence.correct"] == 1.0 and 0 < line["confidence.kind"] < 1

    store = tmp_path / ".grape" / "store"
    (file,) = store.glob("objects/*/scores.jsonl")
    scores = [json.loads(line) for line in file.read_text().splitlines()]
    for score in scores:
        sums = score["category"] == "arithmetic"
        wanted = {"correct", "shows_work"} if sums else {"addressed", "kind"}
        assert set(score["parts"]) == set(score["confidences"]) == wanted
    assert {score["category"] for score in scores} == {"arithmetic", "other"}
    assert "arithmetic · shows_work · confidence" in run.report.read_text()


@pytest.mark.slow
def test_a_model_learns_from_answers_to_critiques(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    shutil.copytree(TINY, tmp_path, dirs_exist_ok=True)
    run = grape.load(tmp_path / "revise.grape").run()
    assert run.state == "completed"
    assert "better" in run.report.read_text()
    (told,) = read_lines(run.folder / "metrics" / "better.jsonl")
    assert told["revisions"] > 0
    again = grape.load(tmp_path / "revise.grape").plan()
    assert {stage.state for stage in again.stages} == {"cached"}
