"""How much text a data source holds: how many items, and the first rows rendered.

It reads as few rows as tell something. A file of a form that it does not understand counts as
unknown: what is wrong with a row is said by the stage that reads it.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any

from grape.compiler.estimates.headers import Counter
from grape.compiler.estimates.ranges import Range

ROWS = 256
"""Rows that are read to learn how long texts are."""
BYTES_PER_TOKEN = Range(5, 3.5, 1)
"""What is assumed of a tokenizer that cannot be read: low, expected and high token counts."""
GENERATED = Range(20, 100, 400)
"""Tokens assumed of a prompt whose text is made only while running."""
TURN = 8
"""Tokens that a chat template is assumed to put around a turn."""

_COLUMN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Texts:
    """`items` in all; `parts` maps a part of an item (`prompt`, …) to its first texts."""

    items: int
    train: int
    parts: Mapping[str, Sequence[str]]

    def count(self, view: str | None) -> int:
        """Items of a view."""
        return {"train": self.train, "test": self.items - self.train}.get(view or "", self.items)

    def tokens(self, part: str, counter: Counter | None) -> Range:
        """Tokens of one text of that part: shortest, mean and longest of the first rows."""
        texts = self.parts.get(part)
        if not texts:
            return GENERATED
        if counter is not None:
            counts = [counter(text) for text in texts]
            return Range(min(counts), fmean(counts), max(counts))
        lengths = [len(text.encode("utf-8", "replace")) for text in texts]
        low, mean, high = min(lengths), fmean(lengths), max(lengths)
        return Range(
            max(1, low / BYTES_PER_TOKEN.low),
            max(1, mean / BYTES_PER_TOKEN.expected),
            max(1, high / BYTES_PER_TOKEN.high),
        )


def texts_of(verb: str, settings: Mapping[str, Any], project: Path) -> Texts | None:
    """The texts of a data source; None when they cannot be told."""
    if verb == "environment":
        items, parts = settings["size"], {}
    else:
        try:
            rows, items = _READERS[verb](project / settings["path"])
            parts = _rendered(rows, settings)
        except (OSError, ValueError, KeyError, RecursionError, csv.Error):
            return None
        items = min(items, settings["limit"] or items)
    if not items:
        return None
    split = settings["split"]
    return Texts(items, items if split is None else round(split * items), parts)


def _rendered(
    rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]
) -> dict[str, list[str]]:
    found = {}
    for part in ("prompt", "completion", "chosen", "rejected"):
        if settings.get(part) is not None:
            found[part] = [_fill(settings[part], row) for row in rows]
    if settings.get("messages") is not None:
        talks = [_talk(row.get(settings["messages"].strip("{} "))) for row in rows]
        found.setdefault("prompt", [asked for asked, _ in talks])
        found.setdefault("completion", [answered for _, answered in talks])
    return found


def _fill(template: str, row: Mapping[str, Any]) -> str:
    def one(match: re.Match[str]) -> str:
        if match[1] is None:
            return match[0][0]
        value = row[match[1].strip()]
        return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)

    return _COLUMN.sub(one, template)


def _talk(value: Any) -> tuple[str, str]:
    """What is asked and what is answered in a conversation, marks of the template as spaces."""
    turns = json.loads(value) if isinstance(value, str) else value
    sides: tuple[list[str], list[str]] = ([], [])
    for turn in turns or ():
        text = str(turn.get("content") or "") + " ." * (TURN // 2)
        sides[turn.get("role") == "assistant"].append(text)
    return "\n".join(sides[0]), "\n".join(sides[1])


Read = tuple[list[dict[str, Any]], int]


def _jsonl(path: Path) -> Read:
    with path.open(encoding="utf-8", errors="replace") as file:
        lines = [line for line in islice(file, ROWS) if line.strip()]
        more = sum(1 for line in file if line.strip())
    return [_row(line) for line in lines], len(lines) + more


def _row(line: str) -> dict[str, Any]:
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError("a row is no table")
    return row


def _csv(path: Path) -> Read:
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as file:
        rows: Iterator[dict[str, Any]] = csv.DictReader(file)
        first = list(islice(rows, ROWS))
        return first, len(first) + _length(rows)


def _length(rows: Iterable[object]) -> int:
    return sum(1 for _ in rows)


def _parquet(path: Path) -> Read:
    from pyarrow import ArrowInvalid
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            batch = next(file.iter_batches(ROWS), None)
            return (batch.to_pylist() if batch is not None else []), file.metadata.num_rows
    except ArrowInvalid:
        raise ValueError("no Parquet file") from None


_READERS = {"jsonl": _jsonl, "csv": _csv, "parquet": _parquet}
