"""Draw the stage graph of a pipeline as Mermaid, DOT, JSON, SVG or an interactive page."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from grape.runtime.commands.shared import chosen_pipeline, load, pipeline_arguments, show

EXAMPLE = """examples:
  grape graph quickstart.grape
  grape graph quickstart.grape --format svg --out graph.svg
  grape graph quickstart.grape --format html --state --out graph.html"""


def arguments(parser: argparse.ArgumentParser) -> None:
    from grape.compiler.draw import FORMATS

    pipeline_arguments(parser)
    parser.add_argument("--format", choices=list(FORMATS), default="mermaid")
    parser.add_argument("--out", type=Path, help="write to a file instead of standard output")
    parser.add_argument("--state", action="store_true", help="colour stages by what a run would do")


def run(args: argparse.Namespace) -> int:
    from grape.compiler.draw import FORMATS

    program = load(args)
    if not program.ok:
        show(program.findings)
        return 1
    name = chosen_pipeline(program, args)
    graph = program.graph(name)
    plan = None
    if args.state:
        from grape.runtime.preparing import prepare

        plan = prepare(graph, args.file)
    text = FORMATS[args.format](graph, plan)
    if args.out:
        args.out.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
    return 0
