"""Every finding's bad example gives its code, and every good one gives nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from grape.compiler.estimates.devices import Device
from grape.compiler.program import Program, load
from grape.compiler.resources import resource_findings
from grape.dsl.catalogue import codes, entry
from grape.dsl.findings import Finding
from grape.runtime.locking import lock_findings, write_lock
from grape.runtime.preparing import prepare

FILE_NAMES = {"G105": "loop.grape"}
"""Examples that only go wrong under this name: a file that imports itself."""

PARAMS = {"G211": "seed = = 7\n"}
"""Examples about the parameters file beside them."""

LOCKED = ("G540", "G541")
DEVICE = Device("cpu", 24 << 30, "cpu")


def findings(tmp_path: Path, code: str, text: str, *, params: bool = False) -> list[str]:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "sums.jsonl").write_text('{"a": 1, "b": 2, "sum": 3}\n')
    file = tmp_path / FILE_NAMES.get(code, "file.grape")
    file.write_text(text)
    given = None
    if params:
        given = tmp_path / "params.toml"
        given.write_text(PARAMS[code])
    program = load(file, params_file=given)
    found = list(program.findings)
    if entry(code).depth == "plan":
        found += plan_findings(program, file, code)
    return [finding.code for finding in found]


def plan_findings(program: Program, file: Path, code: str) -> list[Finding]:
    """What planning on a machine with 24 GiB says; codes of the lock beside one of the good
    example."""
    text = file.read_text()
    if code in LOCKED:
        file.write_text(entry(code).good)
        write_lock([prepare(load(file).graph(), file, DEVICE)])
        file.write_text(text)
    graph = program.graph()
    plan = prepare(graph, file, DEVICE)
    found = resource_findings(graph, plan, program.files.values())
    return found + lock_findings(graph, plan, locked=code == "G541")


@pytest.mark.parametrize("code", codes())
def test_the_bad_example_gives_the_code(tmp_path: Path, code: str) -> None:
    assert code in findings(tmp_path, code, entry(code).bad, params=code in PARAMS)


@pytest.mark.parametrize("code", codes())
def test_the_good_example_is_clean(tmp_path: Path, code: str) -> None:
    assert findings(tmp_path, code, entry(code).good) == []
