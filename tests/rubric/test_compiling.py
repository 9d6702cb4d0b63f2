"""A rubric in a pipeline: its models are edges, its items are parts, its options are settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grape.compiler.graph import Stage
from grape.compiler.planning import make_plan
from grape.compiler.program import Program, load

TINY = Path(__file__).parents[2] / "pipelines" / "tiny"

FILE = """grape 1

algorithm kinder(weight: float = 0.5) on Rollouts {
  let wanted = reward + weight * reward.kind
  maximize mean(mean((wanted - mean(wanted per group)) * logp per sequence) per batch)
}

rubric tutor(model: Model, strict: Model, much: float = 2) {
  category sums when topic == "sums" {
    item right weight 1 + much = exact(extract = "number", of = "sum")
    item kind weight 1 = ask(model, "Is it kind to {name}?")
  }
  category talk {
    item kind weight 0.5 = ask(strict, "How kind is it?", scale = 5)
  }
}

pipeline p() {
  data tasks = jsonl("data/tutor.jsonl") { prompt = "{question}", split = 75% }
  model base = fresh("llama", tasks) { context = 512 }
  model one = fresh("gpt2", tasks)
  model big = served("http://localhost:8000/v1") { model = "big" }
  repeat 2 with policy = base {
    stage tries = sample(policy, tasks.train) { prompts = 2, group = 2, max_tokens = 4 }
    stage scored = score(tries, tutor(one, strict = big, much = 3)) {
      combine = confidence(normalize = "none")
    }
    next policy = train(policy, scored) { algorithm = kinder(), lr = 1e-5 }
  }
  stage after = evaluate(policy, tasks.test, tutor(model = policy, strict = big))
  check after.part.kind >= 0
  output policy as "models/p"
}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    text = (TINY / "data" / "tutor.jsonl").read_text()
    (tmp_path / "data" / "tutor.jsonl").write_text(text)
    return tmp_path


def loaded(project: Path, text: str = FILE) -> Program:
    file = project / "p.grape"
    file.write_text(text)
    return load(file)


def stage(program: Program, name: str) -> Stage:
    graph = program.graph()
    inner = [stage for outer in graph.stages for stage in outer.body]
    return next(stage for stage in (*graph.stages, *inner) if stage.name == name)


def test_models_are_edges_and_items_are_parts(project: Path) -> None:
    program = loaded(project)
    assert program.findings == []
    scored = stage(program, "scored")
    assert [(e.port, e.source) for e in scored.inputs] == [
        ("rollouts", "tries"), ("model", "one"), ("strict", "big"),
    ]  # fmt: skip
    assert scored.type.parts == {"right", "kind"}
    after = stage(program, "after")
    assert {e.port: e.source for e in after.inputs} == {
        "model": "policy", "prompts": "tasks", "model_critic": "policy", "strict": "big",
    }  # fmt: skip
    assert after.settings["combine"] == {
        "kind": "confidence", "scope": "group", "decay": 0.9, "normalize": "sum",
        "uncertain": "weights",
    }  # fmt: skip
    assert scored.settings["combine"]["normalize"] == "none"


def test_a_rubric_is_plain_json_in_the_plan(project: Path) -> None:
    reward = stage(loaded(project), "scored").reward
    assert reward is not None and json.loads(json.dumps(reward)) == reward
    sums, talk = reward["categories"]
    assert sums["when"]["op"] == "==" and talk["when"] is None
    assert [item["weight"] for item in sums["items"]] == [4.0, 1.0]
    assert sums["items"][1]["ask"] == {
        "critic": "model", "question": "Is it kind to {name}?", "scale": None,
    }  # fmt: skip


def keys(program: Program, project: Path) -> dict[str, str]:
    plan = make_plan(
        program.graph(), project=project, file="p", state_of=lambda key: "run", previous=None
    )
    return {stage.name: stage.key for stage in plan.stages}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('{ model = "big" }', '{ model = "bigger" }'),
        ("Is it kind to", "Is it rude to"),
        ("weight 0.5", "weight 0.7"),
        ('normalize = "none"', 'scope = "batch"'),
        ("tutor(one,", "tutor(base,"),
        ('topic == "sums"', 'topic != "talk"'),
    ],
)
def test_what_changes_a_judgement_changes_the_key(project: Path, old: str, new: str) -> None:
    before = keys(loaded(project), project)
    after = keys(loaded(project, FILE.replace(old, new)), project)
    assert before["policy"] != after["policy"] and before["base"] == after["base"]


def test_the_order_of_named_models_changes_no_key(project: Path) -> None:
    named = FILE.replace("tutor(one, strict = big,", "tutor(strict = big, model = one,")
    assert keys(loaded(project), project) == keys(loaded(project, named), project)


@pytest.mark.parametrize(
    ("old", "new", "code", "words"),
    [
        ("reward.kind", "reward.kinds", "G", "kind"),
        ("tutor(one, strict = big", "tutor(one", "G203", "needs the model `strict`"),
        ("tutor(one, strict = big", "tutor(tasks, strict = big", "G201", "is a model"),
        ('"Is it kind to {name}?"', "much", "G202", "the question is a text"),
        ("ask(model,", "ask(much,", "G253", "no model of this rubric"),
        ("scale = 5", "scale = 20", "G202", "from 2 to 9"),
        ("item kind weight 1 =", "item right weight 1 =", "G102", "defined twice"),
        ("category talk {", "category sums {", "G102", "defined twice"),
        ('of = "sum"', 'of = "answer"', "G214", "answer"),
        ("to {name}?", "to {answer}?", "G214", "answer"),
        ("policy = base", "policy = big", "G250", "served"),
        ("output policy", "output big", "G250", "served"),
        ("(policy, scored)", "(policy, scored, reference = big)", "G250", "served"),
        ('confidence(normalize = "none")', 'confidence(scope = "all")', "G202", "scope"),
        ('confidence(normalize = "none")', "3", "G202", "combine"),
        ("model: Model, strict", "model: Model = 3, strict", "G206", "no default"),
    ],
)
def test_mistakes_are_told(project: Path, old: str, new: str, code: str, words: str) -> None:
    assert old in FILE
    found = loaded(project, FILE.replace(old, new)).findings
    assert any(f.code.startswith(code) and words in f.message for f in found), found


@pytest.mark.parametrize(
    ("call", "code"),
    [
        ('json_schema(schema = "[1]")', "G113"),
        ('json_schema(schema = "{,}")', "G202"),
        ('json_schema(schema = "../s.json")', "G702"),
        ('sql(database = "none.sqlite")', "G113"),
        ('sql(database = "../a.sqlite")', "G702"),
        ('sql(database = "a", schema = "b")', "G203"),
        ("unit_tests(timeout = 5)", "G202"),
        ("unit_tests(memory = 1MiB)", "G202"),
        ('unit_tests(sandbox = "none")', "G202"),
        ('classifier("models/none")', "G111"),
        ('classifier("hf:x")', "G111"),
        ('math(off = "answer")', "G108"),
        ('ask(judge, "Kind?")', "G253"),
    ],
)
def test_wrong_parameters_of_the_other_rewards(project: Path, call: str, code: str) -> None:
    found = loaded(project, f"grape 1\n\nreward r() = {call}\n").findings
    assert [finding.code for finding in found] == [code]


def test_a_running_average_is_in_the_checkpoint(tmp_path: Path) -> None:
    from grape.runtime.rounds import _restore, _save
    from grape.runtime.verbs.fresh import new_model, train_tokenizer

    settings = {
        "architecture": "llama", "layers": 1, "hidden": 16, "heads": 2, "kv_heads": None,
        "intermediate": None, "context": 64,
    }  # fmt: skip
    policy = new_model(settings, train_tokenizer(iter(["a"]), 260), seed=1)
    _save(tmp_path, policy, {"scored": {"memory": {"tutor.sums.kind": 0.25}}, "tries": {}}, 3, 5)
    states: dict[str, dict[str, object]] = {"scored": {}, "tries": {}}
    assert _restore(tmp_path, policy, states, 5) == 3
    assert states == {"scored": {"memory": {"tutor.sums.kind": 0.25}}, "tries": {}}
