"""`import grape`: what the language document promises to Python programs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import grape

TINY = Path(__file__).parents[2] / "pipelines" / "tiny"
OWN = """
algorithm mine(weight: float = 1 where weight > 0) on Demos {
  minimize -weight * mean(logp per batch)
}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    shutil.copytree(TINY, tmp_path / "tiny")
    path = tmp_path / "tiny" / "quickstart.grape"
    path.write_text(path.read_text() + OWN)
    return path


def test_loading_checks_and_takes_parameters(file: Path) -> None:
    program = grape.load(file, params={"rounds": 2})
    assert program.findings == [] and program.pipelines == ["quickstart"]
    graph = program.graph("quickstart")
    assert graph.nodes["policy"]["settings"] == {"rounds": 2, "staleness": 0}
    assert program.plan().params["rounds"] == 2


def test_errors_are_raised_with_their_findings(file: Path) -> None:
    with pytest.raises(grape.Invalid) as caught:
        grape.load(file, params={"round": 2})
    assert [finding.code for finding in caught.value.findings] == ["G108"]
    with pytest.raises(FileNotFoundError):
        grape.load(file.with_name("nothing.grape"))


def test_a_run_looks_at_the_data_first(file: Path) -> None:
    file.write_text(file.read_text().replace('"{sum}"', '"{summ}"'))
    with pytest.raises(grape.Invalid) as caught:
        grape.load(file).run()
    assert "G420" in {finding.code for finding in caught.value.findings}
    assert not (file.parent / ".grape" / "runs").exists()


def test_algorithms_of_a_file_and_of_the_library(file: Path) -> None:
    program = grape.load(file)
    batch = {
        "logp": torch.tensor([[-1.0, -3.0]]),
        "mask": torch.ones(1, 2, dtype=torch.bool),
        "group": torch.zeros(1, dtype=torch.long),
    }
    assert program.algorithm("mine", weight=2.0).evaluate(batch).loss.item() == 4.0
    assert program.algorithm("grpo", beta=0.1).needs == {"logp", "old_logp", "ref_logp", "reward"}
    with pytest.raises(ValueError, match="weight"):
        program.algorithm("mine", weight=-1.0)
    with pytest.raises(ValueError, match="no algorithm"):
        program.algorithm("grop")
