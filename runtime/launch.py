"""One run for a person: progress while it goes, a report and a few lines at the end."""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

from grape.compiler.plan import Plan
from grape.runtime.preparing import root_of
from grape.runtime.progress import Progress
from grape.runtime.report import write_report
from grape.runtime.run import RunResult, run_plan
from grape.runtime.store import Store


def launch(plan: Plan, *, graph_svg: str | None, stream: TextIO | None) -> RunResult:
    """Run a plan, show its progress on `stream` (None: nowhere) and write its report."""
    root = root_of(Path(plan.project))
    if stream is None:
        result = run_plan(plan, root=root, on_event=lambda event: None)
    else:
        with Progress(plan, stream) as progress:
            result = run_plan(plan, root=root, on_event=progress.event)
    report(plan, result.folder, graph_svg)
    return result


def report(plan: Plan, folder: Path, graph_svg: str | None) -> Path:
    """Write `report.html` into a run's folder; the graph drawn once is kept beside it."""
    drawing = folder / "graph.svg"
    if graph_svg is not None:
        drawing.write_text(graph_svg, encoding="utf-8")
    svg = drawing.read_text(encoding="utf-8") if drawing.is_file() else ""
    store = Store(root_of(Path(plan.project)) / "store")
    return write_report(plan, folder, store, graph_svg=svg)
