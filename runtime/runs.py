"""The record of runs: one folder each under `.grape/runs`, newest last by name."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from grape.compiler.plan import Plan
from grape.runtime.errors import UsageError
from grape.runtime.store import readable_errors


def new_run(root: Path, plan: Plan) -> Path:
    """A folder for a run, with its plan. Its name is the run's id."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    folder = root / "runs" / name
    with readable_errors(root):
        (folder / "metrics").mkdir(parents=True)
        (folder / "logs").mkdir()
        (folder / "plan.json").write_text(plan.model_dump_json(indent=2), encoding="utf-8")
    return folder


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Replace `run.json` in one step."""
    fresh = folder / "run.json.new"
    fresh.write_text(json.dumps(record, indent=2), encoding="utf-8")
    fresh.replace(folder / "run.json")


def list_runs(root: Path) -> list[dict[str, Any]]:
    """Every run of a project, newest first: id, pipeline, state, folder, metrics, times."""
    found = []
    for path in sorted((root / "runs").glob("*/run.json"), key=_begun, reverse=True):
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        folder = path.parent
        metrics = {item.stem: str(item) for item in sorted((folder / "metrics").glob("*.jsonl"))}
        found.append({**record, "folder": str(folder), "metrics": metrics})
    return found


def _begun(path: Path) -> tuple[str, int]:
    """The second in its name; within one second, when its plan was written."""
    plan = path.with_name("plan.json")
    return path.parent.name[:15], plan.stat().st_mtime_ns if plan.is_file() else 0


def plan_of(folder: Path) -> Plan | None:
    """The plan of a run; None when it is not there or of another make."""
    try:
        return Plan.model_validate_json((folder / "plan.json").read_bytes())
    except (OSError, ValidationError):
        return None


def past_runs(root: Path, limit: int = 50) -> Iterator[tuple[dict[str, Any], Plan]]:
    """The newest runs, newest first, each with its plan."""
    for record in list_runs(root)[:limit]:
        plan = plan_of(Path(record["folder"]))
        if plan is not None:
            yield record, plan


def find_run(root: Path, name: str) -> dict[str, Any]:
    """The record of the run with that id, or with the only id that begins so. Raises
    UsageError."""
    rows = list_runs(root)
    found = [row for row in rows if row["id"] == name] or [
        row for row in rows if row["id"].startswith(name)
    ]
    if len(found) == 1:
        return found[0]
    newest = f"the newest is {rows[0]['id']}" if rows else f"there are no runs below `{root}`"
    what = f"there is no run `{name}`" if not found else f"several runs begin with `{name}`"
    raise UsageError(what, hint=newest)
