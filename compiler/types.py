"""Artifact types: what an edge of the graph carries.

A type is a kind and the facts that must stay compatible along edges. A fact that only a file can
tell is absent until probed.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ArtifactType:
    """`name`: Model, Data, Demos, Rollouts, Preferences, Ratings, Report or Files.

    `scored` tells scored Rollouts from fresh ones; `columns` are the parts that data has
    (`prompt`, `completion`, `chosen`, `rejected`, `answer`, `messages`, `desirable`); `parts` the
    labels of the rewards that scored them; `split` whether data has `.train` and `.test`.
    """

    name: str
    scored: bool = False
    columns: frozenset[str] = frozenset()
    parts: frozenset[str] = frozenset()
    split: bool = False

    def __str__(self) -> str:
        return f"scored {self.name}" if self.scored else self.name
