"""Every broken file gives exactly the findings that its `#! CODE` comments expect."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from grape.compiler.program import load

ROOT = Path(__file__).parents[2]
CASES = sorted((ROOT / "tests" / "cases" / "diagnose").glob("*.grape"))


def _expected(path: Path) -> list[tuple[str, int]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    marks = [(re.search(r"#! (G\d{3})", line), number) for number, line in enumerate(lines, 1)]
    return [(mark[1], number) for mark, number in marks if mark]


def test_there_are_enough_cases() -> None:
    assert len(CASES) >= 25
    assert all(_expected(path) for path in CASES)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_broken_file_gives_exactly_what_it_says(path: Path) -> None:
    found = [(finding.code, finding.span.line) for finding in load(path).findings]
    assert found == _expected(path)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "pipelines").rglob("*.grape")), ids=lambda path: path.stem
)
def test_the_pipelines_that_ship_are_clean(path: Path) -> None:
    assert load(path).findings == []
