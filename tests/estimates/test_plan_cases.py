"""Every file of `cases/plan` gets exactly the findings of its `#! CODE` marks, on 24 GiB."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from grape.compiler.estimates.devices import Device
from grape.compiler.program import load
from grape.compiler.resources import resource_findings
from grape.runtime.preparing import prepare

CASES = sorted((Path(__file__).parents[1] / "cases" / "plan").glob("*.grape"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_plan_says_exactly_what_the_file_expects(path: Path) -> None:
    program = load(path)
    assert program.findings == []
    graph = program.graph()
    plan = prepare(graph, path, Device("cpu", 24 << 30, "cpu"))
    found = resource_findings(graph, plan, program.files.values())
    lines = path.read_text().splitlines()
    marks = [(re.search(r"#! (G\d{3})", line), number) for number, line in enumerate(lines, 1)]
    assert [(one.code, one.span.line) for one in found] == [(m[1], n) for m, n in marks if m]
