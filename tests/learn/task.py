"""The task of the learning table: two letters, said the other way round.

Rows of data come out, the same ones always. Imitation of `said` teaches the form of an answer and
leaves to a coin whether it is in order or reversed; only the reward tells which is wanted.
"""

from __future__ import annotations

import json
import random
import string
from pathlib import Path

LETTERS = string.ascii_lowercase + string.digits
SHARES = {"ab": 35, "ba": 35, "aa": 5, "bb": 5, "a": 5, "b": 5, "bab": 5, "aba": 5}
"""How many in a hundred say what of the letters `ab`; the answer is `ba`."""


def rows() -> list[dict[str, str]]:
    """One row for every two different letters."""
    return [_row(a, b) for a in LETTERS for b in LETTERS if a != b]


def _row(a: str, b: str) -> dict[str, str]:
    pattern = random.Random(a + b).choices([*SHARES], [*SHARES.values()])[0]
    said = pattern.translate({ord("a"): a, ord("b"): b})
    return {"letters": a + b, "answer": b + a, "said": said}


def write_rows(folder: Path) -> None:
    """Write `letters.jsonl` into a folder."""
    text = "".join(json.dumps(row) + "\n" for row in rows())
    (folder / "letters.jsonl").write_text(text, encoding="utf-8")
