"""Which items of a batch a gradient ties together.

A term spans all live values that one of its items is computed from. What is linear in them has a
gradient that no other value can change; anything else ties together what it spans: a ratio ties a
token, a length-normalised ratio its sequence, a live deviation its group or the whole batch.
"""

from __future__ import annotations

from collections.abc import Sequence

from grape.compiler.formula.functions import LINEAR_REDUCTIONS
from grape.compiler.formula.ir import Term
from grape.compiler.formula.levels import Level

_LINEAR = frozenset(
    [
        *("add", "sub", "neg", "detach", "chosen", "rejected"),
        *("shift", "cumsum", "reverse_cumsum", "at_end", "gae"),
    ]
)
_ORDER = (Level.TOKEN, Level.SEQUENCE, Level.PAIR, Level.GROUP, Level.BATCH)
_SPAN = {
    Level.VOCAB: 0,
    Level.TOKEN: 0,
    Level.STEP: 1,
    Level.SEQUENCE: 1,
    Level.PAIR: 2,
    Level.BATCH: 4,
}
_GROUP = 3
"""The span of every level that is part of a group."""


def coupling(terms: Sequence[Term], objective: int, *, old_is_live: bool) -> Level:
    """The level of items whose gradients cannot be formed apart."""
    live: list[bool] = []
    spans: list[int] = []
    tied: list[int] = []
    for term in terms[: objective + 1]:
        depends = [arg for arg in term.args if live[arg]]
        live.append(bool(depends) or (term.op == "input" and _is_live(term, old_is_live)))
        spans.append(_span(term, [spans[arg] for arg in depends]) if live[-1] else 0)
        inside = max((tied[arg] for arg in depends), default=0)
        linear = not depends or _linear(term, depends)
        tied.append(inside if linear else max(inside, spans[-1], *(spans[a] for a in depends)))
    return _ORDER[tied[objective]]


def _is_live(term: Term, old_is_live: bool) -> bool:
    return term.live or (old_is_live and str(term.attr("name")).startswith("old_"))


def _span(term: Term, inner: list[int]) -> int:
    own = 0
    if term.op in ("reduce", "chosen", "rejected") or not term.args:
        own = _SPAN.get(term.level, _GROUP)
    elif term.op in ("rank", "widest"):
        own = _SPAN.get(Level(str(term.attr("per"))), _GROUP)
    elif term.op in ("shift", "cumsum", "reverse_cumsum", "at_end", "gae"):
        own = 1
    return max(own, *inner) if inner else own


def _linear(term: Term, depends: list[int]) -> bool:
    if term.op == "reduce":
        return term.attr("kind") in LINEAR_REDUCTIONS and depends == [term.args[0]]
    if term.op == "mul":
        return len(depends) == 1
    if term.op == "div":
        return depends == [term.args[0]]
    if term.op == "where":
        return term.args[0] not in depends
    return term.op in _LINEAR
