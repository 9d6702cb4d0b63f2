"""A formula whose constraints became part of what is minimised, for solvers that step on those.

The constraints themselves stay, so that a step still tells how far each is from its bound.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from grape.compiler.formula.coupling import coupling
from grape.compiler.formula.ir import Formula, Term
from grape.compiler.formula.levels import Level

WEIGHT = "grape_penalty"
"""The `state` that holds the weight of the constraints."""


@cache
def penalised(formula: Formula) -> Formula:
    """The objective and, `WEIGHT` times, what the constraints bound."""
    terms = list(formula.terms)
    together = _sum(terms, formula)
    name = (("name", f"state.{WEIGHT}"),)
    terms.append(Term("input", (), name, Level.BATCH, False, False))
    terms.append(_batch("mul", len(terms) - 1, together))
    kind = "sub" if formula.goal == "maximize" else "add"
    terms.append(_batch(kind, formula.objective, len(terms) - 1))
    return _aimed(formula, terms, formula.goal)


@cache
def constraints_alone(formula: Formula) -> Formula:
    """What the constraints bound, to be minimised; the objective and memory are left out."""
    terms = list(formula.terms)
    _sum(terms, formula)
    return _aimed(replace(formula, memory=(), logs=()), terms, "minimize")


def _batch(op: str, *args: int) -> Term:
    return Term(op, args, (), Level.BATCH, True, True)


def _sum(terms: list[Term], formula: Formula) -> int:
    """Append the sum of what is bounded; where it stands. It is always a term of its own."""
    terms.append(Term("const", (), (("value", 0.0),), Level.BATCH, False, False))
    total = len(terms) - 1
    for index, _ in formula.constraints:
        terms.append(_batch("add", total, index))
        total = len(terms) - 1
    return total


def _aimed(formula: Formula, terms: list[Term], goal: str) -> Formula:
    objective = len(terms) - 1
    return replace(
        formula,
        terms=tuple(terms),
        goal=goal,
        objective=objective,
        coupling=coupling(terms, objective, old_is_live=True),
        coupling_given_old=coupling(terms, objective, old_is_live=False),
    )
