"""Wrong formulas are refused, each with its code; levels and coupling of right ones."""

from __future__ import annotations

import pytest

from grape.compiler.formula.infer import infer
from grape.compiler.formula.ir import Formula
from grape.dsl import ast
from grape.dsl.parse import parse
from grape.dsl.source import Source


def check(body: str, on: str = "Rollouts") -> tuple[Formula | None, list[str]]:
    text = f"grape 1\n\nalgorithm a(beta: float = 0.1) on {on} {{\n{body}\n}}\n"
    file, findings = parse(Source("a.grape", text))
    assert not findings
    declaration = file.declarations[0]
    assert isinstance(declaration, ast.AlgorithmDecl)
    formula, found = infer(declaration, {"beta": 0.1})
    return formula, [finding.code for finding in found]


WRONG = [
    ("minimize mean(lgp per batch)", "G301"),
    ("minimize men(logp per batch)", "G301"),
    ("minimize mean(logp per btch)", "G301"),
    ("minimize logp", "G302"),
    ("minimize mean(logp per group)", "G302"),
    ("minimize mean(reward per token)", "G302"),
    ("minimize mean(reward per sequence)", "G302"),
    ("minimize mean(mean(logp per batch) per sequence)", "G302"),
    ("minimize mean(logp)", "G302"),
    ("minimize mean(at_end(logp) per batch)", "G302"),
    ("minimize mean(cumsum(reward) per batch)", "G302"),
    ("log x = logp\nminimize mean(logp per batch)", "G302"),
    ("let logp = 1\nminimize mean(logp per batch)", "G303"),
    ("minimize mean(reward per batch)", "G304"),
    ("minimize mean(detach(logp) per batch)", "G304"),
    ("let x = logp", "G305"),
    ("minimize mean(logp per batch)\nmaximize mean(logp per batch)", "G305"),
    ("minimize mean(chosen(reward) * logp per batch)", "G307"),
    ("minimize mean(margin * logp per batch)", "G307"),
    ('minimize mean(logp * "a" per batch)', "G308"),
    ("minimize mean(logp / 1 + 1 / 0 per batch)", "G310"),
    ("minimize mean(clamp(logp, 1) per batch)", "G311"),
    ("minimize mean(exp(logp, 1) per batch)", "G311"),
]


@pytest.mark.parametrize(("body", "code"), WRONG)
def test_wrong_formulas_are_refused_once(body: str, code: str) -> None:
    formula, codes = check(body)
    assert formula is None
    assert codes == [code]


COUPLED = [
    ("minimize mean(logp * reward per batch)", "Rollouts", "token"),
    ("minimize mean(exp(mean(logp per sequence)) per batch)", "Rollouts", "sequence"),
    ("minimize mean(std(mean(logp per sequence) per group) per batch)", "Rollouts", "group"),
    ("minimize mean(logp per batch) ^ 2", "Rollouts", "batch"),
    (
        "let z = sum(logp per sequence)\nminimize mean(exp(chosen(z) - rejected(z)) per batch)",
        "Preferences",
        "pair",
    ),
]


@pytest.mark.parametrize(("body", "on", "level"), COUPLED)
def test_coupling(body: str, on: str, level: str) -> None:
    formula, codes = check(body, on)
    assert not codes
    assert formula is not None
    assert formula.coupling == level
    assert Formula.from_json(formula.to_json()) == formula
