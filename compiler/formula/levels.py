"""Levels: the index sets on which a quantity of a formula varies.

`vocab` (a value per vocabulary entry of a token) is finer than `token`, then `step`, `sequence`,
then `pair` and `group`, then `batch` (one number). `position` (same group, same token index) lies
between `token` and `group`, beside `step` and `sequence`. `tree`, `cluster` and `set` are parts of
a group that a sampler or a scorer names; they lie between `sequence` and `group`, side by side.
"""

from __future__ import annotations

from enum import StrEnum


class Level(StrEnum):
    VOCAB = "vocab"
    TOKEN = "token"
    STEP = "step"
    SEQUENCE = "sequence"
    POSITION = "position"
    PAIR = "pair"
    TREE = "tree"
    CLUSTER = "cluster"
    SET = "set"
    GROUP = "group"
    BATCH = "batch"


SUBGROUPS = (Level.TREE, Level.CLUSTER, Level.SET)
"""Levels whose ids the batch holds under the level's own name, one per sequence."""

_COARSER: dict[Level, tuple[Level, ...]] = {
    Level.VOCAB: (Level.TOKEN,),
    Level.TOKEN: (Level.STEP, Level.POSITION),
    Level.STEP: (Level.SEQUENCE,),
    Level.SEQUENCE: (Level.PAIR, Level.TREE, Level.CLUSTER, Level.SET),
    Level.TREE: (Level.GROUP,),
    Level.CLUSTER: (Level.GROUP,),
    Level.SET: (Level.GROUP,),
    Level.POSITION: (Level.GROUP,),
    Level.PAIR: (Level.BATCH,),
    Level.GROUP: (Level.BATCH,),
    Level.BATCH: (),
}


def _closure(level: Level) -> frozenset[Level]:
    found = {level}
    for coarser in _COARSER[level]:
        found |= _closure(coarser)
    return frozenset(found)


_COVERS: dict[Level, frozenset[Level]] = {level: _closure(level) for level in Level}


def covers(fine: Level, coarse: Level) -> bool:
    """Whether a value of `coarse` is the same for all of an item of `fine`: it can broadcast."""
    return coarse in _COVERS[fine]


def meet(left: Level, right: Level) -> Level:
    """The coarsest level that covers both; where `left` and `right` are combined."""
    both = [level for level in Level if covers(level, left) and covers(level, right)]
    return max(both, key=lambda level: -len(_COVERS[level]))
