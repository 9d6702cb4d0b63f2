"""Findings about a graph: their numbers, names, labels and fixes."""

from __future__ import annotations

from pathlib import Path

import pytest

from grape.compiler.program import load
from grape.compiler.verbs import VERBS, verb
from grape.dsl.findings import Finding
from grape.dsl.render import apply_fixes

LOOP = """grape 1

use sft, grpo from "std/algorithms"

pipeline p() {{
  data sums = jsonl("data/sums.jsonl") {{ prompt = "{{a}}", completion = "{{b}}", answer = "1" }}
  model base = fresh("llama", sums)
  stage warm = train(base, sums) {{ algorithm = sft() }}
  repeat 2 with policy = warm {{
    stage tries = sample(policy, sums) {{ prompts = {prompts}, group = {group}, max_tokens = 8 }}
    stage scored = score(tries, exact())
    next policy = train(policy, scored{reference}) {{ algorithm = grpo(beta = 0.1), {settings} }}
  }}
  output policy as "models/policy"
}}
"""


def findings(project: Path, text: str) -> list[Finding]:
    file = project / "file.grape"
    file.write_text(text)
    return load(file).findings


def loop(
    project: Path,
    *,
    prompts: int = 8,
    group: int = 4,
    settings: str = "lr = 1e-5",
    reference: str = "",
) -> list[Finding]:
    text = LOOP.format(prompts=prompts, group=group, settings=settings, reference=reference)
    return findings(project, text)


@pytest.mark.parametrize(
    ("size", "code", "hint"),
    [
        (32, None, ""),
        (8, None, ""),
        (4, None, ""),
        (20, "G405", "16"),
        (64, "G405", "32"),
        (6, "G406", "4 or 8"),
        (3, "G406", "write 4"),
    ],
)
def test_the_nearest_sizes_that_divide_are_named(
    project: Path, size: int, code: str | None, hint: str
) -> None:
    found = loop(project, settings=f"sequences_per_update = {size}")
    assert [finding.code for finding in found] == ([code] if code else [])
    if found:
        assert hint in (found[0].hint or "")
        assert found[0].span.text == f"sequences_per_update = {size}"
        assert found[0].labels[0].span.text in ("prompts = 8", "group = 4")


def test_the_model_that_training_began_from_is_named(project: Path) -> None:
    text = LOOP.format(prompts=8, group=4, settings="lr = 1e-5", reference=", reference = base")
    (found,) = findings(project, text)
    assert found.code == "G424"
    assert found.labels[0].span.text.startswith("stage warm")
    assert found.fix is not None
    mended = apply_fixes(text, [found.fix])
    assert "reference = warm)" in mended
    assert findings(project, mended) == []


def test_a_reference_that_nobody_names_is_fine(project: Path) -> None:
    assert loop(project) == []


def test_names_of_other_tools_are_translated(project: Path) -> None:
    (found,) = loop(project, settings="num_train_epochs = 2")
    assert (found.code, found.hint) == ("G109", "write `epochs`")
    (found,) = loop(project, settings="batch_size = 2")
    assert "sequences_per_update" in (found.hint or "")


def test_no_setting_is_called_batch_or_counts_per_device() -> None:
    for name in VERBS:
        for setting in verb(name).settings.model_fields:
            for word in ("batch", "device", "gpu", "node", "accumulation", "steps"):
                assert word not in setting, f"{name}: {setting}"


def test_a_python_reward_is_read_and_never_imported(project: Path) -> None:
    text = 'grape 1\n\nreward a() = python("{}")\n'
    for source, code in (
        ("rewards.py:short", None),
        ("loud.py:short", None),
        ("rewards.py:shrt", "G113"),
        ("rewards.py:all_at_once", "G418"),
    ):
        found = findings(project, text.format(source))
        assert [finding.code for finding in found] == ([code] if code else [])
    assert not (project / "touched").exists()


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("def f(c): return 1.0", None),
        ("def f(c) -> float: raise ValueError", None),
        ("def f(c, *, answer): return len(c) == len(answer)", None),
        ("def f(): return 1.0", "G418"),
        ("def f(c): pass", "G418"),
        ("def f(c, answer, /): return 1.0", "G418"),
        ("async def f(c): return 1.0", "G418"),
        ("def f(c): yield 1.0", "G418"),
        ("def f(c) -> str: return c", "G418"),
        ("def f(c) -> 'list[float]': return [1.0]", "G418"),
        ("def f(c: return 1.0", "G113"),
        ("class f: pass", "G113"),
    ],
)
def test_signatures(project: Path, body: str, code: str | None) -> None:
    (project / "mine.py").write_text(body + "\n")
    found = findings(project, 'grape 1\n\nreward a() = python("mine.py:f")\n')
    assert [finding.code for finding in found] == ([code] if code else [])


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("import random\ndef f(c): return random.random()", True),
        ("from time import time\ndef f(c): return time()", True),
        ("import datetime\ndef f(c): return datetime.datetime.now().hour", True),
        ("import numpy as np\ndef f(c): return np.random.rand()", True),
        ("import requests\ndef f(c): return len(requests.get(c).text)", True),
        ("import random\ndef f(c): return random.Random(3).random()", False),
        ("import datetime\ndef f(c): return datetime.date(2020, 1, 1).year", False),
        ("import re\ndef f(c): return len(re.findall('a', c))", False),
    ],
)
def test_purity(project: Path, body: str, told: bool) -> None:
    (project / "mine.py").write_text(body + "\n")
    text = LOOP.format(prompts=8, group=4, settings="lr = 1e-5", reference="")
    text = text.replace("exact())", 'python("mine.py:f")) { on_error = 0 }')
    found = findings(project, text)
    assert [finding.code for finding in found] == (["G604"] if told else [])
    if told:
        assert found[0].labels[0].span.source.path == "mine.py"


@pytest.mark.parametrize(
    ("names", "kept"),
    [("sft, dpo", "sft"), ("dpo, sft", "sft"), ("dpo, sft, rloo", "sft")],
)
def test_an_unused_import_can_be_taken_out(project: Path, names: str, kept: str) -> None:
    text = (
        f'grape 1\n\nuse {names} from "std/algorithms"\n\npipeline p() {{\n'
        '  data sums = jsonl("data/sums.jsonl") { prompt = "{a}", completion = "{b}" }\n'
        '  model base = fresh("llama", sums)\n'
        "  stage warm = train(base, sums) { algorithm = sft() }\n"
        '  output warm as "models/warm"\n}\n'
    )
    while found := findings(project, text):
        assert {finding.code for finding in found} == {"G106"}
        fix = found[0].fix
        assert fix is not None and fix.safe
        text = apply_fixes(text, [fix])
    assert f"use {kept} from" in text


def test_a_setting_among_the_parameters_is_told_its_place(project: Path) -> None:
    text = LOOP.format(prompts=8, group=4, settings="lr = 1e-5", reference="")
    (found,) = findings(project, text.replace("sft()", "sft(epochs = 2)"))
    assert (found.code, found.hint) == (
        "G108",
        "`epochs` is a setting of `train`: write it beside `algorithm`",
    )


def test_the_nearest_file_is_named(project: Path) -> None:
    text = LOOP.format(prompts=8, group=4, settings="lr = 1e-5", reference="")
    (found,) = findings(project, text.replace("sums.jsonl", "sum.jsonl"))
    assert found.hint == "did you mean `sums.jsonl` in the same folder?"
    (found,) = findings(project, 'grape 1\n\nuse sft from "std/algoritms"\n')
    assert found.hint == 'did you mean "std/algorithms"?'


BRANCH = """grape 1

use sft from "std/algorithms"

pipeline p(long: bool = false) {
  data sums = jsonl("data/sums.jsonl") { prompt = "{a}", completion = "{b}", answer = "1" }
  model base = fresh("llama", sums)
  stage warm = train(base, sums) { algorithm = sft() }
  stage other = train(base, sums) { algorithm = sft(), seed = 1 }
  stage tries = sample(warm, sums) { prompts = 8, group = 4, max_tokens = 8 }
  stage scored = score(tries, exact())
  stage kept = best(scored) { top = 1 }
  stage lost = best(scored) { top = 2 }
  if long {
    stage tuned = train(warm, kept) { algorithm = sft(), lr = 1e-5 }
    output other as "models/other"
  }
  output warm as "models/warm"
}
"""


def test_what_only_the_other_branch_uses_is_used(project: Path) -> None:
    found = findings(project, BRANCH)
    assert [(one.code, one.message) for one in found] == [("G403", "nothing uses `lost`")]


def test_a_neighbour_in_the_file_of_a_reward_makes_it_no_less_pure(tmp_path: Path) -> None:
    from grape.compiler.python_reward import impurities

    (tmp_path / "r.py").write_text(
        "import random\nimport time\n\n\ndef luck():\n    return random.random()\n\n\n"
        "def pure(completion):\n    return 1.0\n\n\n"
        "def lucky(completion):\n    return luck()\n\n\n"
        "def late(completion):\n    return time.time()\n"
    )
    said = {
        name: [(span.line, what) for span, what in impurities(f"r.py:{name}", tmp_path)]
        for name in ("pure", "lucky", "late")
    }
    assert said == {
        "pure": [],
        "lucky": [(6, "draws random numbers")],
        "late": [(18, "reads the clock")],
    }
