"""The name somebody probably meant: at most one, or two on a tie."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache


def nearest(name: str, candidates: Iterable[str]) -> tuple[str, ...]:
    """The candidates closest to `name`, if they differ in at most a third of its letters; a
    single letter is near to nothing.

    Distance is Damerau-Levenshtein with adjacent swaps (optimal string alignment).
    """
    return _nearest(name, tuple(candidates))


@lru_cache(maxsize=64)
def _nearest(name: str, candidates: tuple[str, ...]) -> tuple[str, ...]:
    limit = min(max(1, len(name) // 3), len(name) - 1)
    best: list[str] = []
    best_distance = limit + 1
    for candidate in candidates:
        if abs(len(candidate) - len(name)) > limit or candidate == name:
            continue
        distance = _distance(name.lower(), candidate.lower())
        if distance < best_distance:
            best, best_distance = [candidate], distance
        elif distance == best_distance and candidate not in best:
            best.append(candidate)
    return tuple(best) if best_distance <= limit and len(best) <= 2 else ()


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """`; did you mean …?` for the end of a sentence, or nothing."""
    close = nearest(name, candidates)
    return f"; did you mean {' or '.join(f'`{item}`' for item in close)}?" if close else ""


def _distance(left: str, right: str) -> int:
    before: list[int] = []
    row = list(range(len(right) + 1))
    for i, a in enumerate(left, 1):
        older, before, row = before, row, [i] + [0] * len(right)
        for j, b in enumerate(right, 1):
            row[j] = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == right[j - 2] and left[i - 2] == b:
                row[j] = min(row[j], older[j - 2] + 1)
    return row[-1]
