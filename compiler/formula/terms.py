"""Building the terms of a formula: hash-consing and constant folding.

`Terms` is the only place that makes a `Term`, so every rule about levels, liveness and
differentiability stands here once.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Sequence

from grape.compiler.formula.functions import BOOLEAN
from grape.compiler.formula.ir import Scalar, Term
from grape.compiler.formula.levels import Level, meet

_FOLD: dict[str, Callable[..., float | bool]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "div": operator.truediv,
    "pow": lambda a, b: float(a) ** b,  # whole numbers would grow without bound
    "neg": operator.neg,
    "eq": operator.eq,
    "ne": operator.ne,
    "lt": operator.lt,
    "le": operator.le,
    "gt": operator.gt,
    "ge": operator.ge,
    "and": lambda a, b: bool(a and b),
    "or": lambda a, b: bool(a or b),
    "not": operator.not_,
    "exp": math.exp,
    "log": math.log,
    "log1p": math.log1p,
    "abs": abs,
    "sqrt": math.sqrt,
    "tanh": math.tanh,
    "sign": lambda a: (a > 0) - (a < 0),
    "minimum": min,
    "maximum": max,
    "clamp": lambda x, low, high: min(max(x, low), high),
    "detach": lambda a: a,
    "sigmoid": lambda a: 1 / (1 + math.exp(-a)),
    "log_sigmoid": lambda a: -math.log1p(math.exp(-a)),
}

_STOPS_GRADIENT = BOOLEAN | {"detach", "sign"}


class Terms:
    """The terms of one formula while it is built; each is named by its index."""

    def __init__(self) -> None:
        self.items: list[Term] = []
        self._known: dict[Term, int] = {}

    def _add(self, term: Term) -> int:
        if term not in self._known:
            self._known[term] = len(self.items)
            self.items.append(term)
        return self._known[term]

    def const(self, value: float | bool) -> int:
        boolean = isinstance(value, bool)
        attrs: tuple[tuple[str, Scalar], ...] = (("value", value), ("boolean", boolean))
        return self._add(Term("const", (), attrs, Level.BATCH, False, False, boolean))

    def value(self, index: int) -> float | bool | None:
        """The number that a constant term holds, else None."""
        term = self.items[index]
        if term.op != "const":
            return None
        value = term.attr("value")
        assert not isinstance(value, str)
        return value

    def input(self, name: str, level: Level, live: bool) -> int:
        return self._add(Term("input", (), (("name", name),), level, live, live))

    def apply(self, op: str, *args: int) -> int:
        """An elementwise operation at the level where its operands meet.

        Raises ArithmeticError or ValueError when constants cannot be combined (`1 / 0`).
        """
        simple = self._simplify(op, args)
        if simple is not None:
            return simple
        terms = [self.items[arg] for arg in args]
        level = Level.BATCH
        for term in terms:
            level = meet(level, term.level)
        live = any(term.live for term in terms)
        flows = any(term.differentiable for term in terms) and op not in _STOPS_GRADIENT
        return self._add(Term(op, args, (), level, live, flows, op in BOOLEAN))

    def shaped(
        self,
        op: str,
        args: Sequence[int],
        level: Level,
        attrs: Iterable[tuple[str, Scalar]] = (),
        *,
        flows: bool = True,
        boolean: bool = False,
    ) -> int:
        """An operation that sets the level itself: a reduction, `chosen`, `shift` … Gradient
        flows through the first operand alone, if it does."""
        live = any(self.items[arg].live for arg in args)
        flows = flows and self.items[args[0]].differentiable
        return self._add(Term(op, tuple(args), tuple(attrs), level, live, flows, boolean))

    def impossible(self, number: int) -> int:
        """Constants that cannot be combined; an error only where something uses it."""
        attrs: tuple[tuple[str, Scalar], ...] = (("number", number),)
        return self._add(Term("impossible", (), attrs, Level.BATCH, False, False))

    def _simplify(self, op: str, args: tuple[int, ...]) -> int | None:
        values = [self.value(arg) for arg in args]
        if all(value is not None for value in values) and op in _FOLD:
            folded = _FOLD[op](*values)
            if isinstance(folded, complex):
                raise ValueError("a root of a negative number")
            return self.const(folded)
        if op == "where" and values[0] is not None:
            return args[1] if values[0] else args[2]
        if op == "mul" and 0 in values:
            return self.const(0.0)
        if op == "mul" and values[0] == 1:
            return args[1]
        if op in ("and", "or") and (values[0] is not None or values[1] is not None):
            known, other = (0, 1) if values[0] is not None else (1, 0)
            decided = bool(values[known]) == (op == "or")
            return self.const(op == "or") if decided else args[other]
        if op in ("mul", "div", "pow") and values[1] == 1:
            return args[0]
        if op == "add" and values[0] == 0:
            return args[1]
        if op in ("add", "sub") and values[1] == 0:
            return args[0]
        return None


def reaching(items: Sequence[Term], roots: Iterable[int]) -> set[int]:
    """The terms that the roots are computed from, and the roots."""
    reached: set[int] = set()
    stack = list(roots)
    while stack:
        index = stack.pop()
        if index not in reached:
            reached.add(index)
            stack += items[index].args
    return reached


def kept(items: list[Term], roots: Iterable[int]) -> tuple[list[Term], dict[int, int]]:
    """The terms that the roots reach, renumbered, and the map from old index to new."""
    reached = reaching(items, roots)
    renumber = {old: new for new, old in enumerate(sorted(reached))}
    terms = []
    for old in renumber:
        term = items[old]
        args = tuple(renumber[arg] for arg in term.args)
        terms.append(
            Term(
                term.op,
                args,
                term.attrs,
                term.level,
                term.live,
                term.differentiable,
                term.boolean,
            )
        )
    return terms, renumber
