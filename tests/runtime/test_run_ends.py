"""How runs end: checks without data, outputs that are in the way, killed tasks, servers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from math import nan
from pathlib import Path
from typing import Any

import pytest

from grape.compiler.plan import Plan, PlannedCheck, PlannedOutput, PlannedStage, Ref
from grape.runtime import server
from grape.runtime.artifacts import Report, Score
from grape.runtime.checking import judge
from grape.runtime.errors import StageError
from grape.runtime.outputs import publish
from grape.runtime.process import run_job
from grape.runtime.run import Runner
from grape.runtime.store import Store

# --- checks -----------------------------------------------------------------------------------


def report(rewards: list[float]) -> Report:
    return Report(
        [Score(str(i), "p", None, ["t"], [reward], {}, [False]) for i, reward in enumerate(rewards)]
    )


def mean_of(stage: str) -> dict[str, Any]:
    return {"op": "metric", "stage": stage, "name": "mean", "args": []}


@pytest.mark.parametrize("confidence", [None, 0.95])
@pytest.mark.parametrize(
    ("rewards", "why"), [([], "no items"), ([1.0, nan] * 10, "rewards that are no numbers")]
)
def test_a_check_never_passes_on_missing_data(
    confidence: float | None, rewards: list[float], why: str
) -> None:
    test = {"op": ">=", "args": [mean_of("after"), mean_of("before")]}
    check = PlannedCheck(text="c", test=test, confidence=confidence, file="f", line=1)
    verdict = judge(check, {"after": report(rewards), "before": report([0.0] * 20)})
    assert (verdict.verdict, verdict.detail) == ("inconclusive", f"after has {why}")


# --- outputs ----------------------------------------------------------------------------------


def made(tmp_path: Path) -> tuple[Plan, Store]:
    """A plan with one model that is in the store, to be published as `models/m`."""
    stage = PlannedStage(
        name="m", verb="fresh", type="Model", inputs={}, settings={"layers": 2}, key="k"
    )
    output = PlannedOutput(ref=Ref(stage="m"), path="models/m")
    plan = Plan(
        edition=1,
        pipeline="p",
        file="p.grape",
        project=str(tmp_path / "project"),
        params={},
        stages=(stage,),
        outputs=(output,),
    )
    store = Store(tmp_path / "store")
    folder = store.temporary()
    (folder / "weights").write_text("new")
    store.publish("k", folder, {"key": "k"})
    return plan, store


def test_an_output_replaces_only_what_grape_wrote(tmp_path: Path) -> None:
    plan, store = made(tmp_path)
    target = publish(plan, plan.outputs[0], store, "run1")
    assert (target / "weights").read_text() == "new" and not (target / "manifest.json").exists()
    card = (target / "README.md").read_text()
    assert "run1" in card and "layers = 2" in card
    (target / "weights").write_text("old")
    publish(plan, plan.outputs[0], store, "run2")
    assert (target / "weights").read_text() == "new"
    assert [path.name for path in target.parent.iterdir()] == ["m"]

    (target / "grape.json").unlink()
    with pytest.raises(StageError, match="Grape did not write it"):
        publish(plan, plan.outputs[0], store, "run3")


def test_runs_that_end_at_once_publish_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, store = made(tmp_path)
    inside, most = [0], [0]
    copy = shutil.copytree

    def slow(*args: Any, **named: Any) -> Any:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.05)
        made = copy(*args, **named)
        inside[0] -= 1
        return made

    monkeypatch.setattr(shutil, "copytree", slow)
    with ThreadPoolExecutor(4) as pool:
        made_by = pool.map(lambda n: publish(plan, plan.outputs[0], store, f"run{n}"), range(4))
        targets = set(made_by)
    (target,) = targets
    assert most == [1] and (target / "weights").read_text() == "new"
    assert [path.name for path in target.parent.iterdir()] == ["m"]


def test_an_output_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    plan, store = made(tmp_path)
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "models").write_text("a file in the way")
    with pytest.raises(StageError, match="could not be written"):
        publish(plan, plan.outputs[0], store, "run1")


# --- tasks ------------------------------------------------------------------------------------


def waiting(tmp_path: Path) -> dict[str, Any]:
    """A job whose input is a named pipe that nobody writes."""
    folder = tmp_path / "store" / "objects" / "before"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "sampling.json")
    stage = PlannedStage(
        name="kept",
        verb="best",
        type="Demos",
        inputs={"rollouts": Ref(stage="tries")},
        settings={"top": 1, "threshold": None},
        key="k",
    )
    return {
        "stage": stage.model_dump(mode="json"),
        "store": str(tmp_path / "store"),
        "project": str(tmp_path),
        "keys": {"tries": "before", "kept": "k"},
        "kinds": {"tries": "Rollouts", "kept": "Demos"},
    }


def kill_worker(tmp_path: Path, done: threading.Event) -> None:
    while not done.wait(0.2):
        listed = subprocess.run(["ps", "-eww", "-o", "pid,args"], capture_output=True, text=True)
        for line in listed.stdout.splitlines():
            if str(tmp_path) in line and "lifeline" not in line and "grape.runtime.worker" in line:
                os.kill(int(line.split()[0]), signal.SIGKILL)


def test_a_killed_worker_is_named_as_such(tmp_path: Path) -> None:
    done = threading.Event()
    killer = threading.Thread(target=kill_worker, args=(tmp_path, done))
    killer.start()
    try:
        with pytest.raises(StageError, match=r"killed by the system.*memory ran out"):
            run_job(waiting(tmp_path), tmp_path, stop=threading.Event(), emit=lambda event: None)
    finally:
        done.set()
        killer.join()


def test_stages_of_equal_name_in_two_repeats_keep_their_metrics_apart(tmp_path: Path) -> None:
    inner = PlannedStage(name="next", verb="train", type="Model", inputs={}, settings={})
    one, two = (
        PlannedStage(name=name, verb="repeat", type="Model", inputs={}, settings={}, body=(inner,))
        for name in ("one", "two")
    )
    plan = Plan(edition=1, pipeline="p", file="f", project="d", params={}, stages=(one, two))
    (tmp_path / "metrics").mkdir()
    runner = Runner(plan, tmp_path, tmp_path, lambda event: None)
    runner.emit({"event": "metrics", "stage": "next", "loss": 1.0}, "one")
    runner.emit({"event": "metrics", "stage": "next", "loss": 2.0}, "two")
    names = sorted(path.name for path in (tmp_path / "metrics").iterdir())
    assert names == ["one.next.jsonl", "two.next.jsonl"]


# --- the server -------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GRAPE_HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    return tmp_path


def test_a_server_that_cannot_start_says_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    false = home / "python"
    false.write_text("#!/bin/sh\necho no such luck\nexit 7\n")
    false.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(false))
    with pytest.raises(StageError, match=r"did not start \(exit code 7\)") as failure:
        server.ensure_server()
    assert failure.value.hint == "no such luck"
    assert "server.log" in failure.value.message


def test_a_home_that_cannot_be_written_says_so(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").write_text("")
    monkeypatch.setenv("GRAPE_HOME", str(home / "file"))
    with pytest.raises(StageError, match="cannot be written"):
        server.ensure_server()


def test_a_stale_record_is_no_server(home: Path) -> None:
    (home / "prefect").mkdir()
    (home / "prefect" / "server.json").write_text(
        '{"pid": 999999999, "port": 9, "url": "http://127.0.0.1:9/api"}'
    )
    assert server.status() == "no server is running; the next run starts one"
    assert server.stop() is False
