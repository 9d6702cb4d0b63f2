"""A stage made by several processes: its launcher, its events, and the loss of one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import grape
from grape.compiler.plan import Plan
from grape.runtime.errors import StageError
from grape.runtime.process import Cancelled, Heard, run_job
from grape.runtime.store import Store

DATA = Path(__file__).parents[2] / "pipelines" / "tiny" / "data"
FILE = """grape 1

use sft, grpo from "std/algorithms"

pipeline shared(processes: int = 2, updates: int = 4) {
  model base = fresh("llama") {
    layers = 1, hidden = 16, heads = 2, context = 64, tokenizer = "bytes"
  }
  data sums = jsonl("data/sums.jsonl") { prompt = "{a} + {b} =", completion = " {sum}" }
  stage warm = train(base, sums) {
    algorithm = sft(), sequences_per_update = 4, updates = updates, checkpoint = 1ms
  }
  repeat 1 with policy = warm {
    stage tries = sample(policy, sums) { prompts = 2, group = 4, max_tokens = 3 }
    stage scored = score(tries, contains("a") + within(2))
    next policy = train(policy, scored) { algorithm = grpo() }
  }
  output policy as "models/policy"
}
"""
Events = list[dict[str, Any]]


def planned(folder: Path, **params: int) -> Plan:
    shutil.copytree(DATA, folder / "data")
    file = folder / "shared.grape"
    file.write_text(FILE)
    return grape.load(file, params=params).plan()


def make(
    plan: Plan,
    name: str,
    folder: Path,
    emit: Callable[[dict[str, Any]], None],
    stop: threading.Event | None = None,
) -> dict[str, Any]:
    """One stage by its job, as a run would; its manifest."""
    stage = plan.stage(name)
    job = {
        "stage": stage.model_dump(mode="json"),
        "store": str(folder / "store"),
        "project": str(folder),
        "keys": {stage.name: stage.key for stage in plan.stages},
        "kinds": {stage.name: stage.type for stage in plan.stages},
        "processes": stage.processes,
    }
    run_job(job, folder, stop=stop or threading.Event(), emit=emit)
    return Store(folder / "store").manifest(stage.key)


def workers(marker: Path) -> dict[int, int]:
    """Rank to process id of the workers whose command line mentions the marker."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().decode()
            told = dict(
                line.split("=", 1)
                for line in (process / "environ").read_bytes().decode().split("\0")
                if "=" in line
            )
        except (OSError, ValueError):
            continue
        if str(marker) in command and "grape.runtime.worker" in command and "RANK" in told:
            found[int(told["RANK"])] = int(process.name)
    return found


def left(marker: Path) -> list[str]:
    done = subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if str(marker) in line]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
def test_a_lost_process_is_named_and_the_stage_goes_on_afterwards(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    for name in ("base", "sums"):
        make(plan, name, tmp_path, lambda event: None)

    def kill(event: dict[str, Any]) -> None:
        if event["event"] == "progress" and event["done"] == 2:
            os.kill(workers(tmp_path)[1], signal.SIGKILL)

    with pytest.raises(StageError, match=r"G915: process 2 of 2 of `warm` .* of 4 updates") as lost:
        make(plan, "warm", tmp_path, kill)
    assert lost.value.code == "G915" and left(tmp_path) == []
    told: Events = []
    manifest = make(plan, "warm", tmp_path, told.append)
    updates = [event["update"] for event in told if event["event"] == "metrics"]
    assert updates and updates[0] >= 1 and updates == list(range(updates[0], 4)), (
        "from a checkpoint"
    )
    assert manifest["processes"] == 2 and left(tmp_path) == []


@pytest.mark.slow
def test_a_repeat_of_two_processes_speaks_once(tmp_path: Path) -> None:
    plan = planned(tmp_path, updates=1)
    told: Events = []
    for name in ("base", "sums", "warm", "policy"):
        make(plan, name, tmp_path, told.append)
    assert sum(event["event"] == "metrics" and event["stage"] == "next" for event in told) == 1
    assert sum(event["event"] == "metrics" and event["stage"] == "scored" for event in told) == 1


@pytest.mark.slow
def test_stopping_reaches_every_process(tmp_path: Path) -> None:
    plan = planned(tmp_path, updates=100_000)
    for name in ("base", "sums"):
        make(plan, name, tmp_path, lambda event: None)
    stop = threading.Event()

    def begun(event: dict[str, Any]) -> None:
        if event["event"] == "metrics":
            stop.set()

    start = time.monotonic()
    with pytest.raises(Cancelled):
        make(plan, "warm", tmp_path, begun, stop)
    assert time.monotonic() - start < 120
    assert left(tmp_path) == []


@pytest.mark.slow
def test_processes_end_with_their_orchestrator(tmp_path: Path) -> None:
    plan = planned(tmp_path, updates=100_000)
    for name in ("base", "sums"):
        make(plan, name, tmp_path, lambda event: None)
    (tmp_path / "plan.json").write_text(plan.model_dump_json())
    code = (
        "import runpy, sys; from pathlib import Path; folder = Path(sys.argv[1]);"
        "names = runpy.run_path(sys.argv[2]);"
        "plan = names['Plan'].model_validate_json((folder / 'plan.json').read_text());"
        "names['make'](plan, 'warm', folder, print)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), __file__])
    try:
        deadline = time.monotonic() + 90
        while len(workers(tmp_path)) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        starter.send_signal(signal.SIGKILL)
        starter.wait()
    deadline = time.monotonic() + 20
    while left(tmp_path):
        assert time.monotonic() < deadline, left(tmp_path)
        time.sleep(0.1)


def heard(*events: dict[str, Any]) -> str:
    """The reason of a failed job of three processes that said this."""
    found = Heard(lambda event: None, "warm", 3)
    for event in events:
        found.take(json.dumps(event).encode())
    reason = found.reason(1, Path("warm.log"))
    assert reason is not None
    return reason.message


PROGRESS = {"event": "progress", "done": 3, "total": 9, "unit": "updates"}


def test_the_process_that_failed_is_named_with_its_step() -> None:
    lost = {"event": "error", "rank": 0, "lost": True, "message": "Connection closed by peer"}
    ours = {"event": "error", "rank": 2, "message": "ValueError: odd"}
    ended = {"event": "ended", "codes": [[0, 1], [2, 1]]}
    said = heard(PROGRESS, lost, ours, ended)
    assert said == "`warm`: process 3 of 3 after 3 of 9 updates: ValueError: odd"


def test_what_all_processes_say_is_said_plainly() -> None:
    errors = [{"event": "error", "rank": rank, "message": "no tokens"} for rank in range(3)]
    assert heard(*errors) == "`warm`: no tokens"


def test_a_killed_process_comes_before_what_the_others_say() -> None:
    lost = {"event": "error", "rank": 0, "lost": True, "message": "Connection closed by peer"}
    ended = {"event": "ended", "codes": [[0, 1], [1, -9], [2, -15]]}
    said = heard(PROGRESS, lost, ended)
    assert said.startswith("G915: process 2 of 3 of `warm` was killed by the system after 3 of 9")
