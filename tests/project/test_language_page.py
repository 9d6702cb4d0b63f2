"""The user's page of the language: every example parses, is formatted and gives no finding."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from grape.compiler.program import load
from grape.dsl.format import format_text

PAGE = Path(__file__).parents[2] / "docs" / "language.md"
EXAMPLES = re.findall(r"```grape\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


def test_the_page_shows_every_statement() -> None:
    words = (
        "each ",
        "if ",
        "every ",
        "until ",
        "merge(",
        "hf(",
        "secret(",
        "check ",
        "where ",
        "turns(",
        "engine ",
    )
    assert all(any(word in example for example in EXAMPLES) for word in words)


@pytest.mark.parametrize("text", EXAMPLES, ids=lambda text: re.findall(r"pipeline (\w+)", text)[0])
def test_an_example_is_right_as_it_stands(tmp_path: Path, text: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sums.jsonl").write_text('{"a": 1, "b": 2, "sum": 3}\n')
    (tmp_path / "tools.py").write_text("def calculator(expression: str) -> int:\n    return 0\n")
    file = tmp_path / "example.grape"
    file.write_text(text)
    assert [(f.code, f.message) for f in load(file).findings] == []
    assert format_text(text) == text
