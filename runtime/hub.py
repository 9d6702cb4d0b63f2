"""Data sets of the hub, or in a folder, through the optional library `datasets`: rows come out.

It downloads nothing but the part that is asked for, and runs no code that comes with a data set.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from grape.dsl.nearest import did_you_mean
from grape.runtime.errors import StageError
from grape.runtime.rows import Row, plain
from grape.runtime.secrets import reveal


def read_hub(settings: Mapping[str, Any], project: Path) -> Iterator[Row]:
    """Rows with their places. Raises StageError when `datasets` is not installed, or the data set
    cannot be had."""
    table = _load(settings, project)
    for number, row in enumerate(table, 1):
        yield f"row {number}", plain(row)


def _load(settings: Mapping[str, Any], project: Path) -> Any:
    try:
        import datasets
    except ImportError:
        raise StageError(
            "`hf` data needs the library `datasets`, which is not installed",
            hint="install it: pip install 'grape-lang[hub]'",
        ) from None
    path, part = settings["path"], settings["part"]
    local = path.startswith(("./", "../"))
    folder = project / path
    try:
        if local and (folder / "dataset_dict.json").is_file():
            return _part(datasets.load_from_disk(str(folder)), part, path)
        if local and (folder / "state.json").is_file():
            return datasets.load_from_disk(str(folder))
        return datasets.load_dataset(
            str(folder) if local else path,
            settings["subset"],
            split=part,
            revision=settings["revision"],
            token=reveal(settings["token"]),
        )
    except (OSError, ValueError, RuntimeError) as error:  # whatever `datasets` and the hub raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise StageError(
            f"the data set `{path}` could not be read: {reason}", hint=_way_out(error, local)
        ) from error


def _part(found: Any, part: str, path: str) -> Any:
    if part not in found:
        raise StageError(
            f"the data set `{path}` has no part `{part}`{did_you_mean(part, found)}",
            hint=f"its parts are {', '.join(found)}",
        )
    return found[part]


def _way_out(error: Exception, local: bool) -> str:
    if local:
        return "a folder holds Parquet, CSV or JSON files, or what `save_to_disk` wrote"
    if isinstance(error, ConnectionError):
        return (
            "the hub cannot be reached; connect, or download the data set once and name its folder "
            '("./folder")'
        )
    return "check its name, `subset` and `part`; one that is not public needs a `token`"
