"""The parser: what it reads, what it says of mistakes, and that it never raises."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grape.dsl import ast
from grape.dsl.catalogue import codes, entry
from grape.dsl.nearest import nearest
from grape.dsl.parse import _parser, parse
from grape.dsl.render import human
from grape.dsl.source import Source

WHOLE = """grape 1

use sft, dpo from "std/algorithms"

## How short.
reward brief(most: int = 2k where most > 0) = within(most) + 0.5 * exact(extract = "number")

rubric tutor(critic: Model) {
  category sums when topic == "sums" {
    item correct weight 3 = exact()
  }
  category other { item kind weight 1 = ask(critic, "Kind?") }
}

algorithm mine(clip: float = 0.2) on Rollouts {
  let ratio = exp(logp - old_logp)
  log clipped = mean(abs(ratio - 1) > clip per batch)
  maximize mean(if reward > 0 then ratio else -ratio per batch)
  subject to mean(ratio per batch) <= 0.01
}

pipeline p(rates: [float] = [1e-5, 2e-5], wait: duration = 15min) {
  model base = fresh("llama") { layers = 2, hidden = 64 }
  each rate in rates {
    stage tuned = train(base) { lr = rate }
  }
  if wait > 1h { check tuned["1e-5"].mean > 0 } else { check tuned.pass_at(4) >= 90% }
  repeat 3 with policy = base {
    next policy = train(policy)
    until policy.mean > 0.5
    every 10 { stage seen = evaluate(policy) }
  }
  output policy as "models/m"
}
"""


def read(text: str) -> tuple[ast.File, list[tuple[str, int]]]:
    file, findings = parse(Source("file.grape", text))
    assert human(findings) or not findings
    return file, [(finding.code, finding.span.line) for finding in findings]


def value(text: str) -> ast.Expr:
    file, findings = read(f"grape 1\nreward r() = {text}\n")
    assert findings == []
    declaration = file.declarations[0]
    assert isinstance(declaration, ast.RewardDecl)
    return declaration.value


def test_the_whole_grammar_is_read() -> None:
    file, findings = read(WHOLE)
    assert findings == [] and file.edition == 1
    assert [type(item).__name__ for item in file.declarations] == [
        "Use",
        "RewardDecl",
        "RubricDecl",
        "AlgorithmDecl",
        "PipelineDecl",
    ]
    reward = file.declarations[1]
    assert isinstance(reward, ast.RewardDecl) and reward.doc == "How short."


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("1 + 2 * 3", "1 + (2 * 3)"),
        ("-2 ^ 2", "-(2 ^ 2)"),
        ("2 ^ 3 ^ 2", "2 ^ (3 ^ 2)"),
        ("1 - 2 - 3", "(1 - 2) - 3"),
        ("not a == b and c or d", "((not (a == b)) and c) or d"),
        ("a * -b", "a * (-b)"),
    ],
)
def test_precedence(text: str, same: str) -> None:
    assert value(text) == value(same)


@pytest.mark.parametrize(
    ("text", "number", "kind"),
    [
        ("1_000", 1000, "int"),
        ("2e-5", 2e-5, "float"),
        ("50k", 50_000, "int"),
        ("90%", 0.9, "fraction"),
        ("24GiB", 24 * 2**30, "size"),
        ("15min", 900, "duration"),
    ],
)
def test_numbers_carry_units(text: str, number: float, kind: str) -> None:
    read_back = value(text)
    assert isinstance(read_back, ast.Number)
    assert (read_back.value, read_back.kind) == (number, kind)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        (r'"a\n{b}"', "a\n{b}"),
        (r'r"\d+"', r"\d+"),
        ('"""\n  two\n  lines"""', "two\nlines"),
    ],
)
def test_strings(text: str, content: str) -> None:
    read_back = value(text)
    assert isinstance(read_back, ast.String) and read_back.value == content


def test_two_mistakes_give_two_findings() -> None:
    text = "grape 1\npipeline p() {\n  stage x train(a)\n  stage y = train(b)\n  modle z = f()\n}\n"
    file, findings = read(text)
    assert findings == [("G001", 3), ("G001", 5)]
    pipeline = file.declarations[0]
    assert isinstance(pipeline, ast.PipelineDecl) and len(pipeline.body) == 1 and file.damaged


def test_unclosed_brackets_point_at_the_opening() -> None:
    assert read("grape 1\nreward r() = exact(\n")[1] == [("G002", 2)]


@settings(max_examples=150, deadline=None)
@given(st.integers(0, len(WHOLE)), st.text(max_size=6), st.integers(0, 30))
def test_no_text_makes_it_raise(at: int, inserted: str, removed: int) -> None:
    read(WHOLE[:at] + inserted + WHOLE[at + removed :])


def test_hostile_texts() -> None:
    read("grape 1\nreward r() = " + "(" * 5000)
    read("grape 1\nreward r() = " + "-" * 5000 + "1")
    read("\0")
    read("grape 1\nreward r() = " + "9" * 5000)


def test_the_saved_table_is_fresh() -> None:
    assert _parser().fresh, "run `make table`"


def test_importing_the_parser_is_light() -> None:
    code = (
        "import sys, grape.dsl.parse; print([m for m in ('torch', 'pydantic') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_catalogue_is_whole() -> None:
    for code in codes():
        found = entry(code)
        assert found.code == code and found.why and found.bad and found.good


def test_nearest_names() -> None:
    assert nearest("tran", ["train", "sample"]) == ("train",)
    assert nearest("xyz", ["train", "sample"]) == ()
