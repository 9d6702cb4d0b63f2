"""A disk that is full for real, and a store that cannot be written: one line, nothing half made."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from grape.compiler.plan import PlannedStage
from grape.runtime.cli import main

TINY = Path(__file__).parents[2] / "pipelines" / "tiny"
JOB = """
import json, sys, threading
from pathlib import Path
from grape.runtime.errors import StageError
from grape.runtime.process import run_job
job = json.loads(sys.argv[1])
try:
    run_job(job, Path(job["project"]), stop=threading.Event(), emit=lambda event: None)
except StageError as error:
    left = [str(path) for path in Path(job["store"]).glob("*/*") if path.parent.name != "work"]
    print(json.dumps([error.message, error.hint, left]))
"""


def small_disk(command: list[str], folder: Path, size: str) -> list[str]:
    """The command with a disk of `size` at `folder`, which only it sees."""
    mount = f"mount -t tmpfs -o size={size} none '{folder}' && exec \"$@\""
    return ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh", *command]


def ended(stage: PlannedStage, tmp_path: Path, size: str) -> tuple[str, str, list[str]]:
    """Message, hint and what the store holds, after a stage whose store is on a small disk."""
    store = tmp_path / "store"
    store.mkdir()
    if subprocess.run(small_disk(["true"], store, size), capture_output=True).returncode:
        pytest.skip("this system lets nobody mount a small disk")
    job = {
        "stage": stage.model_dump(mode="json"),
        "store": str(store),
        "project": str(tmp_path),
        "keys": {stage.name: "k"},
        "kinds": {stage.name: stage.type},
    }
    command = small_disk([sys.executable, "-c", JOB, json.dumps(job)], store, size)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    message, hint, left = json.loads(done.stdout)
    return message, hint, left


def test_data_that_the_disk_does_not_hold(tmp_path: Path) -> None:
    rows = "".join(json.dumps({"q": f"{number} " + "x" * 900}) + "\n" for number in range(200))
    (tmp_path / "rows.jsonl").write_text(rows)
    templates = ("completion", "chosen", "rejected", "answer", "messages", "desirable")
    settings: dict[str, Any] = {"path": "rows.jsonl", "prompt": "{q}", "split": None, "limit": None}
    stage = PlannedStage(
        name="rows",
        verb="jsonl",
        type="Data",
        inputs={},
        settings={**settings, "seed": 0, **dict.fromkeys(templates)},
        key="k",
    )
    message, hint, left = ended(stage, tmp_path, "64k")
    assert message == f"`rows`: the store at {tmp_path / 'store'} cannot be used: the disk is full"
    assert "make room" in hint and left == []


@pytest.mark.slow
def test_a_model_that_the_disk_does_not_hold(tmp_path: Path) -> None:
    settings = {
        "architecture": "llama",
        "layers": 2,
        "hidden": 64,
        "heads": 4,
        "kv_heads": None,
        "intermediate": None,
        "vocab": 300,
        "context": 64,
        "tokenizer": "bytes",
        "seed": 0,
    }
    stage = PlannedStage(
        name="m", verb="fresh", type="Model", inputs={}, settings=settings, key="k"
    )
    message, hint, left = ended(stage, tmp_path, "128k")
    assert "`m`: " in message and "full" in message
    assert "make room" in hint and left == []


@pytest.mark.parametrize("place", [".grape", ".grape/store", ".grape/runs"])
def test_a_store_that_cannot_be_written_stops_a_run_at_once(
    place: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")  # no server for a run like this
    project = tmp_path / "project"
    shutil.copytree(TINY, project)
    (project / place).parent.mkdir(exist_ok=True)
    (project / place).write_text("a file in the way")
    assert main(["run", str(project / "quickstart.grape"), "--quiet"]) == 4
    said = capsys.readouterr()
    assert f"{project / '.grape'}" in said.err and "a file is in the way" in said.err
    assert said.out == "" and "Traceback" not in said.err
