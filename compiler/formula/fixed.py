"""What a formula takes from the current forward pass: whether its weights and logs need it.

The weight of a token in the gradient is known beforehand when no derivative of the objective
depends on the current numbers: likelihoods, and ratios to the very log-probs they are made of. A
step may then form the gradient while it computes the log-probs.
"""

from __future__ import annotations

from dataclasses import dataclass

from grape.compiler.formula.functions import LINEAR_REDUCTIONS
from grape.compiler.formula.ir import Formula, Term

_LINEAR = {"add", "sub", "neg", "chosen", "rejected", "shift", "cumsum", "reverse_cumsum", "at_end"}
_STEPS = {"eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "sign", "detach"}


@dataclass(frozen=True, slots=True)
class Foreknown:
    """What does not depend on the numbers of the current forward pass."""

    weights: bool
    logs: bool


@dataclass(frozen=True, slots=True)
class _Kind:
    moves: bool
    """Its value depends on the current numbers."""
    bends: bool
    """Its derivative does."""


def foreknown(formula: Formula, *, on_policy: bool) -> Foreknown:
    """With `on_policy`, what was before the update is the current one without its gradient."""
    kinds: list[_Kind] = []
    same: list[int] = []
    numbers: dict[object, int] = {}
    for term in formula.terms:
        key = _identity(term, same, on_policy)
        same.append(key if isinstance(key, int) else numbers.setdefault(key, len(numbers)))
        kinds.append(_kind(formula, term, kinds, same, on_policy))
    return Foreknown(
        weights=not kinds[formula.objective].bends,
        logs=not any(kinds[index].moves for _, index in formula.logs),
    )


def _identity(term: Term, same: list[int], on_policy: bool) -> object:
    """Equal for terms that are equal in value; a number for one that was there already."""
    if term.op == "detach":
        return same[term.args[0]]
    if term.op != "input":
        return (term.op, term.attrs, term.level, *(same[arg] for arg in term.args))
    name = str(term.attr("name"))
    return name.removeprefix("old_") if on_policy else name


def _kind(
    formula: Formula, term: Term, kinds: list[_Kind], same: list[int], on_policy: bool
) -> _Kind:
    if term.op == "input":
        copied = on_policy and str(term.attr("name")).startswith("old_")
        return _Kind(term.live or term.differentiable or copied, False)
    args = [kinds[arg] for arg in term.args]
    moves = any(arg.moves for arg in args)
    bends = any(arg.bends for arg in args)
    if term.op == "sub" and same[term.args[0]] == same[term.args[1]]:
        return _Kind(False, bends)
    if not term.differentiable or term.op in _STEPS:
        return _Kind(moves, False)
    slopes = [formula.terms[arg].differentiable for arg in term.args]
    if term.op in _LINEAR:
        return _Kind(moves, bends)
    if term.op == "reduce" and term.attr("kind") in LINEAR_REDUCTIONS:
        chosen = any(arg.moves for arg in args[1:])  # what `where` takes in
        return _Kind(moves, bends or chosen)
    if term.op == "mul":
        left, right = args
        mixed = (slopes[0] and right.moves) or (slopes[1] and left.moves)
        return _Kind(moves, bends or mixed)
    if term.op == "div" and not slopes[1]:
        return _Kind(moves, bends or args[1].moves)
    if term.op == "where":
        return _Kind(moves, bends or args[0].moves)
    return _Kind(moves, bends or moves)
