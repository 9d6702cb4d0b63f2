"""`make learn`: every online algorithm of the library on one small task, three seeds each.

Writes a pipeline file for each algorithm into a project folder, runs it as `grape run` does, and
makes `docs/learning.md` from the reports and metrics that the runs stored. What the store has is
not run again, so that a table which was cut off goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

from learn import recipes, task
from learn.figures import Outcome, bound, outcome
from learn.page import Machine, Row, page

import grape
from grape.compiler.planning import library_versions
from grape.runtime import run as running
from grape.runtime import worker
from grape.runtime.artifacts import Report
from grape.runtime.context import Emit, file_name
from grape.runtime.errors import StageError
from grape.runtime.rounds import REPORTS
from grape.runtime.runs import list_runs
from grape.runtime.store import Store

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "learning.md"


def _here(job: dict[str, Any], folder: Path, *, stop: threading.Event, emit: Emit) -> None:
    """What a worker does with a job, in this process: to start one costs more than to train."""
    name = file_name(job["stage"]["name"])
    told, path = folder / "logs" / f"{name}.events", folder / "logs" / f"{name}.job.json"
    events = os.open(told, os.O_WRONLY | os.O_CREAT)
    path.write_text(json.dumps({**job, "events": events, "log": str(told)}), encoding="utf-8")
    ended = worker.main(["", str(path)])
    for event in map(json.loads, told.read_text(encoding="utf-8").splitlines()):
        if event["event"] == "error":
            raise StageError(event["message"])
        emit(event)
    assert ended == 0, f"{path} failed without a reason"


def taught(name: str, folder: Path) -> Row:
    """Run one algorithm's pipeline; what it came to, or why it did not run."""
    path = folder / f"{name}.grape"
    path.write_text(recipes.pipeline(name), encoding="utf-8")
    try:
        program = grape.load(path)
    except grape.Invalid as invalid:
        return Row(name, [], absent=invalid.findings[0].message)
    plan = program.plan()
    store = Store(folder / ".grape" / "store")
    if not all(store.has(stage.key) for stage in plan.stages):
        result = program.run(probe=False)
        if result.state != "completed":
            return Row(name, [], absent=result.error or result.state)
    keys = {stage.name: stage.key for stage in plan.stages}
    outcomes = [_outcome(seed, keys, store) for seed in recipes.SEEDS]
    constraints = recipes.formula_of(name).formula.constraints
    if not constraints:
        return Row(name, outcomes)
    rows = [row for seed in recipes.SEEDS for row in _metrics(seed, keys, folder / ".grape")]
    return Row(name, outcomes, bound=bound(constraints[0][1], rows))


def _outcome(seed: int, keys: Mapping[str, str], store: Store) -> Outcome:
    before = Report.load(store.path(keys[f'before["{seed}"]']))
    key = keys[f'policy["{seed}"]']
    last = max((store.path(key) / REPORTS).glob("after/*"))
    seconds = float(store.manifest(key)["seconds"])
    return outcome(seed, before.per_item(), Report.load(last).per_item(), seconds)


def _metrics(seed: int, keys: Mapping[str, str], root: Path) -> Iterator[dict[str, Any]]:
    """What the updates of a repeat told, from the run that made its artifact."""
    name = f'policy["{seed}"]'
    for record in list_runs(root):
        stage = record["stages"].get(name, {})
        told = record["metrics"].get(f"{name}.next")  # none of a run that waited for another
        if told and stage.get("key") == keys[name] and stage["state"] == "completed":
            text = Path(told).read_text(encoding="utf-8")
            yield from map(json.loads, text.splitlines())
            return
    raise SystemExit(f"no run in {root} tells how {name} was made")


def _machine() -> Machine:
    return Machine(
        date=time.strftime("%Y-%m-%d"),
        cores=os.cpu_count() or 1,
        threads=os.environ.get("OMP_NUM_THREADS", "all"),
        python=platform.python_version(),
        versions=library_versions(),
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="algorithms; none: every online one")
    parser.add_argument("--folder", type=Path, default=ROOT / ".learn", help="where the runs are")
    parser.add_argument("--page", type=Path, help="write the page here; none: to the terminal")
    parser.add_argument("--apart", action="store_true", help="a process for each stage, as ever")
    args = parser.parse_args(argv)
    args.folder.mkdir(parents=True, exist_ok=True)
    task.write_rows(args.folder)
    rows = []
    with nullcontext() if args.apart else patch.object(running, "run_job", _here):
        for name in args.names or recipes.names():
            rows.append(taught(name, args.folder))
            print(rows[-1].line(), flush=True)
    text = page(rows, _machine())
    if args.page is None:
        print(text)
    else:
        args.page.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
