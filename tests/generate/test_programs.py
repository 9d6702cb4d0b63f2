"""Random programs that are right: no error is found, and every tool takes them."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from generate.programs import ROWS, programs, sprinkled
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from grape.compiler.draw import FORMATS
from grape.compiler.planning import make_plan
from grape.compiler.program import is_error, load
from grape.dsl.format import format_text
from grape.dsl.parse import parse
from grape.dsl.source import Source

RIGHTLY = {
    "G402": "a learning rate between 0 and 1,000 is mostly implausible",
    "G351": "a setting of constrained steps on an algorithm without a constraint",
    "G403": "a stage that no later one happens to use",
    "G404": "several completions at a temperature of 0",
    "G426": "a cut distribution, and an algorithm that takes it for the whole one",
}
"""Warnings that chance earns, and how."""

_COMMENT = re.compile(r'r?"[^"\n]*"|(#[^\n]*)')


def comments(text: str) -> Counter[str]:
    return Counter(found[1].rstrip() for found in _COMMENT.finditer(text) if found[1])


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_a_right_program_passes_everything(tmp_path: Path, count: int) -> None:
    (tmp_path / "rows.jsonl").write_text(ROWS)

    @settings(max_examples=count, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.data())
    def passes(data: st.DataObject) -> None:
        check(data, data.draw(programs()), tmp_path)

    passes()


def check(data: st.DataObject, text: str, folder: Path) -> None:
    file = folder / "program.grape"
    file.write_text(text)

    program = load(file)
    assert [f"{f.code} {f.message}" for f in program.findings if is_error(f)] == []
    assert {finding.code for finding in program.findings} <= RIGHTLY.keys()

    for name in program.pipelines:
        graph = program.graph(name)
        plan = make_plan(
            graph, project=folder, file=str(file), state_of=lambda key: "run", previous=None
        )
        assert all(draw(graph, plan) for draw in FORMATS.values())

    untidy = data.draw(sprinkled(text))
    formatted = format_text(untidy)
    assert format_text(formatted) == formatted
    assert comments(formatted) == comments(untidy)
    one, two = parse(Source("a", text))[0], parse(Source("b", formatted))[0]
    assert not one.damaged
    assert one.declarations == two.declarations
