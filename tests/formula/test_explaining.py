"""`grape explain`: mathematics, levels, passes, coupling, cost, and the page of the library."""

from __future__ import annotations

from pathlib import Path

import pytest
from formula.test_library_values import NAMES

import grape
from grape.runtime.cli import main

ROOT = Path(__file__).parents[2]


def said(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["explain", *words]) == 0
    return capsys.readouterr().out


def test_an_algorithm_is_shown_with_levels_passes_coupling_and_cost(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = said(capsys, "grpo", "--set", "beta=0.04")
    assert "(r − mean_group[r]) / (std_group[r] + ε)" in text
    assert "  token     ratio = exp(log π − log π_old)" in text.splitlines()
    assert "the reference" in text and "coupling  token" in text
    assert "cost      1.33 times" in text


def test_what_a_parameter_switches_off_costs_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert "cost      1.00 times" in said(capsys, "grpo")
    assert "cost      1.33 times" in said(capsys, "ppo")  # a first pass over the batch


def test_the_variant_at_hand_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "rpg", "--set", "divergence=forward")
    assert "forward = −log π" in text


def test_options_of_reductions_and_spans_of_the_text_are_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "std_tree[base; singleton 1]" in said(capsys, "tree_grpo")
    assert "𝟙[start to </b>]" in said(capsys, "egpo", "--set", "opening=", "--set", "closing=</b>")
    assert r"\text{; singleton 1}" in said(capsys, "tree_grpo", "--latex")


def test_what_a_sampler_has_to_bring_is_named_with_what_to_write(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = said(capsys, "remax")
    assert "supplied  `greedy_reward`" in text and "write `greedy = true`" in text
    assert "sampling and the solver apart" in said(capsys, "trpo")
    assert "cost      2.00 times" in said(capsys, "kto", "--set", "point=mismatched")


def test_latex_and_the_torch_graph(capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "sapo", "--latex")
    assert text.startswith("\\begin{align*}") and "\\begin{cases}" in text
    assert text.count("{") == text.count("}")
    assert "def forward(self, reward" in said(capsys, "dapo", "--torch")


@pytest.mark.parametrize("name", NAMES)
def test_every_algorithm_is_explained_and_documented(name: str) -> None:
    algorithm = grape.algorithm(name)
    text = algorithm.explain()
    assert "…" not in text and "coupling" in text
    latex = algorithm.explain(latex=True)
    assert latex.count("\\left") == latex.count("\\right")
    assert algorithm.declaration.doc and len(algorithm.declaration.doc) > 80


def test_the_page_of_the_library_is_up_to_date(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
    assert page == said(capsys, "algorithms")
