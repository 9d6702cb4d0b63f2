"""Check pipeline files: syntax, names, types, formulas, settings, lineage. Runs nothing."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from grape.dsl.findings import Finding
from grape.runtime.commands.shared import assignments, format_argument, grape_files, show

if TYPE_CHECKING:
    from grape.compiler.program import Program

EXAMPLE = """examples:
  grape lint quickstart.grape
  grape lint quickstart.grape --probe       (reads tokenizers and the first rows, no weights)
  grape lint pipelines --format json
  grape lint quickstart.grape --set rounds=2"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="files or folders")
    parser.add_argument("--set", dest="sets", metavar="NAME=VALUE", action="append", default=[])
    parser.add_argument("--params", type=Path, metavar="FILE.toml")
    parser.add_argument(
        "--probe", action="store_true", help="look at the first rows and the tokenizers, too"
    )
    parser.add_argument("--fix", action="store_true", help="apply the certain fixes")
    format_argument(parser, ("human", "json"), "how findings are printed")


def run(args: argparse.Namespace) -> int:
    from grape.compiler.program import load
    from grape.dsl.catalogue import entry
    from grape.dsl.render import as_json

    found = []
    count = 0
    for path in grape_files(args.paths):
        program = load(path, sets=assignments(args.sets), params_file=args.params)
        if args.fix and _fix(
            path, [f for f in program.findings if f.span.source.path == str(path)]
        ):
            program = load(path, sets=assignments(args.sets), params_file=args.params)
        said = program.findings + (_probed(program) if args.probe else [])
        found += [finding for finding in said if finding not in found]
        count += 1
    if args.format == "json":
        import json

        print(json.dumps(as_json(found), indent=2))
    else:
        show(found, stream=sys.stdout)
        print(_summary(found, count), file=sys.stderr)
    return 1 if any(entry(finding.code).severity == "error" for finding in found) else 0


def _probed(program: Program) -> list[Finding]:
    from grape.runtime.probe import probe

    return probe(program)


def _fix(path: Path, findings: list[Finding]) -> bool:
    from grape.dsl.render import apply_fixes

    fixes = [finding.fix for finding in findings if finding.fix and finding.fix.safe]
    if fixes:
        path.write_text(apply_fixes(path.read_text(encoding="utf-8-sig"), fixes), encoding="utf-8")
    return bool(fixes)


def _summary(found: list[Finding], count: int) -> str:
    from grape.dsl.catalogue import entry

    errors = sum(entry(finding.code).severity == "error" for finding in found)
    files = f"{count} file{'s' if count != 1 else ''}"
    if not found:
        return f"{files}: nothing to report"
    return f"{files}: {errors} error(s), {len(found) - errors} warning(s)"
