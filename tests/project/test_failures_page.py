"""The page of failures names every complaint, codes that exist and tests that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from grape.dsl.catalogue import codes, entry

ROOT = Path(__file__).parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs" / "failures.md").read_text(encoding="utf-8").splitlines()
    if re.match(r"\| \d", line)
]
TESTS = {
    name
    for path in (ROOT / "tests").rglob("test_*.py")
    for name in re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
}


def test_all_thirty_are_there() -> None:
    assert [int(row[0]) for row in ROWS] == list(range(1, 31))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"row{row[0]}")
def test_a_row_names_codes_depths_and_tests_that_exist(row: list[str]) -> None:
    _, _, told, depths, tested = row
    named = re.findall(r"G\d{3}", told)
    assert named and set(named) <= set(codes())
    assert {entry(code).depth for code in named} == set(depths.split(", "))
    tests = re.findall(r"`(\w+)`", tested)
    assert tests and set(tests) <= TESTS


@pytest.mark.parametrize("code", codes())
def test_threads_are_addresses_of_issues(code: str) -> None:
    for address in entry(code).seen:
        assert re.fullmatch(r"https://github\.com/[\w.-]+/[\w.-]+/issues/\d+", address)


def test_every_complaint_has_its_threads() -> None:
    for row in ROWS:
        assert any(entry(code).seen for code in re.findall(r"G\d{3}", row[2])), row[0]
