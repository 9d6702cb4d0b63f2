"""Show what a run would do: every stage with its state, the reason, memory, tokens and time."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from grape.runtime.commands.shared import (
    device_argument,
    format_argument,
    locked_argument,
    pipeline_arguments,
    planned,
    probe_argument,
)
from grape.runtime.errors import UsageError

EXAMPLE = """examples:
  grape plan quickstart.grape
  grape plan quickstart.grape --set rounds=2 --format json
  grape plan quickstart.grape --device cuda:24GiB --explain policy
  grape plan quickstart.grape --out plan.json   (then: grape run plan.json)"""


def arguments(parser: argparse.ArgumentParser) -> None:
    pipeline_arguments(parser, optional=True)
    probe_argument(parser)
    device_argument(parser)
    locked_argument(parser)
    parser.add_argument("--out", type=Path, help="save the plan; `grape run` takes it")
    parser.add_argument("--explain", metavar="STAGE", help="its estimate, formula by formula")
    parser.add_argument("--schema", action="store_true", help="print the JSON schema of a plan")
    format_argument(parser, ("human", "json"), "how the plan is printed")


def run(args: argparse.Namespace) -> int:
    from grape.compiler.document import document, schema
    from grape.compiler.showing import explained, plan_text
    from grape.dsl.render import as_json

    if args.schema:
        sys.stdout.write(schema())
        return 0
    if args.file is None:
        raise UsageError("name a pipeline file: `grape plan FILE.grape`")
    found = planned(args)
    if found.plan is None:
        return 1
    if args.out:
        args.out.write_text(found.plan.model_dump_json(indent=2), encoding="utf-8")
    try:
        if args.explain:
            print(explained(found.plan, args.explain))
        elif args.format == "json":
            findings = as_json(found.findings)["findings"]
            print(json.dumps(document(found.plan, findings), indent=2))
        else:
            print(plan_text(found.plan))
    except ValueError as error:
        raise UsageError(str(error)) from None
    return 0 if found.ok else 1
