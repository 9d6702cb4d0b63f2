"""A slice of `make fuzz`: no damaged text raises, hangs or is formatted differently twice."""

from __future__ import annotations

import shutil
import sys
from itertools import islice
from pathlib import Path

import pytest
from fuzz.mutations import ROOT, Trial, corpus, mutations

from grape.compiler.constants import evaluate
from grape.dsl import ast
from grape.dsl.parse import parse
from grape.dsl.source import Source


@pytest.mark.skipif(sys.platform == "win32", reason="there are no interval timers")
def test_damaged_texts_are_survived(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "pipelines" / "data", tmp_path / "data")
    trial = Trial(tmp_path.resolve())
    failures = {text: trial.survives(text) for text in islice(mutations(2026, corpus()), 500)}
    assert {text: said for text, said in failures.items() if said} == {}


@pytest.mark.parametrize("end", ["", " ", "\n", "\n\n"])
def test_a_file_cut_after_an_equal_sign_points_into_itself(end: str) -> None:
    text = "grape 1\n\npipeline p() {\n  stage t = train(a, b) { lr =" + end
    findings = parse(Source("cut.grape", text))[1]
    assert findings
    assert all(0 <= f.span.start < f.span.end <= len(text) for f in findings)


def test_an_operand_is_read_once() -> None:
    """Reading the left side twice at each level would take 2^150 steps here."""
    text = "grape 1\n\npipeline p(x: int = " + " + ".join(["1"] * 150) + ") {\n}\n"
    declared = parse(Source("sum.grape", text))[0].declarations[0]
    assert isinstance(declared, ast.PipelineDecl)
    default = declared.params[0].default
    assert default is not None
    assert evaluate(default, {}).data == 150
