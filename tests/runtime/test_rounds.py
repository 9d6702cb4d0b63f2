"""Rounds of a repeat on a model from scratch: `every` measures, `until` ends, both go on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from grape.compiler.plan import Plan, Ref
from grape.compiler.planning import make_plan
from grape.compiler.program import load
from grape.runtime.execute import execute, load_artifact

TEXT = """grape 1

use grpo from "std/algorithms"

pipeline p() {{
  data sums = jsonl("sums.jsonl") {{ prompt = "{{a}} + {{b}} =", answer = "{{sum}}", split = 50% }}
  model base = fresh("llama", sums) {{ layers = 1, hidden = 32, heads = 2, context = 64 }}
  repeat 5 with policy = base {{
    stage tries = sample(policy, sums.train) {{ prompts = 2, group = 4, max_tokens = 6 }}
    stage scored = score(tries, within(3, min = 1))
    next policy = train(policy, scored) {{ algorithm = grpo(), lr = 1e-3, checkpoint = 1ms }}
{inside}  }}
  output policy as "m"
}}
"""
WATCH = """    every 2 {
      stage quality = evaluate(policy, sums.test, within(3, min = 1)) {
        max_tokens = 6
        prompts = 6
        temperature = 1.0
      }
    }
"""


class _Cut(Exception):
    pass


class _Run:
    """A plan's stages in this process, with artifacts in folders."""

    def __init__(self, folder: Path, inside: str) -> None:
        folder.mkdir()
        self.folder = folder
        rows = [{"a": a, "b": b, "sum": a + b} for a in range(4) for b in range(4)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "sums.jsonl").write_text(text)
        file = folder / "p.grape"
        file.write_text(TEXT.format(inside=inside))
        program = load(file)
        assert program.ok, program.findings
        self.plan: Plan = make_plan(
            program.graph(),
            project=folder,
            file=str(file),
            state_of=lambda key: "run",
            previous=None,
        )
        self.events: list[dict[str, Any]] = []

    def go(self, stop: Callable[[dict[str, Any]], bool] = lambda event: False) -> Path:
        """Run what is not there; the folder of the repeat's artifact."""

        def open_input(ref: Ref) -> Any:
            return load_artifact(self.plan.stage(ref.stage).type, self.folder / "made" / ref.stage)

        def emit(event: dict[str, Any]) -> None:
            self.events.append(event)
            if stop(event):
                raise _Cut

        for stage in self.plan.stages:
            made, work = self.folder / "made" / stage.name, self.folder / "work" / stage.name
            if made.is_dir():
                continue
            work.mkdir(parents=True, exist_ok=True)
            artifact = execute(stage, open_input, project=self.folder, work=work, emit=emit)
            made.mkdir(parents=True)
            artifact.save(made)
        return self.folder / "made" / "policy"

    def rounds(self) -> int:
        return max(int(e["done"]) for e in self.events if e.get("unit") == "rounds")


def files(folder: Path) -> dict[str, bytes]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> tuple[_Run, Path]:
    run = _Run(tmp_path_factory.mktemp("watched") / "p", WATCH)
    return run, run.go()


def test_every_measures_and_changes_nothing(watched: tuple[_Run, Path], tmp_path: Path) -> None:
    run, made = watched
    plain = files(_Run(tmp_path / "plain", "").go())
    with_reports = files(made)
    assert {name: with_reports[name] for name in plain} == plain
    base = run.folder / "made" / "base" / "model.safetensors"
    assert base.read_bytes() != plain["model.safetensors"], "nothing was trained, nothing is shown"
    assert "reports/quality/000002/scores.jsonl" in with_reports
    assert "reports/quality/000004/scores.jsonl" in with_reports
    told = [e["round"] for e in run.events if e["event"] == "metrics" and e["stage"] == "quality"]
    assert told == [1, 3]
    assert json.loads(with_reports["reports/ended.json"]) == {"rounds": 5, "until": None}


@pytest.mark.parametrize("cut_at", [2, 4])
def test_going_on_gives_the_same_bytes(
    watched: tuple[_Run, Path], tmp_path: Path, cut_at: int
) -> None:
    """Cut in the middle of a round, after its report where it has one."""
    parted = _Run(tmp_path / "p", WATCH)

    def in_the_round(event: dict[str, Any]) -> bool:
        return bool(event["event"] == "progress" and event.get("done") == cut_at
                    and event.get("unit") == "rounds")  # fmt: skip

    with pytest.raises(_Cut):
        parted.go(in_the_round)
    assert (parted.folder / "work" / "policy" / "checkpoint" / "state.pt").is_file()
    assert files(parted.go()) == files(watched[1])


@pytest.mark.parametrize(
    ("until", "rounds"),
    [
        ("scored.mean >= 0", 1),
        ("scored.mean > 2", 5),
        ("quality.mean >= 0", 2),
        ("quality.mean > 2 or scored.length >= 0 and quality.mean >= 0", 2),
        ("not policy.loss > 1e9", 1),
    ],
)
def test_until_ends_on_what_a_round_made(tmp_path: Path, until: str, rounds: int) -> None:
    """A report that no round has made yet ends nothing."""
    run = _Run(tmp_path / "p", f"{WATCH}    until {until}\n")
    made = run.go()
    ended = json.loads((made / "reports" / "ended.json").read_text())
    assert run.rounds() == rounds == ended["rounds"]
    assert ended["until"] == (until if rounds < 5 else None)
    notes = [event["text"] for event in run.events if event["event"] == "note"]
    assert any("ended after" in note for note in notes) == (rounds < 5)
