"""Wrong formulas are refused, each with its code at its line, and with one finding."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import grape
from grape.compiler.program import load

CASES = sorted((Path(__file__).parents[1] / "cases" / "formulas").glob("*.grape"))


def expected(path: Path) -> list[tuple[str, int]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    marks = [(re.search(r"#! (G\d{3})", line), number) for number, line in enumerate(lines, 1)]
    return [(mark[1], number) for mark, number in marks if mark]


def test_there_are_enough_wrong_formulas() -> None:
    assert len(CASES) >= 50
    assert all(len(expected(path)) == 1 for path in CASES)


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_a_wrong_formula_gives_its_finding_at_its_line(path: Path) -> None:
    found = [(finding.code, finding.span.line) for finding in load(path).findings]
    assert found == expected(path)


@pytest.mark.parametrize(
    ("name", "params", "said"),
    [
        ("rpg", {"divergence": "sideways"}, "unnormalised_forward"),
        ("rec", {"variant": "rings"}, "two_side"),
        ("opmd", {"tau": 0.0}, "tau"),
        ("gkd", {"beta": 1.5}, "beta"),
        ("nft", {"normalize": 3}, "normalize"),
        ("grpo", {"clp": 0.1}, "clip"),
    ],
)
def test_a_value_that_is_not_allowed_is_named_with_those_that_are(
    name: str, params: dict[str, str | float], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        grape.algorithm(name, **params)


def test_mistakes_of_the_caller_are_named() -> None:
    from formula.batches import batch

    with pytest.raises(ValueError, match="grpo"):
        grape.algorithm("grppo")
    for name, lacking in (("grpo", "old_logp"), ("tree_grpo", "tree"), ("tree_rl", "step")):
        found = batch()
        del found[lacking]
        with pytest.raises(ValueError, match=lacking):
            grape.algorithm(name).evaluate(found)
    wrong = batch()
    wrong["reward"] = wrong["reward"][:3]
    with pytest.raises(ValueError, match=r"`reward` is one per sequence"):
        grape.algorithm("grpo").evaluate(wrong)


def test_demand_follows_the_parameters() -> None:
    assert grape.algorithm("grpo").needs == {"logp", "old_logp", "reward"}
    assert "ref_logp" in grape.algorithm("grpo", beta=0.1).needs
    assert grape.algorithm("sft").needs == {"logp"}
    assert grape.algorithm("tree_grpo", beta=0.0).needs == {"logp", "old_logp", "reward", "tree"}
    assert "logp_all" in grape.algorithm("on_policy_distillation", estimate="full").needs
    assert "logp_all" not in grape.algorithm("on_policy_distillation").needs
