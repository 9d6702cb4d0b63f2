"""The quantities of a batch: name, level, and which batches have them."""

from __future__ import annotations

from dataclasses import dataclass

from grape.compiler.formula.levels import Level

BATCHES = ("Demos", "Rollouts", "Preferences", "Ratings")


@dataclass(frozen=True, slots=True)
class Quantity:
    """What a formula may ask of a batch."""

    level: Level
    on: tuple[str, ...] = BATCHES
    live: bool = False
    """Depends on the current forward pass, and carries gradient."""
    derived: bool = False
    """Follows from the shape of the batch; nobody has to supply it."""


QUANTITIES: dict[str, Quantity] = {
    "logp": Quantity(Level.TOKEN, live=True),
    "entropy": Quantity(Level.TOKEN, live=True),
    "old_logp": Quantity(Level.TOKEN),
    "ref_logp": Quantity(Level.TOKEN),
    "teacher_logp": Quantity(Level.TOKEN),
    "behavior_logp": Quantity(Level.TOKEN, on=("Rollouts",)),
    "length": Quantity(Level.SEQUENCE, derived=True),
    "index": Quantity(Level.TOKEN, derived=True),
    "active": Quantity(Level.TOKEN, derived=True),
    "reward": Quantity(Level.SEQUENCE, on=("Rollouts",)),
    "truncated": Quantity(Level.SEQUENCE, on=("Rollouts",)),
    "margin": Quantity(Level.PAIR, on=("Preferences",)),
    "desirable": Quantity(Level.SEQUENCE, on=("Ratings",)),
    "progress": Quantity(Level.BATCH),
}

NOT_YET = frozenset(
    [
        "logp_all",
        "old_logp_all",
        "ref_logp_all",
        "teacher_logp_all",
        "step_reward",
        "value",
        "old_value",
        "score",
        "node_value",
        "parent_value",
    ]
)
"""Quantities of the language that this version does not compute."""
