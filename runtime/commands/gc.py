"""Remove from the store what no run needs. What a run in progress uses always stays."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from grape.runtime.commands.shared import format_argument
from grape.runtime.errors import UsageError

EXAMPLE = """examples:
  grape gc --dry-run
  grape gc pipelines
  grape gc pipelines --keep 5   (forget all but the newest 5 runs first)"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "project", type=Path, nargs="?", default=Path(), help="the folder of the pipeline files"
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would go, remove nothing")
    parser.add_argument("--keep", type=int, metavar="N", help="keep only the newest N runs")
    format_argument(parser, ("human", "json"), "how the result is printed")


def run(args: argparse.Namespace) -> int:
    from grape.compiler.estimates.ranges import size
    from grape.runtime.collecting import collect
    from grape.runtime.preparing import root_of

    if args.keep is not None and args.keep < 0:
        raise UsageError("`--keep` takes a number of runs, 0 or more")
    done = collect(root_of(args.project.resolve()), keep=args.keep, dry=args.dry_run)
    if args.format == "json":
        print(json.dumps({"removed": done.to_json(), "dry_run": args.dry_run}))
        return 0
    for row in done.rows:
        print(f"{row.kind:<13} {size(row.bytes):>9}  {row.name}  {row.about}".rstrip())
    word = "would free" if args.dry_run else "freed"
    print(f"{word} {size(done.bytes)} in {len(done.rows)} item(s); {done.kept} artifact(s) stay")
    return 0
