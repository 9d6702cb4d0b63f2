"""List the past runs of a project, newest first, with where their files are."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from grape.runtime.commands.shared import format_argument

EXAMPLE = """examples:
  grape runs
  grape runs pipelines --format json"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "project", type=Path, nargs="?", default=Path(), help="the folder of the pipeline files"
    )
    format_argument(parser, ("human", "json"), "how the list is printed")


def run(args: argparse.Namespace) -> int:
    from grape.runtime.preparing import root_of
    from grape.runtime.runs import list_runs

    rows = list_runs(root_of(args.project.resolve()))
    if args.format == "json":
        print(json.dumps({"runs": rows}, indent=2))
        return 0
    if not rows:
        print(f"no runs below {args.project.resolve()}")
    for row in rows:
        print(f"{row['id']}  {row['state']:<12}  {row['pipeline']:<16}  {row['folder']}")
    return 0
