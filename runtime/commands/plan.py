"""Show what a run would do: every stage with its state, the reason and the numbers."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from grape.runtime.commands.shared import (
    chosen_pipeline,
    format_argument,
    load,
    pipeline_arguments,
    probe_argument,
    probed,
    show,
)

EXAMPLE = """examples:
  grape plan quickstart.grape
  grape plan quickstart.grape --set rounds=2 --format json
  grape plan quickstart.grape --out plan.json   (then: grape run plan.json)"""


def arguments(parser: argparse.ArgumentParser) -> None:
    pipeline_arguments(parser)
    probe_argument(parser)
    parser.add_argument("--out", type=Path, help="save the plan; `grape run` takes it")
    format_argument(parser, ("human", "json"), "how the plan is printed")


def run(args: argparse.Namespace) -> int:
    from grape.compiler.showing import plan_json, plan_text
    from grape.runtime.preparing import prepare

    program = load(args)
    show(program.findings)
    if not program.ok:
        return 1
    name = chosen_pipeline(program, args)
    if not probed(program, name, args):
        return 1
    show(program.plan_findings(name))
    plan = prepare(program.graph(name), args.file)
    if args.out:
        args.out.write_text(plan.model_dump_json(indent=2), encoding="utf-8")
    print(json.dumps(plan_json(plan), indent=2) if args.format == "json" else plan_text(plan))
    return 0
