"""A stage in a process of its own: events, reasons, and that nothing of it is left."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from grape.compiler.plan import PlannedStage, Ref
from grape.runtime.artifacts import Completion, Rollouts
from grape.runtime.errors import StageError
from grape.runtime.process import Cancelled, run_job
from grape.runtime.store import Store


def job(tmp_path: Path, rows: str, reward: dict[str, Any] | None = None) -> dict[str, Any]:
    (tmp_path / "rows.jsonl").write_text(rows)
    settings = {
        "path": "rows.jsonl",
        "prompt": "{q}",
        "split": None,
        "limit": None,
        "seed": 0,
        **dict.fromkeys(
            ("completion", "chosen", "rejected", "answer", "messages", "desirable"), None
        ),
    }
    stage = PlannedStage(
        name="rows", verb="jsonl", type="Data", inputs={}, settings=settings, key="k1"
    )
    return {
        "stage": stage.model_dump(mode="json"),
        "store": str(tmp_path / "store"),
        "project": str(tmp_path),
        "keys": {"rows": "k1"},
        "kinds": {"rows": "Data"},
    }


def endless(tmp_path: Path) -> dict[str, Any]:
    """A job that does not end: a reward that sleeps."""
    (tmp_path / "slow.py").write_text(
        "import time\n\n\ndef slow(completion, **columns):\n    time.sleep(600)\n    return 0.0\n"
    )
    store = Store(tmp_path / "store")
    folder = store.temporary()
    Rollouts([Completion("i", 0, "p", [1], "t", [1], [0.0], False)], {}).save(folder)
    store.publish("k0", folder, {})
    call = {"op": "call", "name": "python", "part": "slow", "params": {"source": "slow.py:slow"}}
    stage = PlannedStage(
        name="slow",
        verb="score",
        type="Rollouts",
        inputs={"rollouts": Ref(stage="drawn")},
        settings={"on_error": "stop", "timeout": 900.0},
        reward=call,
        key="k1",
    )
    return {
        "stage": stage.model_dump(mode="json"),
        "store": str(tmp_path / "store"),
        "project": str(tmp_path),
        "keys": {"drawn": "k0", "slow": "k1"},
        "kinds": {"drawn": "Rollouts", "slow": "Rollouts"},
    }


def left(marker: str) -> list[str]:
    """Processes whose command line mentions the marker."""
    done = subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if marker in line and "ps -eww" not in line]


def test_a_stage_publishes_its_artifact(tmp_path: Path) -> None:
    run_job(job(tmp_path, '{"q": "1"}\n'), tmp_path, stop=threading.Event(), emit=lambda e: None)
    assert Store(tmp_path / "store").has("k1")


def test_a_bad_row_is_named(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="2"):
        run_job(
            job(tmp_path, '{"q": "1"}\n{"q": \n'),
            tmp_path,
            stop=threading.Event(),
            emit=lambda e: None,
        )
    assert not Store(tmp_path / "store").has("k1")


def test_stopping_leaves_nothing(tmp_path: Path) -> None:
    work = endless(tmp_path)
    stop = threading.Event()
    threading.Timer(2.0, stop.set).start()
    start = time.monotonic()
    with pytest.raises(Cancelled):
        run_job(work, tmp_path, stop=stop, emit=lambda e: None)
    assert time.monotonic() - start < 10
    assert left(str(tmp_path)) == []


def test_the_life_line_ends_what_its_starter_left(tmp_path: Path) -> None:
    work = endless(tmp_path)
    (tmp_path / "work.json").write_text(json.dumps(work))
    code = (
        "import json, sys, threading; from pathlib import Path;"
        "from grape.runtime.process import run_job; folder = Path(sys.argv[1]);"
        "run_job(json.loads((folder / 'work.json').read_text()), folder,"
        " stop=threading.Event(), emit=print)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    try:
        deadline = time.monotonic() + 20
        while not any("grape.runtime.worker" in line for line in left(str(tmp_path))):
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        starter.send_signal(signal.SIGKILL)
        starter.wait()
    deadline = time.monotonic() + 10
    while left(str(tmp_path)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
