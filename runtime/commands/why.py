"""Say why a stage would run: the tree of reasons, back to where the change began."""

from __future__ import annotations

import argparse
import json

from grape.runtime.commands.shared import format_argument, pipeline_arguments, planned
from grape.runtime.errors import UsageError

EXAMPLE = """examples:
  grape why quickstart.grape after
  grape why quickstart.grape after --set rounds=50 --format json"""


def arguments(parser: argparse.ArgumentParser) -> None:
    pipeline_arguments(parser)
    parser.add_argument("stage", metavar="STAGE")
    format_argument(parser, ("human", "json"), "how the reasons are printed")


def run(args: argparse.Namespace) -> int:
    from grape.compiler.document import document
    from grape.compiler.showing import why_text

    found = planned(args, quiet=True)
    if found.plan is None:
        return 1
    try:
        text = why_text(found.plan, args.stage)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if args.format == "human":
        print(text)
        return 0
    stages = {stage["name"]: stage for stage in document(found.plan)["stages"]}
    names = [args.stage]
    for name in names:  # grows: the inputs of what is in it
        names += [other for other in stages[name]["upstream"] if other not in names]
    fields = ("name", "state", "reason", "change", "differs", "upstream", "key")
    print(json.dumps({"stages": [{key: stages[name][key] for key in fields} for name in names]}))
    return 0
