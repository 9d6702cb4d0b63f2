"""Run a pipeline through Prefect: only what is not already in the store."""

from __future__ import annotations

import argparse
import sys

from grape.compiler.plan import Plan
from grape.runtime.commands.shared import (
    locked_argument,
    pipeline_arguments,
    planned,
    probe_argument,
    track_argument,
    warn_drift,
)
from grape.runtime.errors import UsageError

EXAMPLE = """examples:
  grape run pipelines/quickstart.grape
  grape run pipelines/quickstart.grape --set rounds=2 --set seed=1
  grape run pipelines/quickstart.grape --track tensorboard
  grape run plan.json"""

EXIT = {"completed": 0, "check-failed": 3, "failed": 4, "cancelled": 130}


def arguments(parser: argparse.ArgumentParser) -> None:
    pipeline_arguments(parser)
    probe_argument(parser)
    locked_argument(parser)
    track_argument(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress, only the result")


def run(args: argparse.Namespace) -> int:
    from grape.compiler.draw import FORMATS
    from grape.runtime.launch import launch, summary

    graph_svg = None
    if args.file.suffix == ".json":
        plan = _saved(args)
    else:
        found = planned(args)
        if found.plan is None or found.graph is None or not found.ok:
            return 1
        plan = found.plan
        graph_svg = FORMATS["svg"](found.graph, plan)
    stream = None if args.quiet else sys.stderr
    result = launch(plan, graph_svg=graph_svg, stream=stream, trackers=args.trackers)
    print(summary(plan, result))
    return EXIT[result.state]


def _saved(args: argparse.Namespace) -> Plan:
    """A saved plan is the run that it says: nothing else may choose."""
    from grape.runtime.preparing import saved_plan

    if args.sets or args.params or args.pipeline:
        raise UsageError(
            "a saved plan has its parameters; `--set`, `--params` and `--pipeline` are for files",
            hint="make the plan anew with `grape plan FILE.grape --set … --out plan.json`",
        )
    plan, drift = saved_plan(args.file)
    if drift and args.locked:
        raise UsageError(f"the plan does not hold here: {'; '.join(drift)}")
    warn_drift(drift)
    return plan
