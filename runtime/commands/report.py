"""Write the HTML report of a run: the graph, curves, evaluations, checks and samples."""

from __future__ import annotations

import argparse
from pathlib import Path

from grape.runtime.errors import UsageError

EXAMPLE = """examples:
  grape report pipelines              (the newest run)
  grape report pipelines --run 20260101-120000-ab12"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "project", type=Path, nargs="?", default=Path(), help="the folder of the pipeline files"
    )
    parser.add_argument("--run", metavar="ID", help="which run; the newest when left out")


def run(args: argparse.Namespace) -> int:
    from grape.compiler.plan import Plan
    from grape.runtime.launch import report
    from grape.runtime.preparing import root_of
    from grape.runtime.runs import list_runs

    root = root_of(args.project.resolve())
    rows = list_runs(root)
    if not rows:
        raise UsageError(f"there are no runs below `{args.project.resolve()}`")
    known = [row["id"] for row in rows]
    if args.run is not None and args.run not in known:
        raise UsageError(f"there is no run `{args.run}`", hint=f"the newest is {known[0]}")
    folder = Path(rows[known.index(args.run) if args.run else 0]["folder"])
    plan = Plan.model_validate_json((folder / "plan.json").read_bytes())
    print(report(plan, folder, None))
    return 0
