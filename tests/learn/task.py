"""The task of the learning table: two letters, said the other way round.

Rows of data come out, the same ones always. Imitation teaches the form of an answer and
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
TIMES = 6
"""Completions of a prompt to imitate: with a single one, a model would learn it by heart."""


def rows() -> list[dict[str, str]]:
    """One row for every two different letters."""
    return [
        {"letters": a + b, "answer": b + a, **{f"said_{n}": _said(a, b, n) for n in range(TIMES)}}
        for a in LETTERS
        for b in LETTERS
        if a != b
    ]


def _said(a: str, b: str, number: int) -> str:
    draw = random.Random(f"{a}{b}{number}")
    pattern = draw.choices([*SHARES], [*SHARES.values()])[0]
    return pattern.translate({ord("a"): a, ord("b"): b})


def write_rows(folder: Path) -> None:
    """Write `letters.jsonl`, the prompts, and `said.jsonl`, what is imitated, into a folder."""
    found = rows()
    said = [
        {"letters": row["letters"], "said": row[f"said_{n}"]} for n in range(TIMES) for row in found
    ]
    asked = [{"letters": row["letters"], "answer": row["answer"]} for row in found]
    for name, lines in (("letters", asked), ("said", said)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
