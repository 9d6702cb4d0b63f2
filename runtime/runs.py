"""The record of runs: one folder each under `.grape/runs`, newest last by name."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grape.compiler.plan import Plan
from grape.runtime.store import readable_errors


def new_run(root: Path, plan: Plan, documents: Mapping[str, Any] | None = None) -> Path:
    """A folder for a run, with its plan and the key documents of its stages. Its name is the
    run's id."""
    name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    folder = root / "runs" / name
    with readable_errors(root):
        (folder / "metrics").mkdir(parents=True)
        (folder / "logs").mkdir()
        (folder / "plan.json").write_text(plan.model_dump_json(indent=2), encoding="utf-8")
        if documents is not None:
            text = json.dumps(documents, ensure_ascii=False)
            (folder / "keys.json").write_text(text, encoding="utf-8")
    return folder


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Replace `run.json` in one step."""
    fresh = folder / "run.json.new"
    fresh.write_text(json.dumps(record, indent=2), encoding="utf-8")
    fresh.replace(folder / "run.json")


def list_runs(root: Path) -> list[dict[str, Any]]:
    """Every run of a project, newest first: id, pipeline, state, folder, metrics, times."""
    found = []
    for path in sorted((root / "runs").glob("*/run.json"), reverse=True):
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        folder = path.parent
        metrics = {item.stem: str(item) for item in sorted((folder / "metrics").glob("*.jsonl"))}
        found.append({**record, "folder": str(folder), "metrics": metrics})
    return found


def last_key_documents(root: Path, pipeline: str) -> dict[str, Any]:
    """Key documents of the newest run of a pipeline, by stage; empty when there is none."""
    for record in list_runs(root):
        path = Path(record["folder"]) / "keys.json"
        if record["pipeline"] == pipeline and path.is_file():
            document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return document
    return {}
