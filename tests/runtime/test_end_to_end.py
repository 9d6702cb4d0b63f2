"""From a file to a model through Prefect: the tiny twins of the shipped pipelines, for real."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import grape
from grape.runtime import server
from grape.runtime.cli import main

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


@pytest.fixture(autouse=True)
def no_foreign_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(TINY, folder, dirs_exist_ok=True)
    return folder


def test_a_run_trains_a_model_and_a_second_run_does_nothing(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = str(project / "quickstart.grape")
    assert main(["run", file, "--set", "rounds=2", "--track", "tensorboard"]) == 0
    first = capsys.readouterr()
    assert "quickstart: completed" in first.out and "check after.mean" in first.out

    from transformers import AutoModelForCausalLM, AutoTokenizer

    output = project / "models" / "adder"
    AutoModelForCausalLM.from_pretrained(output)
    AutoTokenizer.from_pretrained(output)

    assert main(["runs", str(project), "--format", "json"]) == 0
    run = json.loads(capsys.readouterr().out)["runs"][0]
    lines = Path(run["metrics"]["next"]).read_text().splitlines()
    assert len(lines) == 2
    assert {"stage", "round", "update", "seconds", "tokens", "loss"} <= set(json.loads(lines[0]))
    tracked = list((Path(run["folder"]) / "tensorboard").rglob("events.out.*"))
    assert b"policy/next/loss" in b"".join(path.read_bytes() for path in tracked)
    seen = Path(run["folder"]) / "samples" / "scored.jsonl"
    rounds = [json.loads(line)["round"] for line in seen.read_text().splitlines()]
    assert set(rounds) == {0, 1}
    assert "scored · round 2" in (Path(run["folder"]) / "report.html").read_text()

    start = time.monotonic()
    assert main(["run", file, "--set", "rounds=2"]) == 0
    assert time.monotonic() - start < 10
    assert "completed in" not in capsys.readouterr().err


def test_a_saved_plan_and_a_past_run_are_run_as_they_are(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = project / "plan.json"
    assert main(["plan", str(project / "quickstart.grape"), "--out", str(plan)]) == 0
    assert main(["run", str(plan), "--set", "rounds=2"]) == 2
    capsys.readouterr()
    assert main(["runs", str(project), "--format", "json"]) == 0
    run = json.loads(capsys.readouterr().out)["runs"][0]["id"]
    assert main(["resume", run, "--project", str(project)]) == 0
    captured = capsys.readouterr()
    assert "quickstart: completed" in captured.out and "completed in" not in captured.err
    saved = project / ".grape" / "runs" / run / "plan.json"
    assert main(["run", str(saved), "--quiet"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["preference", "rejection", "dapo", "tree", "turns"])
def test_the_other_twins_run(project: Path, name: str) -> None:
    assert main(["run", str(project / f"{name}.grape"), "--quiet"]) == 0


@pytest.mark.slow
def test_a_sweep_with_branches_rounds_and_a_merge_runs(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(project / "sweep.grape"), "--quiet"]) == 0
    said = capsys.readouterr().out
    assert "check mixed.mean >= 0" in said and "[rate = 1e-4]" in said
    for name in ("1e-4", "1e-5", "mixed"):
        assert (project / "models" / "sweep" / name / "model.safetensors").is_file()
        assert not (project / "models" / "sweep" / name / "reports").exists()
    (run,) = grape_runs(project, "sweep")
    folder = Path(run["folder"])
    assert 'policy["1e-5"].quality' in run["metrics"]
    page = (folder / "report.html").read_text()
    assert "round 2" in page and "`if long` is false" in page and ">skipped<" in page
    again = main(["run", str(project / "sweep.grape"), "--quiet"])
    assert (
        again == 0 and "cached" in (grape_runs(project, "sweep")[0]["stages"]["mixture"]["state"])
    )


def grape_runs(project: Path, pipeline: str) -> list[dict[str, Any]]:
    from grape.runtime.runs import list_runs

    return [run for run in list_runs(project / ".grape") if run["pipeline"] == pipeline]


@pytest.mark.slow
def test_every_other_door_opens(tmp_path: Path) -> None:
    """An environment, adapters, top-p, stop strings, keep, minibatches with a KL term, a reward in
    Python and an export in one pipeline, run from Python."""
    shutil.copytree(TINY.parents[1] / "tests" / "cases" / "doors", tmp_path / "doors")
    run = grape.load(tmp_path / "doors" / "doors.grape").run()
    assert run.state == "completed" and run.report.is_file()

    from transformers import AutoModelForCausalLM

    for folder in ("out/model", "out/exported"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "doors" / folder)
    assert run.outputs == [str(tmp_path / "doors" / "out" / "model")]


def test_a_bad_row_gives_a_line_and_no_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    project = tmp_path / "project"
    shutil.copytree(TINY, project)
    (project / "data" / "sums.jsonl").write_text('{"a": 1, "b": 2, "sum": 3}\n{"a": \n')
    assert main(["run", str(project / "quickstart.grape"), "--quiet"]) == 1, "seen by the probe"
    captured = capsys.readouterr()
    assert "line 2" in captured.err and "Traceback" not in captured.out + captured.err
    assert main(["run", str(project / "quickstart.grape"), "--quiet", "--no-probe"]) == 4
    captured = capsys.readouterr()
    assert "line 2" in captured.out and "Traceback" not in captured.out + captured.err


def test_an_unreachable_server_gives_one_line(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert main(["run", str(project / "preference.grape"), "--quiet"]) == 4
    assert "does not answer" in capsys.readouterr().out


SECRET = "hunter2-0123456789-very-secret"

LIBRARY = '''
"""A stand-in that shouts the token that it is given."""
def load_dataset(path, subset, split, revision, token):
    assert token, "no token"
    print("called with", "a token" if token else "none")
    if path == "org/refused":
        raise ValueError(f"the hub refused the token {token}")
    return [{"a": a, "b": b, "sum": a + b} for a in range(4) for b in range(4)]
'''

PIPELINE = """grape 1

use sft from "std/algorithms"

pipeline p(key: string = secret("GRAPE_TEST_KEY")) {
  data sums = hf("org/NAME") {
    prompt = "{a} + {b} ="
    completion = " {sum}"
    answer = "{sum}"
    split = 50%
    revision = "v1"
    token = key
  }
  model base = fresh("llama", sums) { layers = 1, hidden = 32, heads = 2, context = 64 }
  stage tuned = train(base, sums.train) { algorithm = sft(), lr = 1e-4 }
  output tuned as "models/tuned"
}
"""


def holders(folder: Path) -> list[str]:
    """Files below a folder that hold the secret's value."""
    found = [path for path in folder.rglob("*") if path.is_file()]
    assert found
    return [str(path) for path in found if SECRET.encode() in path.read_bytes()]


@pytest.mark.slow
def test_no_file_database_or_output_holds_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "datasets.py").write_text(LIBRARY)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    monkeypatch.syspath_prepend(str(tmp_path))
    project, home = tmp_path / "project", Path(os.environ["GRAPE_HOME"])
    project.mkdir()
    for name in ("open", "refused"):
        (project / f"{name}.grape").write_text(PIPELINE.replace("NAME", name))
    assert main(["plan", str(project / "open.grape")]) == 0
    assert main(["run", str(project / "open.grape")]) == 4, "the variable is not set"
    assert "export GRAPE_TEST_KEY" in capfd.readouterr().err
    monkeypatch.setenv("GRAPE_TEST_KEY", SECRET)
    assert main(["run", str(project / "open.grape")]) == 0
    assert main(["plan", str(project / "open.grape"), "--format", "json"]) == 0
    assert main(["graph", str(project / "open.grape"), "--format", "svg"]) == 0
    assert main(["run", str(project / "refused.grape")]) == 4
    said = capfd.readouterr()
    assert "refused the token <GRAPE_TEST_KEY>" in said.out
    assert SECRET not in said.out + said.err
    assert holders(project) == [] and holders(home) == []
    assert any(path.suffix == ".db" for path in home.rglob("*"))
    log = next((project / ".grape" / "runs").rglob("sums.log"))
    assert "called with a token" in log.read_text()
    settings = json.dumps([json.loads(p.read_text()) for p in project.rglob("manifest.json")])
    assert "GRAPE_TEST_KEY" in settings


def test_a_reward_of_the_wrong_type_stops_a_run_before_a_model_samples(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (project / "quickstart.grape").read_text()
    start, end = text.index("reward right()"), text.index("## The quickstart")
    text = text[:start] + 'reward right() = python("judge.py:right")\n\n' + text[end:]
    (project / "judged.grape").write_text(text)
    signature = "def right(completion, answer, **columns):\n"
    (project / "judge.py").write_text(f"{signature}    return [1.0 for _ in completion]\n")
    assert main(["run", str(project / "judged.grape"), "--set", "rounds=1"]) == 4
    told = capsys.readouterr()
    assert "`scored`: G903: the reward `judge.py:right` gave 2 values" in told.out
    assert "nothing has been trained yet" in told.out and "judged.grape:" in told.out
    newest = grape_runs(project, "quickstart")[0]
    assert newest["state"] == "failed" and newest["metrics"] == {}
    (project / "judge.py").write_text(f"{signature}    return float(answer in completion)\n")
    assert main(["run", str(project / "judged.grape"), "--set", "rounds=1"]) in (0, 3)
