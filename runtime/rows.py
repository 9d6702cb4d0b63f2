"""Readers of data files: a path in, a stream of (place, row) out, one row at a time.

Each row is an object of plain JSON values; its place is how a message names it ("line 7").
Templates, splits and ids are `verbs.data`'s business.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, BinaryIO

from grape.runtime.errors import StageError

Row = tuple[str, dict[str, Any]]


def read_jsonl(path: Path, shown: str) -> Iterator[Row]:
    """One JSON object a line; blank lines are allowed. Raises StageError with the line number."""
    with path.open("rb") as file:
        for number, line in _decoded(file, shown):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise StageError(
                    f"`{shown}`, line {number}, column {error.colno} is not valid JSON: "
                    f"{_reason(error)}",
                    hint="every line must be one whole JSON object, such as "
                    '{"prompt": "2 + 2 =", "answer": "4"}',
                ) from None
            except ValueError:
                raise StageError(
                    f"`{shown}`, line {number} holds a number with too many digits to be read",
                    hint="write such a number as text, in quotes",
                ) from None
            except RecursionError:
                raise StageError(
                    f"`{shown}`, line {number} nests its values too deeply to be read",
                    hint="flatten that row",
                ) from None
            if not isinstance(row, dict):
                raise StageError(
                    f"`{shown}`, line {number} is {_kind(row)}, not an object with columns",
                    hint='write each row as {"column": value, …}',
                )
            yield f"line {number}", row


def _reason(error: json.JSONDecodeError) -> str:
    reason = error.msg[0].lower() + error.msg[1:]
    found = error.doc[error.pos : error.pos + 12].strip()
    return f"{reason}, found `{found}`" if found else f"{reason}, but the line ends"


def _kind(value: object) -> str:
    kinds = {list: "a list", str: "a string", bool: "a truth value", type(None): "null"}
    return kinds.get(type(value), "a number")


def _decoded(file: BinaryIO, shown: str) -> Iterator[tuple[int, str]]:
    for number, raw in enumerate(file, 1):
        try:
            yield number, raw.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise StageError(
                f"`{shown}`, line {number} is not UTF-8 text "
                f"(byte 0x{raw[error.start]:02x} at position {error.start + 1})",
                hint="save the file as UTF-8",
            ) from None


def read_csv(path: Path, shown: str) -> Iterator[Row]:
    """Comma separated values with a header line; every value is a string."""
    csv.field_size_limit(2**31 - 1)
    with path.open("rb") as file:
        reader = csv.reader((line for _, line in _decoded(file, shown)), strict=True)
        try:
            header = next(reader, None)
            if header is None:
                return
            _check_header(header, shown)
            for values in reader:
                if not values:
                    continue
                if len(values) != len(header):
                    raise StageError(
                        f"`{shown}`, line {reader.line_num} has {len(values)} values, but the "
                        f"header names {len(header)} columns",
                        hint='put a value that contains a comma into quotes: "1,234"',
                    )
                yield f"line {reader.line_num}", dict(zip(header, values, strict=True))
        except csv.Error as error:
            raise StageError(
                f"`{shown}`, line {reader.line_num} is not valid CSV: {error}",
                hint='quote a value with "…" and double a quote inside it',
            ) from None


def _check_header(header: list[str], shown: str) -> None:
    twice = [name for name in header if header.count(name) > 1]
    if twice:
        raise StageError(
            f"`{shown}`, line 1 names the column `{twice[0]}` twice", hint="rename one of them"
        )


def read_parquet(path: Path, shown: str) -> Iterator[Row]:
    """A Parquet table, in batches; dates become ISO text, decimals become text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    number += 1
                    yield f"row {number}", plain(row)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise StageError(
            f"`{shown}` cannot be read as Parquet: {reason}",
            hint="check that the file was copied whole and is a .parquet file",
        ) from None


def plain(value: Any) -> Any:
    """JSON values only, so that an artifact can hold them."""
    match value:
        case dict():
            return {str(key): plain(inner) for key, inner in value.items()}
        case list() | tuple() | set():
            return [plain(inner) for inner in value]
        case date() | time():
            return value.isoformat()
        case Decimal() | timedelta():
            return str(value)
        case bytes():
            return value.hex()
        case None | bool() | int() | float() | str():
            return value
    return str(value)


READERS: dict[str, Callable[[Path, str], Iterator[Row]]] = {
    "jsonl": read_jsonl,
    "csv": read_csv,
    "parquet": read_parquet,
}
