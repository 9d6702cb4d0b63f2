"""Branches, copies, rounds, parameters and secrets: what they become in graph, plan and key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from grape.compiler.constants import Value
from grape.compiler.copies import label
from grape.compiler.document import document
from grape.compiler.draw import FORMATS
from grape.compiler.keys import Files
from grape.compiler.plan import Plan
from grape.compiler.planning import documents_of, make_plan
from grape.compiler.power import detectable, needed
from grape.compiler.program import Program, load
from grape.compiler.showing import plan_text

HEAD = """grape 1

use sft, grpo from "std/algorithms"

reward right() = exact(extract = "number")

"""
DATA = """  data sums = jsonl("sums.jsonl") {
    prompt = "{a} + {b} ="
    completion = " {sum}"
    answer = "{sum}"
    split = 50%
  }
  model base = fresh("llama", sums)
"""
TUNED = "train(base, sums.train) { algorithm = sft(), lr = 1e-4 }"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [{"a": a, "b": b, "sum": a + b} for a in range(5) for b in range(5)]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "sums.jsonl").write_text(text)
    return tmp_path


def write(folder: Path, body: str, params: str = "") -> Path:
    file = folder / "p.grape"
    file.write_text(f"{HEAD}## What it is for.\npipeline p({params}) {{\n{DATA}{body}}}\n")
    return file


def checked(file: Path, **more: Any) -> Program:
    program = load(file, **more)
    assert program.ok, [(f.code, f.message) for f in program.findings]
    return program


def planned(file: Path, **more: Any) -> Plan:
    graph = checked(file, **more).graph()
    return make_plan(
        graph, project=file.parent, file=str(file), state_of=lambda key: "run", previous=None
    )


def keys(file: Path, **more: Any) -> dict[str, str]:
    return {stage.name: stage.key for stage in planned(file, **more).stages}


def codes(file: Path, **more: Any) -> list[str]:
    """Codes of the findings, apart from imports that a body does not use."""
    return [finding.code for finding in load(file, **more).findings if finding.code != "G106"]


# --- each ---------------------------------------------------------------------------------------

SWEEP = """  each lr in {values} {{
    stage tuned = train(base, sums.train) {{ algorithm = sft(), lr = lr }}
    output tuned as "models/{{lr}}"
  }}
"""


def test_copies_are_named_and_keyed_by_value_not_by_place(folder: Path) -> None:
    before = keys(write(folder, SWEEP.format(values="[1e-4, 1e-5]")))
    after = keys(write(folder, SWEEP.format(values="[3e-5, 0.00001, 0.0001]")))
    assert {'tuned["1e-4"]', 'tuned["1e-5"]'} < set(before)
    assert before.items() < after.items()
    plain = keys(write(folder, f'  stage one = {TUNED}\n  output one as "m"\n'))
    assert plain["one"] == before['tuned["1e-4"]']


def test_a_path_names_its_value(folder: Path) -> None:
    plan = planned(write(folder, SWEEP.format(values="[1e-4, 1e-5]")))
    assert [output.path for output in plan.outputs] == ["models/1e-4", "models/1e-5"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Value(1e-05, "float"), "1e-5"),
        (Value(0.00025, "float"), "2.5e-4"),
        (Value(0.01, "float"), "0.01"),
        (Value(2.0, "float"), "2"),
        (Value(50_000, "int"), "50000"),
        (Value(0.9, "fraction"), "90%"),
        (Value(0.125, "fraction"), "12.5%"),
        (Value(90, "duration"), "90s"),
        (Value(3 * 2**30, "size"), "3GiB"),
        (Value(True, "bool"), "true"),
        (Value("small", "string"), "small"),
    ],
)
def test_a_value_is_written_in_one_way(value: Value, text: str) -> None:
    assert label(value) == text


NESTED = """  each lr in [1e-4, 1e-5] {
    each size in ["short", "long"] {
      stage tuned = train(base, sums.train) {
        algorithm = sft()
        lr = lr
        epochs = if size == "long" then 3 else 1
      }
      stage after = evaluate(tuned, sums.test, right()) { max_tokens = 8 }
      check after.mean >= after[1e-4]["short"].mean
    }
    check after["long"].mean >= after["short"].mean
  }
  check after["1e-5"]["long"].mean > 0
  output tuned[0.0001]["long"] as "models/best"
"""


def test_nested_copies_are_found_from_inside_and_outside(folder: Path) -> None:
    graph = checked(write(folder, NESTED)).graph()
    assert sum(stage.verb == "train" for stage in graph.stages) == 4
    assert graph.outputs[0].source == 'tuned["1e-4"]["long"]'
    tests = {
        check.text: [side.get("stage") for side in check.test["args"]] for check in graph.checks
    }
    assert tests['after["long"].mean >= after["short"].mean  [lr = 1e-5]'] == [
        'after["1e-5"]["long"]',
        'after["1e-5"]["short"]',
    ]
    inner = next(text for text in tests if "lr = 1e-5, size = long" in text)
    assert tests[inner] == ['after["1e-5"]["long"]', 'after["1e-4"]["short"]']


LOOP = """  repeat {rounds} with policy = base {{
    stage tries = sample(policy, sums.train) {{ prompts = 4, group = 4, max_tokens = 8 }}
    stage scored = score(tries, right())
    next policy = train(policy, scored) {{ algorithm = grpo(), lr = {lr} }}
{inside}  }}
"""


def loop(inside: str = "", rounds: str = "4", lr: str = "1e-5") -> str:
    return LOOP.format(inside=inside, rounds=rounds, lr=lr)


def test_each_around_a_repeat_gives_the_keys_of_the_repeats(folder: Path) -> None:
    swept = f'  each lr in [1e-5, 2e-5] {{\n{loop(lr="lr")}    output policy as "m/{{lr}}"\n  }}\n'
    found = keys(write(folder, swept))
    alone = keys(write(folder, loop(lr="2e-5") + '  output policy as "m"\n'))
    assert found['policy["2e-5"]'] == alone["policy"] != found['policy["1e-5"]']


def test_copies_inside_a_repeat_do_not_know_their_order(folder: Path) -> None:
    inside = (
        "    every 2 {{\n      each t in {} {{\n        stage quality = evaluate(policy, "
        "sums.test, right()) {{ max_tokens = 8, temperature = t }}\n      }}\n    }}\n"
    )
    end = '  output policy as "m"\n'
    one = keys(write(folder, loop(inside.format("[0, 1]")) + end))
    other = keys(write(folder, loop(inside.format("[1, 0]")) + end))
    assert one == other


def test_each_over_seeds_sets_the_seed_of_its_stages(folder: Path) -> None:
    output = 'output tuned as "m/{seed}"'
    body = f"  each seed in [1, 2] {{\n    stage tuned = {TUNED}\n    {output}\n  }}\n"
    graph = checked(write(folder, body)).graph()
    seeds = {stage.name: stage.settings["seed"] for stage in graph.stages if stage.verb == "train"}
    assert seeds == {'tuned["1"]': 1, 'tuned["2"]': 2}


# --- if -----------------------------------------------------------------------------------------

CHOICE = f"""  if long {{
    stage tuned = train(base, sums.train) {{ algorithm = sft(), lr = 1e-4, epochs = 3 }}
    stage extra = evaluate(tuned, sums.test, right()) {{ max_tokens = 8 }}
    check extra.mean > 0.5
  }} else {{
    stage tuned = {TUNED}
  }}
  output tuned as "models/tuned"
"""


def test_what_is_skipped_shows_with_the_parameter_that_said_so(folder: Path) -> None:
    file = write(folder, CHOICE, "long: bool = false")
    rows = document(planned(file))["stages"]
    skipped = {row["name"]: row["reason"] for row in rows if row["state"] == "skipped"}
    reason = "`if long` is false: `long` is false (default)"
    assert skipped == {"tuned": reason, "extra": reason}
    assert reason in plan_text(planned(file))
    assert "skipped check extra.mean > 0.5" in plan_text(planned(file))
    rows = document(planned(file, sets={"long": "true"}))["stages"]
    skipped = {row["name"]: row["reason"] for row in rows if row["state"] == "skipped"}
    assert skipped == {"tuned": "`if long` is true: `long` is true (--set)"}


@pytest.mark.parametrize("format", sorted(FORMATS))
def test_what_is_skipped_is_drawn(folder: Path, format: str) -> None:
    graph = checked(write(folder, CHOICE, "long: bool = false")).graph()
    text = FORMATS[format](graph, None)
    assert "extra" in text and "skipped" in text


def test_a_branch_gives_the_same_key_as_without_if(folder: Path) -> None:
    branched = keys(write(folder, CHOICE, "long: bool = false"))
    plain = keys(write(folder, f'  stage tuned = {TUNED}\n  output tuned as "models/tuned"\n'))
    assert branched == plain


def test_an_if_inside_a_repeat_chooses_the_next(folder: Path) -> None:
    body = loop().replace(
        "    next policy = train(policy, scored) { algorithm = grpo(), lr = 1e-5 }\n",
        "    if kl {\n      next policy = train(policy, scored) { algorithm = grpo(beta = 0.1) }\n"
        "    } else {\n      next policy = train(policy, scored) { algorithm = grpo() }\n    }\n",
    )
    plan = planned(write(folder, body + '  output policy as "m"\n', "kl: bool = false"))
    assert [stage.name for stage in plan.skipped] == ["policy.next policy"]
    assert [stage.name for stage in plan.stage("policy").body] == ["tries", "scored", "next"]


# --- every and until ----------------------------------------------------------------------------

WATCHED = """    every 2 {
      stage quality = evaluate(policy, sums.test, right()) { max_tokens = 8 }
    }
    until quality.mean > 0.9 or scored.mean > 0.95
"""


def test_every_and_until_reach_the_plan_after_the_next_model(folder: Path) -> None:
    plan = planned(write(folder, loop(WATCHED) + '  output policy as "m"\n'))
    policy = plan.stage("policy")
    assert [stage.name for stage in policy.body] == ["tries", "scored", "next", "quality"]
    assert policy.body[-1].every == 2 and policy.body[-1].inputs["model"].stage == "policy"
    assert [until.text for until in policy.until] == ["quality.mean > 0.9 or scored.mean > 0.95"]
    assert "every 2 rounds" in plan_text(plan) and "until quality.mean" in plan_text(plan)
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


def test_another_threshold_or_period_is_another_repeat(folder: Path) -> None:
    end = '  output policy as "m"\n'
    found = {
        keys(write(folder, loop(inside) + end))["policy"]
        for inside in ("", WATCHED, WATCHED.replace("0.95", "0.8"), WATCHED.replace("2 {", "3 {"))
    }
    assert len(found) == 4
    renamed = loop(WATCHED).replace("quality", "how_good").replace("scored", "judged") + end
    assert keys(write(folder, renamed))["policy"] in found


# --- parameters ---------------------------------------------------------------------------------


def test_later_layers_win_and_the_plan_says_which(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = "train(base, sums.train) { algorithm = sft(), lr = lr, epochs = epochs }"
    body = f'  stage tuned = {tuned}\n  output tuned as "m"\n'
    file = write(folder, body, 'lr: float = env("GRAPE_LR"), epochs: int = 1')
    monkeypatch.setenv("GRAPE_LR", "3e-5")
    params = folder / "run.toml"
    params.write_text("lr = 4e-5\n")
    seen = []
    for more in (
        {},
        {"params_file": params},
        {"params_file": params, "sets": {"lr": "5e-5"}},
    ):
        plan = planned(file, **more)
        seen.append((plan.params["lr"], plan.layers["lr"], plan.layers["epochs"]))
    assert seen == [
        (3e-5, 'env("GRAPE_LR")', "default"),
        (4e-5, "params file", "default"),
        (5e-5, "--set", "default"),
    ]
    assert 'lr = 3e-05 (env("GRAPE_LR"))' in plan_text(planned(file))
    monkeypatch.delenv("GRAPE_LR")
    assert codes(file) == ["G208"] and codes(file, params_file=params) == []


def test_env_in_a_setting_is_read_as_a_value_and_shown(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = 'train(base, sums.train) { algorithm = sft(), lr = env("GRAPE_LR") }'
    file = write(folder, f'  stage tuned = {tuned}\n  output tuned as "m"\n')
    monkeypatch.setenv("GRAPE_LR", "1e-4")
    stage = planned(file).stage("tuned")
    assert stage.settings["lr"] == 1e-4 and stage.layers == {"lr": 'env("GRAPE_LR")'}
    assert 'lr from env("GRAPE_LR")' in plan_text(planned(file))
    monkeypatch.setenv("GRAPE_LR", "fast")
    assert codes(file) == ["G202"]
    monkeypatch.delenv("GRAPE_LR")
    found = load(file).findings
    assert [f.code for f in found] == ["G208"] and "export GRAPE_LR" in str(found[0].hint)


def test_a_broken_constraint_shows_value_and_constraint_where_they_stand(folder: Path) -> None:
    body = f'  stage tuned = {TUNED}\n  output tuned as "m"\n'
    file = write(folder, body, "lr: float = 1e-5 where 0 < lr and lr < 1e-2")
    params = folder / "run.toml"
    params.write_text("# mine\nlr = 0.5\n")
    (found,) = load(file, params_file=params).findings
    assert found.code == "G210" and "0.5" in found.message and "lr < 1e-2" in found.message
    assert (Path(found.span.source.path).name, found.span.line) == ("run.toml", 2)
    assert Path(found.labels[0].span.source.path).name == "p.grape"


def test_lists_come_from_every_layer(folder: Path) -> None:
    file = write(folder, SWEEP.format(values="lrs"), "lrs: [float] = [1e-4]")
    params = folder / "run.toml"
    params.write_text("lrs = [1e-5, 2e-5]\n")
    for more, names in (
        ({}, ["1e-4"]),
        ({"params_file": params}, ["1e-5", "2e-5"]),
        ({"sets": {"lrs": "[3e-5]"}}, ["3e-5"]),
    ):
        outputs = planned(file, **more).outputs
        assert [output.path for output in outputs] == [f"models/{name}" for name in names]


# --- secrets, power, documentation ---------------------------------------------------------------


def test_a_plan_holds_the_name_of_a_secret_only(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = '  model gated = pretrained("hf:org/name") { token = key }\n  output gated as "m"\n'
    file = write(folder, body, 'key: string = secret("GRAPE_KEY")')
    without = documents_of(checked(file).graph(), folder, Files(None))
    monkeypatch.setenv("GRAPE_KEY", "hunter2-very-secret")
    plan = planned(file)
    documents = documents_of(checked(file).graph(), folder, Files(None))
    assert documents == without and "GRAPE_KEY" in json.dumps(documents["gated"])
    shown = plan_text(plan) + json.dumps(document(plan)) + plan.model_dump_json()
    assert "hunter2" not in shown + json.dumps(documents)
    for format in FORMATS.values():
        assert "hunter2" not in format(checked(file).graph(), plan)
    assert codes(file, sets={"key": "hunter2"}) == ["G236"]


def test_the_detectable_difference_is_that_of_the_paired_test() -> None:
    """Two-sided 95 % is one-sided 97.5 %: the table value is (1.96 + 0.84)^2 · 0.1 / 0.02^2."""
    assert detectable(1962, 0.975) == pytest.approx(0.02, abs=2e-5)
    assert detectable(50, 0.95) == pytest.approx(0.1237, abs=1e-3)
    assert detectable(needed(0.95), 0.95) <= 0.05 < detectable(needed(0.95) - 1, 0.95)


def test_a_plan_counts_the_rows_of_files_for_its_power_warning(folder: Path) -> None:
    body = (
        f"  stage tuned = {TUNED}\n  stage a = evaluate(base, sums.test, right())\n"
        "  stage b = evaluate(tuned, sums.test, right())\n"
        '  check b.mean > a.mean with 95%\n  output tuned as "m"\n'
    )
    program = checked(write(folder, body))
    assert codes(folder / "p.grape") == []
    (found,) = program.plan_findings("p")
    assert found.code == "G237" and "on 13 items" in found.message
    allow = "with 95%  # grape: allow G237: a smoke test"
    allowed = checked(write(folder, body.replace("with 95%", allow)))
    assert codes(folder / "p.grape") == [] and allowed.plan_findings("p") == []


def test_documentation_reaches_graph_and_plan(folder: Path) -> None:
    body = (
        f"  ## Imitation.\n  stage tuned = {TUNED}\n"
        "  stage after = evaluate(tuned, sums.test, right())\n"
        '  ## Better than chance.\n  check after.mean > 0.1\n  output tuned as "m"\n'
    )
    plan = planned(write(folder, body))
    assert plan.doc == "What it is for."
    assert plan.stage("tuned").doc == "Imitation."
    assert plan.checks[0].doc == "Better than chance."
