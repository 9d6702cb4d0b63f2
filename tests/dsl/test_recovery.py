"""Recovery: one finding per mistake, at its place, and everything undamaged stays in the tree."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import grape.dsl.table
from grape.dsl import ast
from grape.dsl.format import format_text
from grape.dsl.parse import MAX_ERRORS, parse
from grape.dsl.render import apply_fixes, human
from grape.dsl.source import Source

OPEN = "grape 1\n\npipeline p() {\n"
REWARD = "\nreward last() = 1\n"


def found(text: str) -> tuple[ast.File, list[tuple[str, int]]]:
    file, findings = parse(Source("file.grape", text))
    return file, [(finding.code, finding.span.line) for finding in findings]


def names(file: ast.File) -> list[str]:
    return [item.name.name for item in file.declarations if not isinstance(item, ast.Use)]


@pytest.mark.parametrize(
    ("text", "expected", "kept"),
    [
        pytest.param(
            OPEN + "  stage a = f(b)\n" + REWARD, [("G002", 3)], ["p", "last"], id="missing }"
        ),
        pytest.param(
            OPEN + "  repeat 2 with m = a {\n    next m = f(m)\n}\n" + REWARD,
            [("G002", 4)],
            ["p", "last"],
            id="missing inner }",
        ),
        pytest.param(OPEN + "  stage a = f(b)\n", [("G002", 3)], ["p"], id="end of file"),
        pytest.param(
            OPEN + "  stage a = f(b\n  stage c = f(b)\n}\n" + REWARD,
            [("G002", 4)],
            ["p", "last"],
            id="missing )",
        ),
        pytest.param(
            'grape 1\nreward r() = """abc\n one\n two\n' + REWARD,
            [("G002", 2)],
            ["last"],
            id="triple quote",
        ),
        pytest.param(
            "grape 1\nreward r() = " + "(" * 5000 + REWARD, [("G006", 2)], ["last"], id="deep"
        ),
        pytest.param(
            "grape 1\nreward r() = 1 +\n  2\n" + REWARD, [("G001", 2)], ["last"], id="operator"
        ),
        pytest.param(
            OPEN + "  if a {\n  }\n  else {\n  }\n}\n" + REWARD,
            [("G001", 6)],
            ["p", "last"],
            id="else",
        ),
    ],
)
def test_one_mistake_one_finding(
    text: str, expected: list[tuple[str, int]], kept: list[str]
) -> None:
    file, findings = found(text)
    assert findings == expected
    assert names(file) == kept and file.damaged


def test_the_statements_of_an_unclosed_pipeline_are_kept() -> None:
    file, _ = found(OPEN + "  stage a = f(b)\n  stage c = f(a)\n" + REWARD)
    pipeline = file.declarations[0]
    assert isinstance(pipeline, ast.PipelineDecl) and len(pipeline.body) == 2


def test_messages_name_the_construct() -> None:
    _, findings = parse(Source("f", OPEN + "  stage warm train(a)\n}\n"))
    assert findings[0].message == "this stage needs `=` after its name"


def test_past_the_limit_it_says_that_it_stopped_and_keeps_what_came_before() -> None:
    text = "grape 1\nreward first() = 1\n" + OPEN[9:] + "  stage a f()\n" * 30 + "}\n"
    file, findings = parse(Source("f", text))
    assert len(findings) == MAX_ERRORS and names(file) == ["first"]
    assert findings[-1].hint == "the rest of the file was not read"


@pytest.mark.parametrize(
    "value", ["if a then 1 else " * 3000 + "1", "a" + ".b" * 3000, "a" + "()" * 3000]
)
def test_trees_are_never_too_deep_to_walk(value: str) -> None:
    file, findings = found(f"grape 1\nreward r() = {value}\n")
    assert findings == [("G006", 2)] and file.damaged
    assert file == file and repr(file)


@pytest.mark.parametrize(
    ("value", "code"), [("1e308TiB", "G004"), ("1e308M", "G004"), (r'"\ud800"', "G005")]
)
def test_literals_that_mean_nothing(value: str, code: str) -> None:
    assert found(f"grape 1\nreward r() = {value}\n")[1] == [(code, 2)]


def test_a_doc_comment_belongs_to_what_begins_the_next_line() -> None:
    file, _ = found("grape 1\n## All.\nreward r(\n  ## One.\n  a: int = 1, b: int = 2\n) = 1\n")
    reward = file.declarations[0]
    assert isinstance(reward, ast.RewardDecl)
    assert reward.doc == "All." and [param.doc for param in reward.params] == ["One.", None]
    single = found("grape 1\n## All.\nreward r(a: int = 1) = 1\n")[0].declarations[0]
    assert isinstance(single, ast.RewardDecl) and single.params[0].doc is None


@pytest.mark.parametrize("comment", ["allow G412", "allow(G412): why", "alow G412: why"])
def test_a_suppression_that_does_nothing_is_found(comment: str) -> None:
    file, findings = found(f"grape 1\n# grape: {comment}\n")
    assert findings == [("G010", 2)] and file.allows == ()


def test_the_terminal_is_never_sent_control_characters() -> None:
    _, findings = parse(Source("f", "grape 1\n\x1b[31m\0\n"))
    assert "\x1b" not in human(findings, color=False) and "\0" not in human(findings, color=False)


def test_a_broken_string_is_not_respaced() -> None:
    assert format_text('x="two  spaces') == 'x = "two  spaces\n'


def test_an_expression_in_parentheses_is_no_call() -> None:
    assert format_text("check (a + b) > 1\n") == "check (a + b) > 1\n"
    assert format_text("item a weight -1 = f()\n") == "item a weight -1 = f()\n"


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from([*'{}()[]",=#\n\\', '"""', "\n\n", "stage a ", "reward r", "1"])))
def test_no_arrangement_of_tokens_makes_it_raise(parts: list[str]) -> None:
    file, findings = parse(Source("f", OPEN + "".join(parts) + REWARD))
    assert len(findings) <= 10 * MAX_ERRORS and repr(file)


def test_the_table_is_written_the_same_every_time(tmp_path: Path) -> None:
    folder = tmp_path / "grape" / "dsl"
    folder.mkdir(parents=True)
    original = Path(grape.dsl.table.__file__).parent
    for path in [*original.glob("*.py"), original / "grammar.lark"]:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder.parent / "__init__.py").write_text("")
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-m", "grape.dsl.table"], check=True, env=env, cwd=tmp_path)
    assert (folder / "grammar.table").read_bytes() == (original / "grammar.table").read_bytes()


@pytest.mark.parametrize(
    ("line", "said", "mended"),
    [
        ("check a.mean > b.mean with95%", "write `with 95%`", "check a.mean > b.mean with 95%"),
        ("check a.mean > b.mean with9e-1", "write `with 9e-1`", "check a.mean > b.mean with 9e-1"),
        ("models = fresh(d)", "did you mean `model`?", None),
        ("stagewarm = train(a)", "did you mean `stage warm`?", None),
        ("stage warmUp = train(a)", "is no name", None),
        ('output warm asr"a"', 'write `as r"a"`', 'output warm as r"a"'),
    ],
)
def test_words_that_run_together_are_refused(line: str, said: str, mended: str | None) -> None:
    text = OPEN + f"  {line}\n  stage last = train(a)\n}}\n"
    file, (finding,) = parse(Source("file.grape", text))
    assert finding.code == "G011" and finding.span.line == 4
    assert said in finding.message and file.damaged
    (pipeline,) = file.declarations
    assert isinstance(pipeline, ast.PipelineDecl) and len(pipeline.body) == 1
    assert (finding.fix is not None) == (mended is not None)
    if finding.fix:
        assert apply_fixes(text, [finding.fix]) == text.replace(line, mended or "")


UNCLOSED = """  stage t = train(a, b) {
    lr = 1e-4  # a note
  stage u = train(t, b) { epochs = 2
  repeat 3 with policy = u {
    stage s = f(policy) { group = 4
    next policy = train(policy, s)
  }
  check t.mean = 3
  output policy as "m"
}
"""


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_settings_that_are_not_closed_hide_nothing_after_them(end: str) -> None:
    text = (OPEN + UNCLOSED + REWARD).replace("\n", end)
    file, said = found(text)
    assert said == [("G002", 4), ("G002", 6), ("G002", 8), ("G001", 11)]
    assert names(file) == ["p", "last"]
    (pipeline, _) = file.declarations
    assert isinstance(pipeline, ast.PipelineDecl)
    assert [type(item).__name__ for item in pipeline.body] == ["Node", "Node", "Repeat", "Output"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (OPEN + "  warm = train(a)\n}\n", "`stage warm = …`"),
        ("grape 1\n\nalgorithm a() on Demos {\n  x = 1\n}\n", "`let x = …`"),
        ("grape 1\n\nimport sft\n", "use NAME from"),
        (OPEN + "  for x in [1, 2] {\n  }\n}\n", "each X in"),
        ("grape 1\n\nreward r(x, y: int) = 1\n", "`x` needs a type: `x: float`"),
        (OPEN + "  check a.mean = 3\n}\n", "to compare, write `==`"),
        (OPEN + "  output a\n}\n", 'needs `as "PATH"`'),
    ],
)
def test_habits_of_other_languages_are_answered(text: str, said: str) -> None:
    first = parse(Source("file.grape", text))[1][0]
    assert said in first.message + (first.hint or "")
