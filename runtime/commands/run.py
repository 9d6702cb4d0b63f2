"""Run a pipeline through Prefect: only what is not already in the store."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from pydantic import ValidationError

from grape.compiler.plan import Plan
from grape.runtime.commands.shared import (
    chosen_pipeline,
    load,
    pipeline_arguments,
    probe_argument,
    probed,
    show,
)
from grape.runtime.errors import UsageError

EXAMPLE = """examples:
  grape run pipelines/quickstart.grape
  grape run pipelines/quickstart.grape --set rounds=2 --set seed=1
  grape run plan.json"""

EXIT = {"completed": 0, "check-failed": 3, "failed": 4, "cancelled": 130}


def arguments(parser: argparse.ArgumentParser) -> None:
    pipeline_arguments(parser)
    probe_argument(parser)
    parser.add_argument("--quiet", action="store_true", help="no progress, only the result")


def run(args: argparse.Namespace) -> int:
    from grape.compiler.draw import FORMATS
    from grape.runtime.launch import launch, summary

    graph_svg = documents = None
    if args.file.suffix == ".json":
        plan = _saved(args.file)
    else:
        from grape.runtime.preparing import key_documents, prepare

        program = load(args)
        show(program.findings)
        if not program.ok:
            return 1
        name = chosen_pipeline(program, args)
        if not probed(program, name, args):
            return 1
        show(program.plan_findings(name))
        graph = program.graph(name)
        plan = prepare(graph, args.file)
        graph_svg = FORMATS["svg"](graph, plan)
        documents = key_documents(graph, args.file)
    stream = None if args.quiet else sys.stderr
    result = launch(plan, graph_svg=graph_svg, stream=stream, documents=documents)
    print(summary(plan, result))
    return EXIT[result.state]


def _saved(path: Path) -> Plan:
    if not path.is_file():
        raise UsageError(f"there is no file `{path}`")
    try:
        return Plan.model_validate_json(path.read_bytes())
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"]) or "its start"
        raise UsageError(
            f"`{path}` is not a plan that this version of Grape can run (at {place})",
            hint="make it anew with `grape plan FILE.grape --out plan.json`",
        ) from None
