"""The reward `sql`: a query gives the rows that the reference query gives, on SQLite in memory.

The database is copied into memory for each query; queries may only read, for a limited time, and
can attach no file and load no extension.
"""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from grape.runtime.artifacts import Completion
from grape.runtime.errors import StageError
from grape.runtime.rewards.extract import extracted
from grape.runtime.rewards.text import Scorer, expected

MOST_ROWS = 100_000
LARGEST_VALUE = 1_000_000
"""Bytes of one text or blob."""
_STEPS = 10_000
"""Instructions of SQLite between two looks at the clock."""
_READING = frozenset(
    {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE}
)

Rows = list[tuple[Any, ...]]


def sql(params: Mapping[str, Any], project: Path) -> Scorer:
    """1 where the completion's query and the reference in the column `of` give equal rows, in any
    order unless `ordered`. A query of the model that fails or is late scores 0; one of the data's
    raises."""
    seconds = params["timeout"]
    whole = None if params["database"] is None else _read(project / params["database"])

    def scorer(row: Completion) -> float:
        with closing(_database(row, whole, params["schema"])) as database:
            wanted = _rows(database, expected(row, params["of"], "sql"), seconds)
            try:
                found = _rows(database, extracted(row.text, params["extract"]), seconds)
            except (sqlite3.Error, sqlite3.Warning, ValueError):
                return 0.0
        if params["ordered"]:
            return float(found == wanted)
        return float(Counter(map(_key, found)) == Counter(map(_key, wanted)))

    return scorer


def _read(file: Path) -> bytes:
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as database:
            database.execute("SELECT count(*) FROM sqlite_master")
            return database.serialize()
    except sqlite3.Error as error:
        raise StageError(f"`{file.name}` is no SQLite database: {error}") from None


def _database(row: Completion, whole: bytes | None, column: str | None) -> sqlite3.Connection:
    database = sqlite3.connect(":memory:")
    if whole is not None:
        database.deserialize(whole)
    else:
        script = expected(row, column or "", "sql")
        try:
            database.executescript(script)
        except sqlite3.Error as error:
            database.close()
            raise ValueError(f"the tables in the column `{column}` are no SQL: {error}") from None
    database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LARGEST_VALUE)
    database.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    database.set_authorizer(
        lambda action, *rest: sqlite3.SQLITE_OK if action in _READING else sqlite3.SQLITE_DENY
    )
    return database


def _rows(database: sqlite3.Connection, query: str, seconds: float) -> Rows:
    end = time.monotonic() + seconds
    database.set_progress_handler(lambda: int(time.monotonic() > end), _STEPS)
    found = database.execute(query).fetchmany(MOST_ROWS + 1)
    if len(found) > MOST_ROWS:
        raise ValueError(f"the query gives more than {MOST_ROWS} rows")
    return found


def _key(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Equal for rows that SQL takes for equal: 1 and 1.0 are, 1 and "1" are not."""
    return tuple((isinstance(value, (str, bytes)), value) for value in row)
