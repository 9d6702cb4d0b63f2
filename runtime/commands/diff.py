"""Compare two files, saved plans or runs: parameters, settings, stages and results."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from grape.runtime.commands.shared import format_argument

EXAMPLE = """examples:
  grape diff old.grape new.grape
  grape diff 20260101-120000-ab12 20260102-120000-cd34 --project pipelines
  grape diff plan.json quickstart.grape --format json"""


def arguments(parser: argparse.ArgumentParser) -> None:
    for name in ("a", "b"):
        parser.add_argument(name, metavar=name.upper(), help="a .grape file, a plan, or a run's id")
    parser.add_argument(
        "--project", type=Path, default=Path(), help="the folder of the pipeline files, for runs"
    )
    parser.add_argument("--pipeline", metavar="NAME", help="which pipeline of the files")
    format_argument(parser, ("human", "json"), "how the comparison is printed")


def run(args: argparse.Namespace) -> int:
    from grape.runtime.comparing import compare, comparison_text, side

    sides = [side(name, args.project, args.pipeline) for name in (args.a, args.b)]
    found = compare(*sides)
    print(json.dumps(found, indent=2) if args.format == "json" else comparison_text(found))
    return 0
