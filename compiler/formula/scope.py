"""What names mean in one algorithm, and what has been found in it so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from grape.compiler.formula.ir import Scalar
from grape.compiler.formula.terms import Terms
from grape.dsl import ast
from grape.dsl.findings import Finding, Label
from grape.dsl.source import Span


class Poisoned(Exception):
    """The expression already has a finding."""


@dataclass(slots=True)
class Scope:
    on: str
    params: Mapping[str, Scalar]
    parts: frozenset[str]
    """Labels under which rewards were scored, for `reward.PART` and `sum_of_parts`."""
    judged: frozenset[str] = frozenset()
    """Which of `confidence.PART`, `weight.PART`, `applies.PART` exist; the others are 1."""
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Text parameters that a `where NAME in […]` limits, with the texts."""
    terms: Terms = field(default_factory=Terms)
    names: dict[str, int | None] = field(default_factory=dict)
    """`let` and `state` names; None for one whose expression is wrong."""
    part: str | None = None
    """Inside `sum_of_parts`: the part at hand, "" for the reward as a whole."""
    divisors: dict[int, Span] = field(default_factory=dict)
    """Where each division's divisor is written."""
    impossible: list[Span] = field(default_factory=list)
    """Where constants were combined that have no value."""
    findings: list[Finding] = field(default_factory=list)

    def refuse(
        self, code: str, message: str, span: Span, *labels: Label, hint: str | None = None
    ) -> Poisoned:
        """Note a finding; the caller raises what this returns."""
        self.findings.append(Finding(code, message, span, labels, hint))
        return Poisoned()


def choices_of(params: tuple[ast.Param, ...]) -> dict[str, tuple[str, ...]]:
    """The texts that each `where NAME in ["a", "b"]` allows."""
    found = {}
    for param in params:
        match param.where:
            case ast.Binary("in", ast.Name(name), ast.List(items)) if name == param.name.name:
                texts = [item.value for item in items if isinstance(item, ast.String)]
                if len(texts) == len(items):
                    found[name] = tuple(texts)
    return found
