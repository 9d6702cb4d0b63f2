"""Between which values a term lies, as far as its structure tells: whether a divisor can be zero.

Bounds are wide where nothing is known. The smallest positive number stands for "more than zero".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from grape.compiler.formula.ir import Term
from grape.compiler.formula.quantities import QUANTITIES, markers_of

Bounds = tuple[float, float]

TINY = 5e-324
_ALL: Bounds = (-math.inf, math.inf)
_BOOL: Bounds = (0.0, 1.0)


def bounds(terms: Sequence[Term]) -> list[Bounds]:
    """The bounds of each term."""
    found: list[Bounds] = []
    for term in terms:
        found.append(_bounds(term, [found[arg] for arg in term.args]))
    return found


def excludes_zero(span: Bounds) -> bool:
    return span[0] > 0 or span[1] < 0


def _bounds(term: Term, args: list[Bounds]) -> Bounds:
    if term.boolean:
        return _BOOL
    if term.op == "const":
        value = term.attr("value")
        assert not isinstance(value, str)
        return float(value), float(value)
    if term.op == "input":
        name = str(term.attr("name"))
        quantity = QUANTITIES.get(name)
        return quantity.bounds if quantity else _BOOL if markers_of(name) else _ALL
    if term.op == "reduce":
        return _reduced(str(term.attr("kind")), args)
    rule = _RULES.get(term.op)
    return rule(*args) if rule else _ALL


def _with_zero(span: Bounds) -> Bounds:
    return min(span[0], 0.0), max(span[1], 0.0)


def _reduced(kind: str, args: list[Bounds]) -> Bounds:
    low, high = args[0]
    chosen = len(args) > 1
    if kind == "count":
        return (0.0 if chosen else 1.0), math.inf
    if kind in ("std", "var"):
        return 0.0, math.inf
    if kind in ("any", "all"):
        return _BOOL
    if kind == "sum":
        low, high = (low if low >= 0 else -math.inf), (high if high <= 0 else math.inf)
    return _with_zero((low, high)) if chosen else (low, high)


def _times(a: float, b: float) -> float:
    return 0.0 if a == 0 or b == 0 else a * b


def _product(a: Bounds, b: Bounds) -> Bounds:
    corners = [_times(x, y) for x in a for y in b]
    low, high = min(corners), max(corners)
    if a[0] > 0 and b[0] > 0:
        low = max(low, TINY)
    return low, high


def _quotient(a: Bounds, b: Bounds) -> Bounds:
    if b[0] > 0:
        low = 0.0 if a[0] >= 0 else -math.inf
        if a[0] > 0:
            low = TINY
        return low, (0.0 if a[1] <= 0 else math.inf)
    return _ALL


def _power(a: Bounds, b: Bounds) -> Bounds:
    if a[0] > 0:
        return TINY, math.inf
    even = b[0] == b[1] and b[0] % 2 == 0
    return (0.0, math.inf) if even or a[0] == 0 else _ALL


def _absolute(a: Bounds) -> Bounds:
    least = 0.0 if a[0] <= 0 <= a[1] else min(abs(a[0]), abs(a[1]))
    return least, max(abs(a[0]), abs(a[1]))


def _exp(a: Bounds) -> Bounds:
    def at(x: float) -> float:
        return math.inf if x > 700 else math.exp(x)

    return max(TINY, at(a[0])), max(TINY, at(a[1]))


def _root(a: Bounds) -> Bounds:
    return (TINY if a[0] > 0 else 0.0), math.inf


def _pair(pick: Callable[..., float]) -> Callable[[Bounds, Bounds], Bounds]:
    return lambda a, b: (pick(a[0], b[0]), pick(a[1], b[1]))


def _clamped(x: Bounds, low: Bounds, high: Bounds) -> Bounds:
    least = min(max(x[0], low[0]), high[0])
    return least, max(least, min(max(x[1], low[1]), high[1]))


_RULES: dict[str, Callable[..., Bounds]] = {
    "add": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "sub": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "mul": _product,
    "div": _quotient,
    "pow": _power,
    "neg": lambda a: (-a[1], -a[0]),
    "abs": _absolute,
    "exp": _exp,
    "sqrt": _root,
    "sigmoid": lambda a: (TINY, 1.0),
    "tanh": lambda a: (-1.0, 1.0),
    "sign": lambda a: (-1.0, 1.0),
    "log_sigmoid": lambda a: (-math.inf, 0.0),
    "minimum": _pair(min),
    "maximum": _pair(max),
    "where": lambda test, a, b: (min(a[0], b[0]), max(a[1], b[1])),
    "clamp": _clamped,
    "detach": lambda a: a,
    "at_end": _with_zero,
    "shift": _with_zero,
    "chosen": lambda a: a,
    "rejected": lambda a: a,
    "rank": lambda a: (1.0, math.inf),
}
