"""The typed, torch-free form of a formula: what `runtime` lowers to torch.fx.

A formula is a list of nodes in evaluation order; a node names its operands by index. Nodes are
hash-consed: equal work appears once. The whole formula is plain JSON, so that a plan can carry it.

    op          attrs                  meaning
    input       name                   a quantity of the batch
    const       value                  a number (or true/false)
    add sub mul div pow neg            arithmetic; operands broadcast to the level of the node
    eq ne lt le gt ge and or not       comparisons and logic; boolean
    where                              if a then b else c
    exp log log1p abs sqrt sigmoid log_sigmoid tanh sign minimum maximum clamp
    detach                             the value without its gradient
    reduce      kind, ddof, singleton  `mean(x per LEVEL)`: to the level of the node; a second
                                       operand is the test of `where`
    rank widest per, keep              among the items of `per`; the level of x
    at_end shift cumsum reverse_cumsum gae chosen rejected
    impossible                         constants that have no value, in a branch nobody takes
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from grape.compiler.formula.levels import SUBGROUPS, Level

Scalar = float | int | bool | str


@dataclass(frozen=True, slots=True)
class Term:
    """One node: an operation at a level."""

    op: str
    args: tuple[int, ...]
    attrs: tuple[tuple[str, Scalar], ...]
    level: Level
    live: bool
    """Depends on the current forward pass, whether or not gradient flows."""
    differentiable: bool
    """Gradient flows through it to the model."""
    boolean: bool = False

    def attr(self, name: str) -> Scalar:
        return dict(self.attrs)[name]


@dataclass(frozen=True, slots=True)
class Formula:
    """A checked algorithm with its parameters filled in.

    `objective` is an index into `terms`, of level batch; the loss is its value when `goal` is
    `minimize` and its negative when `goal` is `maximize`.
    """

    name: str
    on: str
    """The artifact type it learns from: Demos, Rollouts, Preferences or Ratings."""
    params: tuple[tuple[str, Scalar], ...]
    terms: tuple[Term, ...]
    goal: str
    objective: int
    logs: tuple[tuple[str, int], ...]
    needs: frozenset[str]
    """Demand: the names of the batch quantities that the objective or a log mentions."""
    coupling: Level
    """The level of items whose gradients cannot be formed apart: token, sequence, pair, group or
    batch. Rows of one such item stay in one micro-batch; for batch the step runs in two passes.
    `old_…` quantities count as live, since on-policy they are the current forward pass."""
    coupling_given_old: Level = Level.TOKEN
    """The same where `old_…` quantities are constants that another forward pass made."""
    constraints: tuple[tuple[int, float], ...] = ()
    """`subject to E <= NUMBER`: the term of level batch, and its bound."""
    memory: tuple[tuple[str, float, int], ...] = ()
    """`state N = INITIAL then E`: name, first value, and the term of level batch that is the next
    one. The current value is the input `state.N`."""

    @property
    def index_sets(self) -> frozenset[str]:
        """Which of `step`, `tree`, `cluster` and `set` a batch must hold: ids, not values."""
        named = {term.level for term in self.terms}
        named |= {Level(str(t.attr("per"))) for t in self.terms if "per" in dict(t.attrs)}
        return frozenset(level.value for level in (Level.STEP, *SUBGROUPS) if level in named)

    @property
    def roots(self) -> tuple[int, ...]:
        """The terms that an evaluation returns: objective, logs, constraints, next states."""
        return (
            self.objective,
            *(index for _, index in self.logs),
            *(index for index, _ in self.constraints),
            *(index for _, _, index in self.memory),
        )

    def to_json(self) -> dict[str, Any]:
        """A JSON object with every field; terms as lists in the order of `Term`."""
        return {
            "name": self.name,
            "on": self.on,
            "params": [list(pair) for pair in self.params],
            "terms": [
                [
                    t.op,
                    list(t.args),
                    [list(pair) for pair in t.attrs],
                    t.level.value,
                    t.live,
                    t.differentiable,
                    t.boolean,
                ]
                for t in self.terms
            ],
            "goal": self.goal,
            "objective": self.objective,
            "logs": [list(pair) for pair in self.logs],
            "needs": sorted(self.needs),
            "coupling": self.coupling.value,
            "coupling_given_old": self.coupling_given_old.value,
            "constraints": [list(pair) for pair in self.constraints],
            "memory": [list(item) for item in self.memory],
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Formula:
        """The inverse of `to_json`."""
        return Formula(
            name=data["name"],
            on=data["on"],
            params=tuple((name, value) for name, value in data["params"]),
            terms=tuple(
                Term(
                    op=op,
                    args=tuple(args),
                    attrs=tuple((name, value) for name, value in attrs),
                    level=Level(level),
                    live=live,
                    differentiable=differentiable,
                    boolean=boolean,
                )
                for op, args, attrs, level, live, differentiable, boolean in data["terms"]
            ),
            goal=data["goal"],
            objective=data["objective"],
            logs=tuple((name, index) for name, index in data["logs"]),
            needs=frozenset(data["needs"]),
            coupling=Level(data["coupling"]),
            coupling_given_old=Level(data["coupling_given_old"]),
            constraints=tuple((index, bound) for index, bound in data["constraints"]),
            memory=tuple((name, first, index) for name, first, index in data["memory"]),
        )
