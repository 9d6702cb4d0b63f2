"""The commands that run nothing: what they print, where, and with which exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grape.runtime.cli import COMMANDS, main

ROOT = Path(__file__).parents[2]
TINY = ROOT / "pipelines" / "tiny" / "quickstart.grape"


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_has_an_example(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        main([command, "--help"])
    assert done.value.code == 0
    assert f"  grape {command}" in capsys.readouterr().out


def test_wrong_use_is_two(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", "no/such/file.grape"]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "there is no file or folder" in captured.err


def test_shipped_pipelines_are_clean(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lint", str(ROOT / "pipelines"), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["findings"] == []


def test_shipped_pipelines_are_formatted() -> None:
    assert main(["fmt", "--check", str(ROOT / "pipelines")]) == 0


def test_lint_reports_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "broken.grape"
    file.write_text('grape 1\n\npipeline p() {\n  model base = pretrained("nowhere")\n}\n')
    assert main(["lint", str(file), "--format", "json"]) == 1
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert findings and {"code", "severity", "message", "file", "start", "end"} <= set(findings[0])


@pytest.mark.parametrize("format", ["mermaid", "dot", "json", "svg"])
def test_graph_prints_only_the_drawing(format: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graph", str(TINY), "--format", format]) == 0
    captured = capsys.readouterr()
    assert "rollouts" in captured.out and captured.err == ""


def test_plan_knows_parameters_and_states(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["new", str(tmp_path / "project"), "--tiny"]) == 0
    file = tmp_path / "project" / "quickstart.grape"
    capsys.readouterr()
    assert main(["plan", str(file), "--set", "rounds=3", "--format", "json"]) == 0
    stages = json.loads(capsys.readouterr().out)["stages"]
    assert {stage["state"] for stage in stages} == {"run"}
    assert all(stage["key"] and stage["reason"] for stage in stages)


def test_new_never_overwrites(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["new", str(tmp_path), "--tiny"]) == 0
    assert main(["new", str(tmp_path), "--tiny"]) == 2
    assert "is there already" in capsys.readouterr().err


def test_explain_an_algorithm_and_a_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "grpo"]) == 0
    assert "old_logp" in capsys.readouterr().out
    assert main(["explain", "G999"]) == 2


def test_a_plan_is_probed_unless_told_not_to(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = project / "file.grape"
    file.write_text(
        'grape 1\n\nuse sft from "std/algorithms"\n\npipeline p() {\n'
        '  data sums = jsonl("data/sums.jsonl") { prompt = "{a}", completion = "{summ}" }\n'
        '  model base = fresh("llama", sums)\n'
        "  stage warm = train(base, sums) { algorithm = sft() }\n"
        '  output warm as "models/warm"\n}\n'
    )
    assert main(["lint", str(file)]) == 0
    assert main(["lint", "--probe", str(file)]) == 1
    assert "G420" in capsys.readouterr().out
    assert main(["plan", str(file)]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and "did you mean `sum`?" in captured.err
    assert main(["plan", "--no-probe", str(file)]) == 0


def test_an_explained_code_names_its_threads(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "G405"]) == 0
    assert "https://github.com/huggingface/trl/issues/2858" in capsys.readouterr().out
