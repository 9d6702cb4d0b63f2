"""`grape.algorithm(name, …)`: one algorithm of the standard library as a function of tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from grape.compiler.algorithms import goes_through_parts
from grape.compiler.formula.infer import infer
from grape.compiler.formula.ir import Formula, Scalar
from grape.compiler.names import Refused
from grape.compiler.params import call_values
from grape.dsl import ast
from grape.dsl.nearest import did_you_mean
from grape.dsl.parse import parse
from grape.dsl.source import Source, Span

if TYPE_CHECKING:
    from torch import Tensor

    from grape.runtime.formula import Compiled, Result

LIBRARY = Path(__file__).parent.parent / "pipelines" / "std" / "algorithms"


@dataclass(frozen=True, slots=True)
class Algorithm:
    """A formula with its parameters filled in."""

    declaration: ast.AlgorithmDecl
    formula: Formula
    parted: bool = False
    """Whether it goes through the parts of the reward, so that a batch with parts tells which."""

    @property
    def name(self) -> str:
        return self.formula.name

    @property
    def on(self) -> str:
        """What it learns from: Demos, Rollouts, Preferences or Ratings."""
        return self.formula.on

    @property
    def needs(self) -> frozenset[str]:
        """The quantities it reads from a batch, and the ids it groups by besides `group`."""
        return self.formula.needs | self.formula.index_sets

    @property
    def params(self) -> dict[str, Scalar]:
        return dict(self.formula.params)

    def evaluate(self, batch: Mapping[str, Tensor]) -> Result:
        """Loss (a scalar to call `.backward()` on) and logs of a padded batch.

        Token and step quantities are [S, T], sequence quantities [S], pair quantities [S/2]
        (sequences 2i and 2i+1 are chosen and rejected of pair i), vocabulary quantities
        [S, T, V], `mask` [S, T] bool, `group` [S] int; where used, `step` [S, T], `tree` [S],
        `cluster` [S] and `set` [S] int. Raises ValueError naming what is missing or has a wrong
        shape."""
        if not self.parted:
            return _compiled(self.formula).evaluate(batch)
        heads = {name: name.partition(".")[::2] for name in batch}
        parts = frozenset(part for head, part in heads.values() if head == "reward" and part)
        judged = frozenset(name for name, (head, part) in heads.items() if head in _JUDGED and part)
        return _compiled(_with_parts(self.declaration, self.formula, parts, judged)).evaluate(batch)

    def explain(self, *, latex: bool = False) -> str:
        """Its mathematics, the level of each line, what it needs, its coupling and its cost; with
        `latex` the mathematics alone."""
        from grape.compiler.formula.explain import explain

        return explain(self.declaration, self.formula, latex=latex)


_JUDGED = ("confidence", "applies", "weight")


@cache
def _with_parts(
    declaration: ast.AlgorithmDecl, formula: Formula, parts: frozenset[str], judged: frozenset[str]
) -> Formula:
    found, findings = infer(declaration, dict(formula.params), parts=parts, judged=judged)
    if found is None:
        raise ValueError("; ".join(finding.message for finding in findings))
    return found


@cache
def _compiled(formula: Formula) -> Compiled:
    from grape.runtime.formula import compile_formula

    return compile_formula(formula)


def algorithm(name: str, **params: Scalar) -> Algorithm:
    """An algorithm of `std/algorithms` by name.

    Raises ValueError for an unknown name or parameter, or a value that its formula refuses.
    """
    path = LIBRARY / f"{name}.grape"
    if not path.is_file():
        known = sorted(item.stem for item in LIBRARY.glob("*.grape"))
        raise ValueError(f"there is no algorithm `{name}`{did_you_mean(name, known)}")
    file, findings = parse(Source(str(path), path.read_text(encoding="utf-8")))
    assert not findings, findings
    declaration = next(
        item
        for item in file.declarations
        if isinstance(item, ast.AlgorithmDecl) and item.name.name == name
    )
    return bind(declaration, params)


def bind(declaration: ast.AlgorithmDecl, params: Mapping[str, Scalar]) -> Algorithm:
    """An algorithm with values for its parameters, checked as a call in a file would be.

    Raises ValueError with the sentence that `grape lint` would say."""
    span = declaration.name.span
    args = [
        ast.Arg(ast.Ident(name, span), _literal(value, span), None, span)
        for name, value in params.items()
    ]
    try:
        found = call_values(declaration.name.name, declaration.params, args, {}, span)
    except Refused as refused:
        finding = refused.finding
        assert finding is not None
        said = (finding.message, finding.hint)
        raise ValueError("; ".join(part for part in said if part)) from None
    formula, findings = infer(declaration, {name: value.plain() for name, value in found.items()})
    if formula is None:
        raise ValueError("; ".join(finding.message for finding in findings))
    return Algorithm(declaration, formula, goes_through_parts(declaration))


def _literal(value: Scalar, span: Span) -> ast.Expr:
    if isinstance(value, bool):
        return ast.Bool(value, span)
    if isinstance(value, str):
        return ast.String(value, False, span)
    number = ast.Number(abs(value), "int" if isinstance(value, int) else "float", span)
    return ast.Unary("-", number, span) if value < 0 else number
