"""Every file of `cases/plan` gets exactly the findings of its `#! CODE` marks, on four
cores with 24 GiB, or on what a comment `# on DEVICE` says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from grape.compiler.estimates.devices import Device, parse_device
from grape.compiler.program import load
from grape.compiler.resources import resource_findings
from grape.runtime.preparing import prepare

CPU = Device("cpu", 24 << 30, "cpu", 4)
CASES = sorted((Path(__file__).parents[1] / "cases" / "plan").glob("*.grape"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_plan_says_exactly_what_the_file_expects(path: Path) -> None:
    program = load(path)
    assert program.findings == []
    graph = program.graph()
    named = re.search(r"^# on (\S+)$", path.read_text(), re.MULTILINE)
    device = parse_device(named[1], CPU) if named else CPU
    plan = prepare(graph, path, device)
    found = resource_findings(graph, plan, program.files.values())
    lines = path.read_text().splitlines()
    marks = [(re.search(r"#! (G\d{3})", line), number) for number, line in enumerate(lines, 1)]
    assert [(one.code, one.span.line) for one in found] == [(m[1], n) for m, n in marks if m]
