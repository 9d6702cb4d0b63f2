"""Plans: what re-keys a stage and what does not, and the reasons that are given."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from grape.compiler.document import document
from grape.compiler.draw import FORMATS
from grape.compiler.keys import Files
from grape.compiler.plan import Plan
from grape.compiler.planning import documents_of, make_plan
from grape.compiler.program import load
from grape.compiler.showing import plan_text

TINY = Path(__file__).parents[2] / "pipelines" / "tiny"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copytree(TINY, tmp_path / "tiny")
    return tmp_path / "tiny" / "quickstart.grape"


def planned(file: Path, cached: frozenset[str] = frozenset(), before: Any = None) -> Plan:
    program = load(file)
    assert program.ok, program.findings
    return make_plan(
        program.graph(),
        project=file.parent,
        file=str(file),
        state_of=lambda key: "cached" if key in cached else "run",
        previous=before,
    )


def keys(file: Path) -> dict[str, str]:
    return {stage.name: stage.key for stage in planned(file).stages}


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_comments_and_names_change_nothing(project: Path) -> None:
    before = keys(project)
    edit(project, "stage rollouts", "## Drawn from the policy.\n    stage samples")
    edit(project, "score(rollouts", "score(samples")
    edit(project, "stage warm", "# a comment\n  stage first")
    edit(project, "policy = warm", "policy = first")
    edit(project, "evaluate(warm", "evaluate(first")
    after = keys(project)
    assert after.pop("first") == before.pop("warm")
    assert after == before


def test_a_reward_rekeys_itself_and_what_follows(project: Path) -> None:
    before = keys(project)
    edit(project, 'extract = "number"', 'extract = "text"')
    after = keys(project)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"policy", "untrained", "before", "after"}


def test_neutral_settings_change_nothing(project: Path) -> None:
    before = keys(project)
    edit(project, "lr = 1e-4", "lr = 1e-4\n    micro_tokens = 64\n    checkpoint = 1min")
    assert keys(project) == before


def test_edited_data_rekeys_everything_that_reads_it(project: Path) -> None:
    before = keys(project)
    data = project.parent / "data" / "sums.jsonl"
    data.write_text(data.read_text() + '{"a": 1, "b": 1, "sum": 2}\n')
    after = keys(project)
    assert all(before[name] != after[name] for name in before)


def test_reasons_name_the_first_difference(project: Path) -> None:
    graph = load(project).graph()
    documents = documents_of(graph, project.parent, Files(None))
    kept = frozenset(keys(project).values())
    edit(project, "lr = 1e-4", "lr = 2e-4")
    reasons = {stage.name: stage.reason for stage in planned(project, kept, documents).stages}
    assert reasons["sums"] == "in the store"
    assert reasons["warm"] == "lr: 0.0001 → 0.0002"
    assert reasons["policy"] == "downstream of `warm`"


def test_plans_survive_json_and_show_every_stage(project: Path) -> None:
    plan = planned(project)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
    assert [row["name"] for row in document(plan)["stages"]] == [s.name for s in plan.stages]
    assert all(stage.name in plan_text(plan) for stage in plan.stages)


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_drawings_show_every_stage_and_are_stable(project: Path, format: str) -> None:
    graph, plan = load(project).graph(), planned(project)
    text = FORMATS[format](graph, plan)
    assert text == FORMATS[format](load(project).graph(), plan)
    for name in ("base", "sums", "warm", "rollouts", "scored", "after"):
        assert name in text


def test_networkx_has_the_same_graph(project: Path) -> None:
    graph = load(project).graph().to_networkx()
    assert graph.nodes["policy.rollouts"]["region"] == "policy"
    assert graph.has_edge("sums", "warm")


def test_how_many_processes_make_a_stage_is_in_no_key(project: Path) -> None:
    before = keys(project)
    edit(project, "pipeline quickstart(", "pipeline quickstart(processes: int = 3, ")
    plan = planned(project)
    assert {stage.name: stage.key for stage in plan.stages} == before
    made = {stage.name: stage.processes for stage in plan.stages}
    assert made["warm"] == made["policy"] == made["after"] == 3 and made["base"] == 1
    assert "3 processes" in plan_text(plan)


def test_processes_that_are_none_are_refused(project: Path) -> None:
    edit(project, "pipeline quickstart(", "pipeline quickstart(processes: int = 0, ")
    found = load(project).findings
    assert {finding.code for finding in found} == {"G202"}
    assert "`processes` must be at least 1, not 0" in found[0].message
