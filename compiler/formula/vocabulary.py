"""The part of a formula that is about whole distributions, cut off from the rest.

Where values per vocabulary entry are reduced to one per token, the formula is cut: `outer` reads
the reductions as token quantities, `inner` computes them for some tokens at a time. Nothing then
needs a table of all tokens by all entries. What cannot be cut so is told, not guessed at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from grape.compiler.formula.functions import ALONG_TOKENS
from grape.compiler.formula.ir import Formula, Term
from grape.compiler.formula.levels import Level
from grape.compiler.formula.terms import reaching

TABLES = frozenset(["logp_all", "old_logp_all", "ref_logp_all", "teacher_logp_all"])
_LOCAL = frozenset(["logp", "entropy", "old_logp"])
"""Live token quantities that follow from a token's own distribution."""
_ACROSS = ALONG_TOKENS | {"gae", "rank", "widest", "reduce", "chosen", "rejected"}


@dataclass(frozen=True, slots=True)
class Split:
    """`outer` reads `vocab.K` for each `roots` K; `inner` reads tables and `feed.K`, the constant
    terms `feeds` of the whole formula, one per token or one number."""

    outer: Formula
    inner: Formula
    roots: tuple[int, ...]
    feeds: tuple[int, ...]


class Uncut(Exception):
    """Why a formula cannot be cut, in the reader's words."""


@cache
def split(formula: Formula) -> Split | None:
    """None for a formula without distributions. Raises `Uncut`."""
    if not formula.needs & TABLES:
        return None
    terms = formula.terms
    edges = {
        index
        for index, term in enumerate(terms)
        if term.level is not Level.VOCAB and _reads_vocab(terms, term)
    }
    outer = [_read(index, term) if index in edges else term for index, term in enumerate(terms)]
    kept = reaching(outer, formula.roots)
    roots = tuple(sorted(edges & kept))
    for index in roots:
        if terms[index].level is not Level.TOKEN:
            raise Uncut(f"a reduction of the vocabulary straight to {terms[index].level}")
    feeds: set[int] = set()
    _collect(terms, roots, _moving(terms), feeds)
    inner = [_feed(index, term) if index in feeds else term for index, term in enumerate(terms)]
    needs = frozenset(
        str(outer[index].attr("name")) for index in kept if outer[index].op == "input"
    )
    needs = frozenset(name for name in needs if not name.startswith(("vocab.", "state.")))
    return Split(
        replace(formula, terms=tuple(outer), needs=needs),
        replace(formula, terms=tuple(inner)),
        roots,
        tuple(sorted(feeds)),
    )


def _reads_vocab(terms: Sequence[Term], term: Term) -> bool:
    return any(terms[arg].level is Level.VOCAB for arg in term.args)


def _read(index: int, term: Term) -> Term:
    """A reduction as an input that depends on the current forward pass."""
    return Term("input", (), (("name", f"vocab.{index}"),), term.level, True, term.differentiable)


def _feed(index: int, term: Term) -> Term:
    level = Level.BATCH if term.level is Level.BATCH else Level.TOKEN
    return Term("input", (), (("name", f"feed.{index}"),), level, False, False, term.boolean)


def _moving(terms: Sequence[Term]) -> list[bool]:
    """Which terms follow from a distribution or from the current forward pass; what was before the
    update is the current pass where a batch is used once."""
    found: list[bool] = []
    for term in terms:
        moves = any(found[arg] for arg in term.args)
        if term.op == "input":
            name = str(term.attr("name"))
            moves = term.live or term.level is Level.VOCAB or name.startswith("old_")
        found.append(moves)
    return found


def _collect(
    terms: Sequence[Term], roots: Sequence[int], moving: list[bool], feeds: set[int]
) -> None:
    """Put the constants that the inner part reads into `feeds`. Raises `Uncut`."""
    open_, seen = list(roots), set[int]()
    while open_:
        index = open_.pop()
        if index in seen:
            continue
        seen.add(index)
        term = terms[index]
        if not moving[index]:
            if term.op != "const":
                feeds.add(index)
            continue
        if term.op == "input" and term.level is not Level.VOCAB and not _local(term):
            raise Uncut(f"`{term.attr('name')}` within a reduction over the vocabulary")
        inside = _reads_vocab(terms, term) and term.level is Level.TOKEN
        within = term.op in ("rank", "widest") and term.attr("per") == "token"
        here = term.level in (Level.VOCAB, Level.TOKEN) and term.op not in _ACROSS
        if not (here or inside or within):
            raise Uncut("other tokens within a reduction over the vocabulary")
        open_ += term.args


def _local(term: Term) -> bool:
    return str(term.attr("name")) in _LOCAL
