"""Keys and reasons on graphs made by hand: rewards, files, wiring, repeats, estimates."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from grape.compiler.formula.ir import Formula, Term
from grape.compiler.formula.levels import Level
from grape.compiler.graph import Edge, Graph, Output, Stage
from grape.compiler.keys import Files, model_path
from grape.compiler.plan import Plan, PlannedStage
from grape.compiler.planning import documents_of, make_plan
from grape.compiler.showing import plan_text
from grape.compiler.types import ArtifactType
from grape.dsl.source import Source, Span

SPAN = Span(Source("p.grape", "grape 1\n"), 0, 7)
TRAIN = {
    "lr": 1e-5,
    "epochs": 1,
    "sequences_per_update": None,
    "updates": None,
    "overlong": "error",
    "checkpoint": 300.0,
    "micro_tokens": 4096,
}
SAMPLE = {"prompts": 4, "group": 8, "max_tokens": 16}
EXACT: dict[str, Any] = {"op": "call", "name": "exact", "part": "exact", "params": {}}
PYTHON: dict[str, Any] = {
    "op": "call",
    "name": "python",
    "part": "mine",
    "params": {"source": "mine.py:f"},
}


def formula(scale: float = 1.0, name: str = "reinforce") -> Formula:
    terms = (
        Term("input", (), (("name", "logp"),), Level.TOKEN, True, True),
        Term("const", (), (("value", scale),), Level.BATCH, False, False),
    )
    return Formula(
        name, "Rollouts", (), terms, "maximize", 0, (), frozenset({"logp"}), Level.SEQUENCE
    )


def stage(name: str, verb: str, made: str, *inputs: Edge, **rest: Any) -> Stage:
    settings = rest.pop("settings", {})
    return Stage(
        name, verb, ArtifactType(made), inputs, settings, frozenset(settings), SPAN, **rest
    )


def edge(port: str, source: str, view: str | None = None) -> Edge:
    return Edge(port, source, view, SPAN)


def body(reward: dict[str, Any]) -> tuple[Stage, ...]:
    return (
        stage(
            "drawn",
            "sample",
            "Rollouts",
            edge("model", "policy"),
            edge("prompts", "sums"),
            settings=SAMPLE,
        ),
        stage(
            "scored",
            "score",
            "Rollouts",
            edge("rollouts", "drawn"),
            reward=reward,
            settings={"on_error": "stop", "timeout": 10.0},
        ),
        stage(
            "next",
            "train",
            "Model",
            edge("model", "policy"),
            edge("data", "scored"),
            settings=TRAIN,
            formula=formula(),
        ),
    )


def graph(reward: dict[str, Any] = EXACT) -> Graph:
    stages = (
        stage("sums", "jsonl", "Data", settings={"path": "sums.jsonl", "prompt": "{a}"}),
        stage("base", "fresh", "Model", settings={"tokenizer": "bytes", "layers": 2}),
        stage(
            "warm",
            "train",
            "Model",
            edge("model", "base"),
            edge("data", "sums"),
            settings=TRAIN,
            formula=formula(),
        ),
        stage(
            "policy",
            "repeat",
            "Model",
            edge("start", "warm"),
            edge("sums", "sums"),
            settings={"rounds": 3},
            body=body(reward),
            next="next",
        ),
        stage(
            "after",
            "evaluate",
            "Report",
            edge("model", "policy"),
            edge("prompts", "sums"),
            reward=reward,
            settings={"prompts": None, "group": 1, "on_error": "stop", "timeout": 10.0},
        ),
    )
    return Graph("p", {}, {}, stages, (), (), SPAN)


def changed(before: Graph, name: str, **fields: Any) -> Graph:
    """The graph with one stage, or one stage of the repeat (`policy.next`), replaced."""
    outer, _, inner = name.partition(".")
    stages = []
    for item in before.stages:
        if item.name == outer and inner:
            inside = [replace(b, **fields) if b.name == inner else b for b in item.body]
            item = replace(item, body=tuple(inside))
        elif item.name == outer:
            item = replace(item, **fields)
        stages.append(item)
    return replace(before, stages=tuple(stages))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "sums.jsonl").write_text('{"a": 1}\n')
    (tmp_path / "mine.py").write_text("def f(completion): return 1.0\n")
    return tmp_path


def plan(
    of: Graph, project: Path, cached: frozenset[str] = frozenset(), previous: Any = None
) -> Plan:
    def state_of(key: str) -> Literal["cached", "run", "resume"]:
        return "cached" if key in cached else "run"

    return make_plan(of, project=project, file="p.grape", state_of=state_of, previous=previous)


def keys(of: Graph, project: Path) -> dict[str, str]:
    return {item.name: item.key for item in plan(of, project).stages}


def differing(one: Graph, other: Graph, project: Path) -> set[str]:
    before, after = keys(one, project), keys(other, project)
    return {name for name in before if before[name] != after[name]}


def reasons(before: Graph, now: Graph, project: Path) -> dict[str, str]:
    """Why stages run when everything of `before` is in the store."""
    documents = json.loads(json.dumps(documents_of(before, project, Files(None))))
    made = plan(now, project, frozenset(keys(before, project).values()), documents)
    return {item.name: item.reason for item in made.stages if item.state != "cached"}


# --- keys -------------------------------------------------------------------------------------


def test_the_order_of_stages_and_of_named_inputs_changes_nothing(project: Path) -> None:
    one = graph()
    sums, base, *rest = one.stages
    assert not differing(one, replace(one, stages=(base, sums, *rest)), project)
    given = (edge("model", "base"), edge("data", "sums"), edge("reference", "base"))
    turned = (edge("model", "base"), edge("reference", "base"), edge("data", "sums"))
    with_one, with_other = (changed(one, "warm", inputs=inputs) for inputs in (given, turned))
    assert not differing(with_one, with_other, project)
    assert "warm" in differing(one, with_one, project)


def test_documentation_algorithm_names_and_outputs_change_nothing(project: Path) -> None:
    one = graph()
    two = changed(one, "warm", doc="Imitation.", formula=formula(name="my_own"))
    two = replace(two, outputs=(Output("policy", None, "models/x", SPAN),))
    assert not differing(one, two, project)


def test_names_inside_a_repeat_change_nothing(project: Path) -> None:
    one = graph()
    drawn, scored, last = body(EXACT)
    renamed = (
        replace(drawn, name="samples"),
        replace(scored, name="marked", inputs=(edge("rollouts", "samples"),)),
        replace(last, inputs=(edge("model", "policy"), edge("data", "marked"))),
    )
    assert not differing(one, changed(one, "policy", body=renamed), project)


def test_wiring_inside_a_repeat_changes_it(project: Path) -> None:
    one = graph()
    inputs = (edge("model", "warm"), edge("prompts", "sums"))
    assert differing(one, changed(one, "policy.drawn", inputs=inputs), project) == {
        "policy",
        "after",
    }


def test_a_reward_changes_what_scores_and_what_follows(project: Path) -> None:
    assert differing(graph(), graph({**EXACT, "name": "contains"}), project) == {"policy", "after"}


def test_the_file_of_a_python_reward_is_in_the_key(project: Path) -> None:
    one = graph({"op": "*", "args": [{"op": "number", "value": 2}, PYTHON]})
    before = keys(one, project)
    (project / "mine.py").write_text("def f(completion): return 2.0\n")
    after = keys(one, project)
    assert {name for name in before if before[name] != after[name]} == {"policy", "after"}


def test_neutral_settings_are_neutral_for_their_verb_only(project: Path) -> None:
    one = graph()
    train = {**TRAIN, "checkpoint": 1.0, "micro_tokens": 1}
    assert not differing(one, changed(one, "policy.next", settings=train), project)
    assert "base" in differing(
        one, changed(one, "base", settings={"tokenizer": "bytes", "checkpoint": 1.0}), project
    )


def test_a_timeout_counts_where_a_late_reward_gets_a_number(project: Path) -> None:
    for on_error, expected in (("stop", set()), (0.0, {"policy", "after"})):
        one, two = (
            changed(graph(), "policy.scored", settings={"on_error": on_error, "timeout": seconds})
            for seconds in (10.0, 20.0)
        )
        assert differing(one, two, project) == expected


def test_a_file_is_digested_by_content_and_remembered(project: Path) -> None:
    (project / ".grape").mkdir()
    before = keys(graph(), project)
    memory = project / ".grape" / "digests.json"
    assert str(project / "sums.jsonl") in json.loads(memory.read_text())
    os.utime(project / "sums.jsonl", (1, 1))
    assert keys(graph(), project) == before
    memory.write_text("{half")
    assert keys(graph(), project) == before
    (project / "sums.jsonl").write_text('{"a": 2}\n')
    assert keys(graph(), project) != before


def test_a_model_folder_is_its_files_and_their_names(project: Path) -> None:
    model = project / "model"
    (model / "deep").mkdir(parents=True)
    (model / "deep" / "a").write_text("1")
    before = Files(None).digest(model)
    (model / "deep" / "a").rename(model / "b")
    assert Files(None).digest(model) != before


def test_a_missing_file_is_named_with_its_stage(project: Path) -> None:
    (project / "sums.jsonl").unlink()
    with pytest.raises(ValueError, match=r"`sums`: there is no file or folder `.*sums\.jsonl`"):
        plan(graph(), project)


def test_a_package_is_found_and_never_imported(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = project / "a_shipped_model"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "weights.gguf").write_text("weights")
    monkeypatch.syspath_prepend(str(project))
    importlib.invalidate_caches()
    found = model_path("package:a_shipped_model/weights.gguf", project)
    assert found == package / "weights.gguf" and "a_shipped_model" not in sys.modules
    for name in ("not_there_at_all", "a_shipped_model.inner", ""):
        with pytest.raises(ValueError, match="is not installed"):
            model_path(f"package:{name}/x", project)


# --- reasons ----------------------------------------------------------------------------------


def test_without_an_earlier_run_nothing_is_made_yet(project: Path) -> None:
    assert {item.reason for item in plan(graph(), project).stages} == {"not made yet"}


def test_a_setting_is_named_with_both_values(project: Path) -> None:
    now = changed(graph(), "warm", settings={**TRAIN, "lr": 2e-5, "epochs": 2})
    assert reasons(graph(), now, project) == {
        "warm": "epochs: 1 → 2, lr: 1e-05 → 2e-05",
        "policy": "downstream of `warm`",
        "after": "downstream of `policy`",
    }


def test_a_change_inside_a_repeat_names_the_stage(project: Path) -> None:
    now = changed(graph(), "policy.next", settings={**TRAIN, "lr": 2e-5})
    assert reasons(graph(), now, project)["policy"] == "lr of `next`: 1e-05 → 2e-05"
    now = graph({**EXACT, "name": "contains"})
    assert reasons(graph(), now, project) == {
        "policy": 'reward of `scored` name: "exact" → "contains"',
        "after": 'reward name: "exact" → "contains", downstream of `policy`',
    }


def test_changed_data_is_named_where_it_is_used(project: Path) -> None:
    now = changed(graph(), "sums", settings={"path": "sums.jsonl", "prompt": "{a} is"})
    assert reasons(graph(), now, project) == {
        "sums": 'prompt: "{a}" → "{a} is"',
        "warm": "input `sums` changed",
        "policy": "downstream of `warm`",
        "after": "downstream of `policy`",
    }


def test_an_algorithm_and_other_wiring_are_named(project: Path) -> None:
    now = changed(graph(), "warm", formula=formula(2.0))
    assert reasons(graph(), now, project)["warm"] == "algorithm: 1.0 → 2.0"
    now = changed(graph(), "after", inputs=(edge("model", "warm"), edge("prompts", "sums")))
    assert reasons(graph(), now, project) == {"after": "takes other inputs"}


def test_a_file_that_changed_is_said_to_have(project: Path) -> None:
    documents = documents_of(graph(), project, Files(None))
    (project / "sums.jsonl").write_text('{"a": 3}\n')
    found = {item.name: item.reason for item in plan(graph(), project, previous=documents).stages}
    assert found["sums"] == "data changed on disk" and found["base"] == "not made yet"


# --- estimates --------------------------------------------------------------------------------


def estimate(of: Graph, project: Path, **train: Any) -> tuple[dict[str, Any], PlannedStage]:
    of = changed(of, "policy.next", settings={**TRAIN, **train})
    made = plan(of, project).stage("policy")
    return made.body[-1].estimate, made


@pytest.mark.parametrize(
    ("train", "updates"),
    [
        ({}, 1),
        ({"sequences_per_update": 16}, 2),
        ({"sequences_per_update": 17}, 2),
        ({"sequences_per_update": 4}, 4),
        ({"sequences_per_update": 8, "epochs": 3}, 12),
        ({"sequences_per_update": 8, "epochs": 3, "updates": 5}, 5),
    ],
)
def test_updates_of_rollouts_are_counted_in_whole_groups(
    project: Path, train: dict[str, Any], updates: int
) -> None:
    found, region = estimate(graph(), project, **train)
    assert found == {"sequences": 32, "updates": updates}
    assert region.estimate == {"rounds": 3, "completions": 96, "updates": 3 * updates}


def test_what_only_the_data_tells_is_left_out(project: Path) -> None:
    assert plan(graph(), project).stage("warm").estimate == {}
    found, region = estimate(graph(), project, overlong="drop")
    assert found == {} and region.estimate == {"rounds": 3, "completions": 96}


def test_the_table_says_state_reason_and_numbers(project: Path) -> None:
    lines = plan_text(plan(graph(), project)).splitlines()
    row = next(line for line in lines if line.split()[:1] == ["drawn"])
    assert row.endswith("4 prompts × 8 = 32 completions, ≤ 16 tokens")
    assert any(line.split()[:4] == ["policy", "repeat", "run", "not"] for line in lines)
    assert lines[-1] == "5 of 5 stages to run"
