"""Garbage of a project: artifacts, checkpoints and kept states that no run needs.

A run needs the artifacts that its plan names. Runs of which only the record is left count like
any other; a run that is going on counts even when it is told to be forgotten.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from grape.runtime.runs import list_runs
from grape.runtime.store import COLLECTING, Store


@dataclass(frozen=True, slots=True)
class Item:
    """Something to remove. `kind`: artifact, checkpoint, kept state, left over or run."""

    kind: str
    name: str
    bytes: int
    path: Path
    about: str = ""


@dataclass(slots=True)
class Collected:
    """What went, or would go, and how many artifacts stay."""

    rows: list[Item] = field(default_factory=list)
    kept: int = 0

    @property
    def bytes(self) -> int:
        return sum(row.bytes for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        items = [{**asdict(row), "path": str(row.path)} for row in self.rows]
        return {"items": items, "bytes": self.bytes, "artifacts_kept": self.kept}


def collect(root: Path, *, keep: int | None, dry: bool) -> Collected:
    """Remove what no run needs below `root` (`.grape`); with `keep`, all but the newest runs are
    forgotten first. With `dry` nothing is removed."""
    store = Store(root / "store")
    if not store.root.is_dir() and not (root / "runs").is_dir():
        return Collected()
    with store.lock(COLLECTING):
        runs = list_runs(root)
        newest = {row["id"] for row in runs[: len(runs) if keep is None else keep]}
        stay = [row for row in runs if row["id"] in newest or row["state"] == "running"]
        keys = {key for row in stay for key in _needed(row)}
        found = Collected()
        found.rows += _runs(runs, {row["id"] for row in stay})
        found.rows += _store(store, keys, found)
        if not dry:
            for row in found.rows:
                _remove(row.path)
            store.sweep()
    return found


def _runs(runs: list[dict[str, Any]], stay: set[str]) -> Iterator[Item]:
    for row in runs:
        if row["id"] not in stay:
            path = Path(row["folder"])
            yield Item("run", row["id"], _size(path), path, row["pipeline"])


def _needed(row: dict[str, Any]) -> Iterator[str]:
    """Keys, and families of repeats, that a run names. Read as plain JSON: a plan that another
    version of Grape wrote needs its artifacts no less."""
    for stage in row.get("stages", {}).values():
        yield stage.get("key", "")
    path = Path(row["folder"]) / "plan.json"
    if path.is_file():
        for stage in json.loads(path.read_text(encoding="utf-8"))["stages"]:
            yield from (stage.get("key", ""), stage.get("family", ""))


def _store(store: Store, keys: set[str], found: Collected) -> Iterator[Item]:
    for path in _inside(store.root / "objects"):
        if path.name in keys:
            found.kept += 1
        else:
            yield Item("artifact", path.name, _size(path), path, _about(store, path.name))
    for path in _inside(store.root / "work"):
        if path.name not in keys and not store.is_held(path.name):
            yield Item("checkpoint", path.name, _size(path), path)
    for path in _inside(store.root / "continue"):
        if path.name not in keys:
            yield Item("kept state", path.name, _size(path), path)


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _about(store: Store, key: str) -> str:
    try:
        manifest = store.manifest(key)
        return f"{manifest['verb']} of {manifest['created'][:10]}"
    except (OSError, json.JSONDecodeError, KeyError):
        return "not whole"


def _size(path: Path) -> int:
    """Bytes of the files below a folder; one that several folders share counts where it is."""
    total = 0
    for item in path.rglob("*"):
        try:
            total += item.lstat().st_size if not item.is_dir() else 0
        except OSError:
            continue
    return total


def _remove(path: Path) -> None:
    """The manifest first: what is half removed must not count as there."""
    (path / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)
