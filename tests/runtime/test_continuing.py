"""More rounds go on from a shorter repeat, to the same bytes as one that never stopped."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from grape.compiler.plan import Plan
from grape.compiler.program import load
from grape.runtime import worker
from grape.runtime.preparing import prepare
from grape.runtime.store import Store

TINY = Path(__file__).parents[2] / "pipelines" / "tiny"


def planned(project: Path, rounds: int) -> Plan:
    file = project / "quickstart.grape"
    return prepare(load(file, sets={"rounds": str(rounds)}).graph(), file)


def make(plan: Plan, *names: str) -> bytes:
    """Make these stages; the weights of the last one."""
    store = Store(Path(plan.project) / ".grape" / "store")
    for name in names:
        stage = plan.stage(name)
        if not store.has(stage.key):
            job = {
                "stage": stage.model_dump(mode="json"),
                "store": str(store.root),
                "project": plan.project,
                "keys": {stage.name: stage.key for stage in plan.stages},
                "kinds": {stage.name: stage.type for stage in plan.stages},
            }
            worker._run(job, worker.Events(os.open(os.devnull, os.O_WRONLY)))
    return (store.path(plan.stage(names[-1]).key) / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(TINY, folder, dirs_exist_ok=True)
    file = folder / "quickstart.grape"
    text = file.read_text().replace("prompts = 16, group = 8", "prompts = 4, group = 4")
    file.write_text(text.replace("algorithm = grpo(), lr = 1e-5", "algorithm = grpo(), lr = 1e-2"))
    make(planned(folder, 1), "sums", "base", "warm")
    return folder


def copy(project: Path, to: Path) -> Path:
    shutil.copytree(project, to, dirs_exist_ok=True)
    return to


def test_more_rounds_go_on_and_give_the_same_bytes(project: Path, tmp_path: Path) -> None:
    through = make(planned(copy(project, tmp_path / "through"), 3), "policy")
    stopped = copy(project, tmp_path / "stopped")
    short = make(planned(stopped, 2), "policy")
    plan = planned(stopped, 3)
    stage = plan.stage("policy")
    assert (stage.state, stage.done) == ("resume", 2)
    assert make(plan, "policy") == through != short
    assert planned(stopped, 3).stage("policy").state == "cached"
    assert Store(stopped / ".grape" / "store").rounds_of(stage.family, 4) == 3


def test_the_reports_of_the_first_rounds_are_part_of_the_longer_repeat(
    project: Path, tmp_path: Path
) -> None:
    def tree(plan: Plan) -> dict[str, bytes]:
        make(plan, "policy")
        folder = Store(Path(plan.project) / ".grape" / "store").path(plan.stage("policy").key)
        found = (folder / "reports").rglob("*")
        return {
            str(path.relative_to(folder)): path.read_bytes() for path in found if path.is_file()
        }

    folders = [copy(project, tmp_path / name) for name in ("through", "stopped")]
    for folder in folders:
        file = folder / "quickstart.grape"
        probe = "every 1 { stage seen = evaluate(policy, sums.train, right()) { max_tokens = 2 } }"
        file.write_text(
            file.read_text().replace("    next policy", f"    {probe}\n    next policy")
        )
    through, stopped = folders
    make(planned(stopped, 1), "policy")
    assert planned(stopped, 3).stage("policy").done == 1
    reports = tree(planned(stopped, 3))
    assert reports == tree(planned(through, 3)) and len(reports) > 3


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("lr = 1e-2", 'lr = 1e-2, schedule = "linear"'),
        ("lr = 1e-2", "lr = 1e-2, warmup = 10%"),
    ],
)
def test_a_schedule_over_all_rounds_cannot_simply_go_on(
    project: Path, tmp_path: Path, old: str, new: str
) -> None:
    folder = copy(project, tmp_path / "p")
    file = folder / "quickstart.grape"
    file.write_text(file.read_text().replace(old, new))
    assert planned(folder, 3).stage("policy").family == ""


def test_fewer_rounds_or_another_body_do_not_go_on(project: Path, tmp_path: Path) -> None:
    folder = copy(project, tmp_path / "p")
    store = Store(folder / ".grape" / "store")
    stage = planned(folder, 3).stage("policy")
    (store.scratch(stage.key) / "checkpoint").mkdir()
    (store.scratch(stage.key) / "checkpoint" / "state.pt").write_bytes(b"state")
    store.keep_state(stage.key, stage.family, 3)
    assert planned(folder, 2).stage("policy").state == "run"
    assert planned(folder, 4).stage("policy").done == 3
    file = folder / "quickstart.grape"
    file.write_text(file.read_text().replace("lr = 1e-2", "lr = 2e-2"))
    assert planned(folder, 4).stage("policy").state == "run"
