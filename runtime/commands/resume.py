"""Go on with a run that was stopped, failed or killed: the same plan, from what is there."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from grape.runtime.commands.run import EXIT
from grape.runtime.commands.shared import track_argument, warn_drift

EXAMPLE = """examples:
  grape resume 20260101-120000-ab12 --project pipelines
  grape resume 20260101-12   (the only run that begins so)"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_id", metavar="RUN", help="the id of the run; see `grape runs`")
    parser.add_argument(
        "--project", type=Path, default=Path(), help="the folder of the pipeline files"
    )
    track_argument(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress, only the result")


def run(args: argparse.Namespace) -> int:
    from grape.runtime.launch import launch, summary
    from grape.runtime.preparing import root_of, saved_plan
    from grape.runtime.runs import find_run

    record = find_run(root_of(args.project.resolve()), args.run_id)
    folder = Path(record["folder"])
    plan, drift = saved_plan(folder / "plan.json")
    warn_drift(drift)
    drawing = folder / "graph.svg"
    svg = drawing.read_text(encoding="utf-8") if drawing.is_file() else None
    stream = None if args.quiet else sys.stderr
    result = launch(plan, graph_svg=svg, stream=stream, trackers=args.trackers)
    print(summary(plan, result))
    return EXIT[result.state]
