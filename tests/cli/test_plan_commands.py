"""Plans as documents: why, saved plans, locks, differences, garbage, resuming."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from grape.compiler.document import PlanDocument, schema
from grape.compiler.program import load
from grape.runtime.cli import main
from grape.runtime.preparing import prepare
from grape.runtime.runs import new_run, write_record
from grape.runtime.store import Store

ROOT = Path(__file__).parents[2]

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "pipelines" / "tiny", tmp_path / "tiny")
    return tmp_path / "tiny" / "quickstart.grape"


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def pretend(file: Path, state: str = "completed", **sets: str) -> str:
    """A finished run without any work: every artifact is an empty folder; its id."""
    plan = prepare(load(file, sets=sets).graph(), file)
    root = file.parent / ".grape"
    store = Store(root / "store")
    stages = {}
    for stage in plan.stages:
        folder = store.temporary()
        (folder / "weights").write_bytes(b"0" * 1000)
        if stage.type == "Report":
            (folder / "scores.jsonl").write_text(_scores(0.5 if "x" in sets else 0.25))
        manifest = {"verb": stage.verb, "created": "2026-01-01T00:00:00+0000"}
        store.publish(stage.key, folder, {**manifest, "seconds": 3.0, "peak_bytes": 1 << 29})
        stages[stage.name] = {"state": state, "key": stage.key, "made_in_seconds": 3.0}
        stages[stage.name]["peak_bytes"] = 1 << 29
    folder = new_run(root, plan)
    record = {"id": folder.name, "pipeline": plan.pipeline, "state": state, "stages": stages}
    write_record(folder, record)
    return folder.name


def _scores(reward: float) -> str:
    rows = [
        {
            "item": f"i{n}",
            "prompt": "1 + 1 =",
            "answer": "2",
            "texts": ["2"],
            "rewards": [reward + n % 2 / 10],
            "parts": {"exact": [reward]},
            "truncated": [False],
        }
        for n in range(20)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def as_json(capsys: Capture, *words: str) -> Any:
    code = main([*words, "--format", "json"])
    return code, json.loads(capsys.readouterr().out)


# --- plan -------------------------------------------------------------------------------------


def test_the_schema_is_the_published_one_and_plans_keep_to_it(file: Path, capsys: Capture) -> None:
    from jsonschema import Draft202012Validator

    assert main(["plan", "--schema"]) == 0
    text = capsys.readouterr().out
    assert text == schema() == (ROOT / "docs" / "plan.schema.json").read_text()
    validator = Draft202012Validator(json.loads(text))
    pretend(file)
    for name in ("quickstart", "preference", "rejection"):
        code, plan = as_json(capsys, "plan", str(file.with_name(f"{name}.grape")))
        assert code == 0
        validator.validate(plan)
        PlanDocument.model_validate(plan)
        assert not validator.is_valid({**plan, "stages": "none"})


def test_a_plan_knows_memory_tokens_and_last_time(file: Path, capsys: Capture) -> None:
    pretend(file)
    edit(file, "lr = 1e-4", "lr = 2e-4")
    _, plan = as_json(capsys, "plan", str(file))
    stages = {stage["name"]: stage for stage in plan["stages"]}
    warm = stages["warm"]["estimate"]
    assert warm["memory"]["low"] < warm["memory"]["expected"] < warm["memory"]["high"]
    assert warm["tokens"]["expected"] > 0 and warm["parameters"] > 100_000
    assert warm["measured"] == {"seconds": 3.0, "peak_bytes": 1 << 29}
    assert stages["warm"]["change"] == "breaking" and stages["policy"]["change"] == "downstream"
    assert stages["warm"]["set_by"]["lr"] == "file"
    assert stages["warm"]["set_by"]["epochs"] == "file"
    assert stages["warm"]["set_by"]["betas"] == "default"
    assert plan["layers"] == {"seed": "default", "rounds": "default"}


def test_changes_that_change_nothing_are_named(file: Path, capsys: Capture) -> None:
    pretend(file)
    edit(file, "lr = 1e-4", "lr = 1e-4, micro_tokens = 64")
    _, plan = as_json(capsys, "plan", str(file))
    warm = next(stage for stage in plan["stages"] if stage["name"] == "warm")
    assert (warm["state"], warm["change"]) == ("cached", "neutral")
    assert "micro_tokens: 4096 → 64" in warm["reason"]


def test_a_stage_that_cannot_fit_is_refused(file: Path, capsys: Capture) -> None:
    assert main(["plan", str(file), "--device", "cpu:64MiB"]) == 1
    captured = capsys.readouterr()
    assert "G501" in captured.err and "estimated on cpu:64MiB" in captured.out
    assert main(["plan", str(file), "--device", "huge"]) == 2


def test_estimates_are_explained_line_by_line(file: Path, capsys: Capture) -> None:
    assert main(["plan", str(file), "--explain", "policy"]) == 0
    text = capsys.readouterr().out
    for words in ("weights", "optimizer", "activations", "logits", "key-value cache", "peak ="):
        assert words in text
    assert main(["plan", str(file), "--explain", "nothing"]) == 2


# --- why --------------------------------------------------------------------------------------


def test_why_is_a_tree_back_to_the_first_difference(file: Path, capsys: Capture) -> None:
    pretend(file)
    edit(file, "lr = 1e-4", "lr = 2e-4")
    assert main(["why", str(file), "after"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "after  run: downstream of `policy`",
        "└─ policy  run: downstream of `warm`",
        "   └─ warm  run: lr: 0.0001 → 0.0002",
    ]
    _, found = as_json(capsys, "why", str(file), "after")
    assert [stage["name"] for stage in found["stages"]] == ["after", "policy", "warm"]
    assert found["stages"][2]["differs"][0]["field"] == "settings.lr"
    assert main(["why", str(file), "nobody"]) == 2
    capsys.readouterr()
    assert main(["why", str(file), "scored"]) == 2
    assert "part of the repeat `policy`" in capsys.readouterr().err


# --- saved plans ------------------------------------------------------------------------------


def test_a_saved_plan_is_refused_when_what_it_reads_changed(file: Path, capsys: Capture) -> None:
    out = file.parent / "plan.json"
    assert main(["plan", str(file), "--set", "rounds=2", "--out", str(out)]) == 0
    data = file.parent / "data" / "sums.jsonl"
    data.write_text(data.read_text() + '{"a": 1, "b": 1, "sum": 2}\n')
    capsys.readouterr()
    assert main(["run", str(out), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert "sums.jsonl" in error and "changed since the plan was made" in error
    data.unlink()
    assert main(["run", str(out), "--quiet"]) == 2
    assert "is gone since" in capsys.readouterr().err
    assert main(["run", str(out), "--set", "rounds=3"]) == 2


# --- lock -------------------------------------------------------------------------------------


def test_a_lock_holds_and_says_what_drifted(file: Path, capsys: Capture) -> None:
    assert main(["plan", str(file), "--locked"]) == 2
    assert main(["lock", str(file)]) == 0
    lock = file.parent / "grape.lock"
    first = lock.read_text()
    assert main(["lock", str(file)]) == 0 and lock.read_text() == first
    assert str(file.parent) not in first
    assert main(["plan", str(file), "--locked"]) == 0
    edit(file, "lr = 1e-4", "lr = 2e-4")  # what the file says is the file's to change
    assert main(["plan", str(file), "--locked"]) == 0
    document = json.loads(first)
    entry = document["pipelines"]["quickstart"]
    entry["versions"]["torch"] = "0.1"
    entry["stages"]["warm"]["defaults"]["weight_decay"] = 0.5
    entry["files"]["data/sums.jsonl"] = "00"
    lock.write_text(json.dumps(document))
    capsys.readouterr()
    assert main(["plan", str(file)]) == 0
    warned = capsys.readouterr().err
    for words in ("G540", "torch is", "`weight_decay` of `warm` is 0.0", "is not the file"):
        assert words in warned
    assert main(["plan", str(file), "--locked"]) == 1
    assert main(["run", str(file), "--locked"]) == 1
    assert main(["lock", str(file), "--check"]) == 1
    assert "G541" in capsys.readouterr().err


def test_a_damaged_lock_is_one_sentence(file: Path, capsys: Capture) -> None:
    (file.parent / "grape.lock").write_text("{")
    assert main(["plan", str(file)]) == 2
    assert "is not a lock" in capsys.readouterr().err


# --- diff -------------------------------------------------------------------------------------


def test_two_files_differ_in_settings_and_stages(file: Path, capsys: Capture) -> None:
    other = file.with_name("other.grape")
    shutil.copy(file, other)
    edit(other, "lr = 1e-4", "lr = 2e-4")
    edit(other, "rounds: int = 3", "rounds: int = 4")
    edit(other, "algorithm = grpo()", "algorithm = grpo(clip = 0.3)")
    assert main(["diff", str(file), str(other)]) == 0
    text = capsys.readouterr().out
    for words in ("rounds: 3 → 4", "warm  lr: 0.0001 → 0.0002", "algorithm clip: 0.2 → 0.3"):
        assert words in text
    assert main(["diff", str(file), str(file)]) == 0
    assert "the same parameters" in capsys.readouterr().out
    assert main(["diff", str(file), "nothing.grape"]) == 2


def test_two_runs_are_compared_by_their_items(file: Path, capsys: Capture) -> None:
    one = pretend(file)
    edit(file, "lr = 1e-4", "lr = 2e-4")
    two = pretend(file)
    for path in (file.parent / ".grape" / "store" / "objects").glob("*/scores.jsonl"):
        if path.parent.name in (file.parent / ".grape" / "runs" / one / "plan.json").read_text():
            continue
        path.write_text(_scores(0.75))
    code, found = as_json(capsys, "diff", one, two, "--project", str(file.parent))
    assert code == 0
    after = next(row for row in found["results"] if row["stage"] == "after")
    assert after["a"]["mean"] == pytest.approx(0.3) and after["b"]["mean"] == pytest.approx(0.8)
    assert after["difference"]["mean"] == pytest.approx(0.5)
    assert {stage["name"] for stage in found["stages"]} == {"warm", "policy", "before", "after"}


# --- gc ---------------------------------------------------------------------------------------


def objects(file: Path) -> set[str]:
    return {path.name for path in (file.parent / ".grape" / "store" / "objects").iterdir()}


def test_what_a_run_needs_stays_and_the_rest_goes(file: Path, capsys: Capture) -> None:
    old = pretend(file)
    edit(file, "lr = 1e-4", "lr = 2e-4")
    new = pretend(file)
    everything = objects(file)
    project = str(file.parent)
    _, found = as_json(capsys, "gc", project)
    assert found["removed"]["items"] == [] and objects(file) == everything
    _, found = as_json(capsys, "gc", project, "--keep", "1", "--dry-run")
    kinds = [item["kind"] for item in found["removed"]["items"]]
    assert sorted(kinds) == ["artifact"] * 4 + ["run"] and objects(file) == everything
    assert found["removed"]["bytes"] > 4000
    assert main(["gc", project, "--keep", "1"]) == 0
    assert "freed" in capsys.readouterr().out
    assert len(objects(file)) == len(everything) - 4
    runs = [path.name for path in (file.parent / ".grape" / "runs").iterdir()]
    assert runs == [new] and old not in runs


def test_a_run_that_is_going_on_is_never_robbed(file: Path, capsys: Capture) -> None:
    pretend(file, state="running")
    store = Store(file.parent / ".grape" / "store")
    store.scratch("being-made")
    store.scratch("abandoned")
    everything = objects(file)
    with store.lock("being-made"):
        assert main(["gc", str(file.parent), "--keep", "0"]) == 0
    assert objects(file) == everything
    assert [path.name for path in (store.root / "work").iterdir()] == ["being-made"]


def test_a_run_of_another_version_keeps_its_artifacts(file: Path, capsys: Capture) -> None:
    name = pretend(file)
    path = file.parent / ".grape" / "runs" / name / "plan.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "later": True}))
    everything = objects(file)
    assert main(["gc", str(file.parent)]) == 0
    assert objects(file) == everything


def test_there_may_be_nothing_to_collect(tmp_path: Path, capsys: Capture) -> None:
    assert main(["gc", str(tmp_path)]) == 0
    assert "0 item(s)" in capsys.readouterr().out and not (tmp_path / ".grape").exists()


def test_resume_needs_a_run_that_is_there(file: Path, capsys: Capture) -> None:
    assert main(["resume", "2020", "--project", str(file.parent)]) == 2
    name = pretend(file)
    (file.parent / "data" / "sums.jsonl").write_text('{"a": 1, "b": 1, "sum": 2}\n')
    assert main(["resume", name, "--project", str(file.parent), "--quiet"]) == 2
    assert "changed since the plan was made" in capsys.readouterr().err
