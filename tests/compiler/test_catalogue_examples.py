"""Every finding's bad example gives its code, and every good one gives nothing.

Examples of findings that only a run can tell are executed in `runtime/test_contracts.py`.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from grape.compiler.estimates.devices import Device
from grape.compiler.program import Program, load
from grape.compiler.resources import resource_findings
from grape.dsl.catalogue import codes, entry
from grape.dsl.findings import Finding
from grape.runtime.locking import lock_findings, write_lock
from grape.runtime.preparing import prepare
from grape.runtime.probe import probe

FILE_NAMES = {"G105": "loop.grape"}
"""Examples that only go wrong under this name: a file that imports itself."""

PARAMS = {"G211": "seed = = 7\n"}
"""Examples about the parameters file beside them."""

LOCKED = ("G540", "G541")
DEVICE = Device("cpu", 24 << 30, "cpu", 4)
DEVICES = {"G504": Device("cuda", 80 << 30, "two GPUs", 2)}
"""Examples about another machine."""


def findings(project: Path, code: str, text: str, *, params: bool = False) -> list[str]:
    file = project / FILE_NAMES.get(code, "file.grape")
    file.write_text(text)
    given = None
    if params:
        given = project / "params.toml"
        given.write_text(PARAMS[code])
    program = load(file, params_file=given)
    found = list(program.findings)
    depth = entry(code).depth
    if depth == "plan":
        found += plan_findings(program, file, code)
    elif depth != "lint":
        found += probe(program)
    return [finding.code for finding in found]


def plan_findings(program: Program, file: Path, code: str) -> list[Finding]:
    """What planning on a machine with 24 GiB and four cores says; codes of the lock beside one of
    the good example."""
    text = file.read_text()
    if code in LOCKED:
        file.write_text(entry(code).good)
        write_lock([prepare(load(file).graph(), file, DEVICE)])
        file.write_text(text)
    graph = program.graph()
    plan = prepare(graph, file, DEVICES.get(code, DEVICE))
    found = resource_findings(graph, plan, program.files.values())
    return found + lock_findings(graph, plan, locked=code == "G541")


@pytest.mark.parametrize("code", codes())
def test_the_bad_example_gives_the_code(
    project: Path, code: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing, there = {"G432": ("reasoning_gym", None), "G913": (None, "vllm")}.get(
        code, (None, None)
    )
    monkeypatch.setattr(
        "grape.runtime.probe.checks.find_spec",
        lambda name: None if name == missing else find_spec("json" if name == there else name),
    )
    found = findings(project, code, entry(code).bad, params=code in PARAMS)
    if entry(code).depth == "run":
        assert not [other for other in found if entry(other).severity == "error"]
    else:
        assert code in found


@pytest.mark.parametrize("code", codes())
def test_the_good_example_is_clean(project: Path, code: str) -> None:
    assert findings(project, code, entry(code).good) == []


def test_no_example_was_run(project: Path) -> None:
    for code in codes():
        findings(project, code, entry(code).bad)
    assert not (project / "touched").exists()
    assert not Path("touched").exists()
