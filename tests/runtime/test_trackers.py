"""Metrics sent to trackers: what they get, and that a run outlives one that breaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import accelerate.tracking
import pytest

from grape.compiler.plan import Plan, PlannedStage
from grape.runtime import trackers
from grape.runtime.cli import main
from grape.runtime.errors import StageError, UsageError
from grape.runtime.trackers import available, configuration, tracking

TINY = Path(__file__).parents[2] / "pipelines" / "tiny"


class Recorder:
    """A tracker that remembers, or fails where it is told to."""

    heard: ClassVar[list[tuple[str, Any]]] = []
    fails = ""

    def __init__(self, **given: object) -> None:
        self._hear("made", given)

    def start(self) -> None:
        self._hear("start", None)

    def store_init_configuration(self, values: dict[str, object]) -> None:
        self._hear("settings", values)

    def log(self, values: dict[str, float], step: int) -> None:
        self._hear("log", (step, values))

    def finish(self) -> None:
        self._hear("finish", None)

    def _hear(self, what: str, value: object) -> None:
        if self.fails == what:
            raise ConnectionError("no network")
        self.heard.append((what, value))


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    monkeypatch.setattr(Recorder, "heard", [])
    monkeypatch.setattr(Recorder, "fails", "")
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "wandb", Recorder)
    return Recorder


def plan() -> Plan:
    settings = {"lr": 0.1, "betas": [0.9, 0.99]}
    inner = PlannedStage(name="next", verb="train", type="Model", inputs={}, settings=settings)
    region = PlannedStage(
        name="policy", verb="repeat", type="Model", inputs={}, settings={"rounds": 2}, body=(inner,)
    )
    return Plan(edition=1, pipeline="p", file="f", project="d", params={}, stages=(region,))


def row(update: int) -> dict[str, object]:
    named = {"event": "metrics", "stage": "next", "region": "policy"}
    return {**named, "update": update, "loss": 0.5, "text": "no number"}


def test_a_tracker_gets_the_settings_and_every_metric_in_order(
    tmp_path: Path, recorder: type[Recorder]
) -> None:
    notes: list[str] = []
    with tracking(["wandb"], plan(), tmp_path / "run1", notes.append) as take:
        take({"event": "note", "text": "not a metric"})
        take(row(0))
        take(row(1))
    assert recorder.heard == [
        ("made", {"run_name": "p", "name": "run1"}),
        ("start", None),
        ("settings", configuration(plan())),
        ("log", (0, {"policy/next/update": 0, "policy/next/loss": 0.5})),
        ("log", (1, {"policy/next/update": 1, "policy/next/loss": 0.5})),
        ("finish", None),
    ]
    assert configuration(plan())["next.betas"] == "[0.9, 0.99]"
    assert not notes


def test_a_tracker_that_breaks_is_named_once_and_the_run_goes_on(
    tmp_path: Path, recorder: type[Recorder]
) -> None:
    recorder.fails = "log"
    notes: list[str] = []
    with tracking(["wandb"], plan(), tmp_path, notes.append) as take:
        take(row(0))
        take(row(1))
    assert notes == ["the tracker `wandb` broke and gets nothing more: no network"]


def test_a_tracker_that_cannot_begin_stops_the_run_before_anything_runs(
    tmp_path: Path, recorder: type[Recorder]
) -> None:
    recorder.fails = "start"
    with (
        pytest.raises(StageError, match="`wandb` could not begin: no network"),
        tracking(["wandb"], plan(), tmp_path, print),
    ):
        pytest.fail("the run began")


def test_a_tracker_that_hangs_does_not_keep_the_run(
    tmp_path: Path, recorder: type[Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    free = threading.Event()
    monkeypatch.setattr(trackers, "_PATIENCE", 0.1)
    monkeypatch.setattr(recorder, "log", lambda self, values, step: free.wait(20))
    notes: list[str] = []
    with tracking(["wandb"], plan(), tmp_path, notes.append) as take:
        take(row(0))
    free.set()
    assert "the rest is lost" in notes[0]


def test_unknown_and_missing_trackers_are_told_before_a_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert available(["tensorboard", "tensorboard"]) == ["tensorboard"]
    monkeypatch.setitem(trackers.TRACKERS, "wandb", ("no_such_package",))
    with pytest.raises(UsageError, match="not installed"):
        available(["wandb"])
    assert main(["run", str(TINY / "quickstart.grape"), "--track", "excel"]) == 2
    assert "there is no tracker `excel`; there are mlflow, tensorboard" in capsys.readouterr().err
