"""Freeze what a file does not say in `grape.lock`: defaults, versions, digests of data."""

from __future__ import annotations

import argparse

from grape.runtime.commands.shared import load, pipeline_arguments, show
from grape.runtime.errors import UsageError

EXAMPLE = """examples:
  grape lock quickstart.grape             (every pipeline of the file)
  grape lock quickstart.grape --check     (exit 1 when something drifted)"""


def arguments(parser: argparse.ArgumentParser) -> None:
    pipeline_arguments(parser)
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 on drift")


def run(args: argparse.Namespace) -> int:
    from grape.runtime.locking import lock_findings, write_lock
    from grape.runtime.preparing import prepare

    program = load(args)
    show(program.findings)
    if not program.ok:
        return 1
    names = [args.pipeline] if args.pipeline else program.pipelines
    if not names or not set(names) <= set(program.pipelines):
        known = ", ".join(program.pipelines) or "none"
        raise UsageError(f"there is no such pipeline in `{args.file}`; it has: {known}")
    graphs = [program.graph(name) for name in names]
    plans = [prepare(graph, args.file) for graph in graphs]
    if args.check:
        pairs = zip(graphs, plans, strict=True)
        found = [one for graph, plan in pairs for one in lock_findings(graph, plan, locked=True)]
        show(found)
        return 1 if found else 0
    print(f"wrote {write_lock(plans)}: {', '.join(names)}")
    return 0
