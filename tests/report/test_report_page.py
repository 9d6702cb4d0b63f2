"""The HTML report of a made-up run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from grape.compiler.plan import Plan, PlannedCheck, PlannedStage
from grape.runtime.artifacts import Artifact, Completion, Report, Rollouts, Score
from grape.runtime.report import MOST_POINTS, _of_report, _of_rollout, write_report
from grape.runtime.store import MANIFEST, Store

HOSTILE = "</script><script>alert(1)</script> @@DATA@@ <b>&"


def make_run(root: Path) -> tuple[Plan, Path, Store]:
    store, run = Store(root / "store"), root / "run"
    (run / "metrics").mkdir(parents=True)
    scores = [
        Score(f"i{i}", HOSTILE, "4", ["4"], [float(i % 2)], {"exact": [float(i % 2)]}, [False])
        for i in range(20)
    ]
    rows = [Completion("i", 0, "p", [1], "t", [1], [0.0], True, reward=0.5, parts={"exact": 0.5})]
    made: dict[str, Artifact] = {"k1": Report(scores), "k2": Rollouts(rows, {})}
    for key, artifact in made.items():
        store.path(key).mkdir(parents=True)
        artifact.save(store.path(key))
        (store.path(key) / MANIFEST).write_text("{}")
    lines = [
        {"stage": "policy", "round": i, "update": i, "reward": i / 2000, "loss": 1 / (i + 1)}
        for i in range(2000)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run / "metrics" / "policy.jsonl").write_text(text)
    state = {
        "id": "r1",
        "state": "completed",
        "started": "2026-01-01T10:00:00+00:00",
        "ended": "2026-01-01T10:02:05+00:00",
        "stages": {
            "after": {"state": "completed", "key": "k1", "seconds": 3.2, "reason": HOSTILE},
            "tries": {"state": "cached", "key": "k2", "seconds": 0.0},
            "gone": {"state": "failed", "key": "k3"},
        },
        "checks": [{"text": "after.mean > 0.2", "verdict": "pass", "detail": "mean 0.5"}],
        "outputs": ["models/x"],
        "error": HOSTILE,
        "hint": "try again",
    }
    (run / "run.json").write_text(json.dumps(state))
    return _plan(), run, store


def _plan() -> Plan:
    def stage(name: str, verb: str, **more: Any) -> PlannedStage:
        return PlannedStage(name=name, verb=verb, type="", inputs={}, key="x", **more)

    return Plan(
        edition=1,
        pipeline="quick<start>",
        file="q.grape",
        project="/p",
        params={"seed": 7},
        stages=(
            stage("tries", "sample", settings={"group": 8}),
            stage("after", "evaluate", settings={"stop": [HOSTILE]}, doc=HOSTILE),
        ),
        checks=(PlannedCheck(text="after.mean > 0.2", test={}, confidence=None, file="q", line=9),),
        versions={"torch": "2.13.0"},
    )


def page_of(tmp_path: Path) -> str:
    plan, run, store = make_run(tmp_path)
    path = write_report(plan, run, store, graph_svg="<svg id=drawn></svg>")
    assert path == run / "report.html"
    return path.read_text(encoding="utf-8")


def test_the_page_stands_alone_and_escapes_everything(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    assert "alert(1)</script>" not in page
    assert page.count("<script") == 2
    assert "quick&lt;start&gt;" in page
    assert not re.search(r"""(src|href)\s*=|@import|url\(""", page)


def test_the_page_tells_results_checks_and_times(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    assert "<svg id=drawn>" in page
    assert "0.5000" in page
    assert "0.2993 – 0.7007" in page
    assert ">pass<" in page
    assert "2 min 5 s" in page
    assert "torch" in page
    assert "models/x" in page
    assert "try again" in page
    assert "mean 0.5" in page


def test_curves_and_samples_travel_inside_the_page(tmp_path: Path) -> None:
    page = page_of(tmp_path)
    found = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    data = json.loads(found[1])
    reward = data["curves"]["policy"]["reward"]
    assert len(reward) <= MOST_POINTS + 1
    assert (reward[0], reward[-1]) == ([1, 0.0], [2000, 1999 / 2000])
    assert [(entry["name"], entry["total"]) for entry in data["samples"]] == [
        ("after", 20),
        ("tries", 1),
    ]
    assert data["samples"][0]["rows"][0]["prompt"] == HOSTILE
    assert data["samples"][1]["rows"][0]["cut"] is True


def test_the_browser_has_the_turns_of_a_conversation() -> None:
    row: dict[str, Any] = {"prompt": "p", "answer": None, "text": "8", "reward": 1.0}
    row |= {"parts": {}, "truncated": False}
    spoken = [{"text": "<tool>add(3, 5)</tool>", "result": "8"}, {"text": "8", "result": ""}]
    assert _of_rollout({**row, "turns": spoken})["turns"] == spoken
    assert _of_rollout(row)["turns"] == []
    score = Score("i", "p", None, ["8"], [1.0], {}, [False], turns=[spoken])
    (shown,) = _of_report(Report([score]))
    assert shown["turns"] == spoken


def test_estimates_stand_beside_what_was_measured(tmp_path: Path) -> None:
    plan, run, store = make_run(tmp_path)
    memory = {"low": 300 << 20, "expected": 400 << 20, "high": 500 << 20}
    first = plan.stages[0].model_copy(
        update={"estimate": {"memory": memory, "seconds": 5.0}, "name": "made"}
    )
    plan = plan.model_copy(update={"stages": (first, *plan.stages[1:])})
    state = json.loads((run / "run.json").read_text())
    state["stages"]["made"] = {
        "state": "completed",
        "key": "",
        "made_in_seconds": 7.0,
        "peak_bytes": 600 << 20,
    }
    (run / "run.json").write_text(json.dumps(state))
    page = write_report(plan, run, store, graph_svg="").read_text()
    row = page.split("Estimates and measurements")[1].split("<h2>")[0]
    for words in ("400 MiB", "300 MiB – 500 MiB", "600 MiB", "+50%", "outside", "5.0 s", "7.0 s"):
        assert words in row, words
