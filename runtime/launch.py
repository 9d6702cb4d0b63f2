"""One run for a person: progress while it goes, a report and a few lines at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from grape.compiler.plan import Plan
from grape.runtime.artifacts import Report
from grape.runtime.preparing import root_of
from grape.runtime.progress import Progress
from grape.runtime.report import write_report
from grape.runtime.run import RunResult, run_plan
from grape.runtime.stats import mean_ci95
from grape.runtime.store import Store
from grape.runtime.trackers import available


def launch(
    plan: Plan, *, graph_svg: str | None, stream: TextIO | None, trackers: Sequence[str] = ()
) -> RunResult:
    """Run a plan, show its progress on `stream` (None: nowhere) and write its report.

    Raises UsageError for a tracker that is unknown or not installed."""
    names = available(trackers)
    root = root_of(Path(plan.project))
    if stream is None:
        result = run_plan(plan, root=root, on_event=lambda event: None, trackers=names)
    else:
        with Progress(plan, stream) as progress:
            result = run_plan(plan, root=root, on_event=progress.event, trackers=names)
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


def summary(plan: Plan, result: RunResult) -> str:
    """What a run came to, in a few lines: evaluations, checks, outputs, the report."""
    lines = [f"{plan.pipeline}: {result.state}  (run {result.id})"]
    store = Store(root_of(Path(plan.project)) / "store")
    for stage in plan.stages:
        if stage.type == "Report" and store.has(stage.key):
            scores = list(Report.load(store.path(stage.key)).per_item().values())
            mean, low, high = mean_ci95(scores)
            lines.append(
                f"  {stage.name:<12} mean {mean:.3f}  95 % [{low:.3f}, {high:.3f}]  "
                f"on {len(scores)} items"
            )
    for check in result.checks:
        lines.append(f"  check {check['text']}: {check['verdict']}  ({check['detail']})")
    lines += [f"  output {path}" for path in result.outputs]
    if result.error:
        lines.append(f"  {result.error}")
    if result.hint:
        lines.append(f"  {result.hint}")
    lines.append(f"  report {result.report}")
    return "\n".join(lines)
