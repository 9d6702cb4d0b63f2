"""Which sequences of a batch a formula provably does not touch, given the batch's constants.

Zeros are followed through the terms of the formula: a product with a constant zero is zero for any
live value, and what only such a product uses does not reach the objective. Nothing is assumed
about the live values but that they are finite, and rounding is not guessed at: only an exact zero
is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

from grape.compiler.formula.functions import ALONG_TOKENS
from grape.compiler.formula.ir import Formula, Term
from grape.compiler.formula.levels import Level, covers, meet
from grape.compiler.formula.quantities import QUANTITIES
from grape.runtime.formula import argument, lower_terms
from grape.runtime.layout import Layout

_KEEPS_ZERO = frozenset({"neg", "abs", "sqrt", "tanh", "sign", "detach", "log1p"})
_BOTH = frozenset({"add", "sub", "minimum", "maximum"})
_ZERO_KINDS = frozenset({"mean", "sum", "max", "min", "median", "std", "var", "any"})


@torch.no_grad()
def idle(formula: Formula, values: Mapping[str, Tensor], layout: Layout) -> Tensor:
    """Bool [S]: the sequences on whose live values neither the objective nor any gradient depends.

    `values` holds the constant quantities that are known already; one that is missing (a reference
    not computed yet) counts as unknown, so the answer only grows with what is given. Logs may
    still mention an idle sequence."""
    known = _known(formula, frozenset(values))
    zero = _zeros(formula, known, values, layout)
    reached = _reached(formula, known, zero, layout)
    touched = torch.zeros(layout.num_sequences, dtype=torch.bool, device=layout.device)
    for index, term in enumerate(formula.terms):
        if term.op == "input" and index not in known and index in reached:
            touched |= _any(reached[index], term.level, Level.SEQUENCE, layout)
    return ~touched


@cache
def _known(formula: Formula, given: frozenset[str]) -> dict[int, Term]:
    """The terms that follow from what is given alone."""
    known: dict[int, Term] = {}
    for index, term in enumerate(formula.terms):
        if term.op == "input":
            name = str(term.attr("name"))
            derived = name in QUANTITIES and QUANTITIES[name].derived
            fits = not term.live and (name in given or derived)
        else:
            fits = all(arg in known for arg in term.args)
        if fits:
            known[index] = term
    return known


def _zeros(
    formula: Formula, known: Mapping[int, Term], values: Mapping[str, Tensor], layout: Layout
) -> list[Tensor]:
    """For each term, where it is zero whatever the live values are; at the term's own level."""
    used = {
        arg for index, term in enumerate(formula.terms) if index not in known for arg in term.args
    }
    wanted = tuple(sorted(index for index in known if index in used))
    module, names = lower_terms(formula, wanted)
    found = module(*(argument(name, values, layout) for name in names)) if wanted else ()
    constants = dict(zip(wanted, found, strict=True))
    zeros: list[Tensor] = []
    for index, term in enumerate(formula.terms):
        if index in constants:
            zeros.append(_spread(constants[index] == 0, term.level, layout))
        elif index in known:
            zeros.append(torch.zeros((), dtype=torch.bool, device=layout.device))
        else:
            zeros.append(_zero(formula, term, known, zeros, layout))
    return zeros


def _spread(mask: Tensor, level: Level, layout: Layout) -> Tensor:
    """A mask of an item each; a token stands for all its vocabulary entries."""
    if level is Level.VOCAB and mask.dim() == 2:
        mask = mask.all(-1)
    return mask.to(layout.device).expand(layout.size(_coarse(level))).clone()


def _coarse(level: Level) -> Level:
    return Level.TOKEN if level is Level.VOCAB else level


def _zero(
    formula: Formula, term: Term, known: Mapping[int, Term], zeros: list[Tensor], layout: Layout
) -> Tensor:
    nowhere = _spread(torch.zeros((), dtype=torch.bool), term.level, layout)

    def at(position: int) -> Tensor:
        level = formula.terms[term.args[position]].level
        return _gather(zeros[term.args[position]], level, term.level, layout)

    if term.op == "mul":
        return at(0) | at(1)
    if term.op in _BOTH:
        return at(0) & at(1)
    if term.op == "where":
        yes, no = at(1), at(2)
        return torch.where(at(0), no, yes) if term.args[0] in known else yes & no
    if term.op in ("chosen", "rejected"):
        return zeros[term.args[0]][0 if term.op == "chosen" else 1 :: 2]
    if term.op in ALONG_TOKENS:
        rows = _any(~at(0), term.level, Level.SEQUENCE, layout)
        return ~_gather(rows, Level.SEQUENCE, term.level, layout)
    if term.op in _KEEPS_ZERO or term.op == "div":
        return at(0)
    single = "singleton" in dict(term.attrs)
    if term.op == "reduce" and term.attr("kind") in _ZERO_KINDS and not single:
        level = formula.terms[term.args[0]].level
        counts = ~zeros[term.args[0]]
        if len(term.args) > 1:
            counts = counts & ~_left_out(formula, term, known, zeros, layout)
        return ~_any(counts, level, term.level, layout)
    return nowhere


def _reached(
    formula: Formula, known: Mapping[int, Term], zero: list[Tensor], layout: Layout
) -> dict[int, Tensor]:
    """For each unknown term, where its value can reach the objective."""
    reached = {formula.objective: torch.ones(1, dtype=torch.bool, device=layout.device)}
    for index in range(formula.objective, -1, -1):
        if index not in reached or index in known:
            continue
        term = formula.terms[index]
        here = reached[index] & ~zero[index]
        for position, arg in enumerate(term.args):
            if arg in known:
                continue
            source = formula.terms[arg].level
            passed = here & ~_blocked(formula, term, position, known, zero, layout)
            spread = _spreads(term)
            if spread is not None:
                rows = _any(passed, term.level, spread, layout)
                passed = _gather(rows, spread, term.level, layout)
            arrived = _any(passed, term.level, source, layout)
            if term.op == "reduce" and position == 0 and len(term.args) > 1:
                arrived = arrived & ~_left_out(formula, term, known, zero, layout)
            if term.op in ("chosen", "rejected"):
                arrived[1 if term.op == "chosen" else 0 :: 2] = False
            reached[arg] = reached[arg] | arrived if arg in reached else arrived
    return reached


def _left_out(
    formula: Formula, term: Term, known: Mapping[int, Term], zero: list[Tensor], layout: Layout
) -> Tensor:
    """The items that the `where` of a reduction leaves out for certain."""
    test, value = term.args[1], formula.terms[term.args[0]]
    if test not in known:
        return torch.zeros((), dtype=torch.bool, device=layout.device)
    return _gather(zero[test], formula.terms[test].level, value.level, layout)


def _spreads(term: Term) -> Level | None:
    """The level within which every value of the operand can matter to every one of the term."""
    if term.op in ALONG_TOKENS or term.op == "gae":
        return Level.SEQUENCE
    return Level(str(term.attr("per"))) if term.op in ("rank", "widest") else None


def _blocked(
    formula: Formula,
    term: Term,
    position: int,
    known: Mapping[int, Term],
    zero: list[Tensor],
    layout: Layout,
) -> Tensor:
    """Where the other operands keep one operand from mattering, at the term's level."""

    def at(place: int) -> Tensor:
        level = formula.terms[term.args[place]].level
        return _gather(zero[term.args[place]], level, term.level, layout)

    if term.op == "mul":
        return at(1 - position)
    if term.op == "div" and position == 1:
        return at(0)
    if term.op == "where" and position and term.args[0] in known:
        return at(0) if position == 1 else ~at(0)
    if term.op in ("chosen", "rejected"):
        return zero[term.args[0]][0 if term.op == "chosen" else 1 :: 2]
    return torch.zeros((), dtype=torch.bool, device=layout.device)


def _gather(mask: Tensor, level: Level, target: Level, layout: Layout) -> Tensor:
    """A mask of a coarser level at a finer one."""
    level, target = _coarse(level), _coarse(target)
    return mask if level is target else mask[layout.index(target, level)]


def _any(mask: Tensor, level: Level, target: Level, layout: Layout) -> Tensor:
    """A mask at another level: to a coarser one by `any`, to a finer one by copying, to one
    beside it by way of what both are made of."""
    level, target = _coarse(level), _coarse(target)
    if level is target:
        return mask
    if covers(target, level):
        return _gather(mask, level, target, layout)
    if not covers(level, target):
        both = meet(level, target)
        return _any(_gather(mask, level, both, layout), both, target, layout)
    counted = torch.zeros(layout.size(target), dtype=torch.long, device=layout.device)
    return counted.index_add(0, layout.index(level, target), mask.long()) > 0
