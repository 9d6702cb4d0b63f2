"""Check pipeline files: syntax, names, types, formulas, settings, lineage. Runs nothing."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import grape
from grape.dsl.findings import Finding
from grape.runtime.commands.shared import assignments, format_argument, grape_files, show
from grape.runtime.errors import UsageError

if TYPE_CHECKING:
    from grape.compiler.program import Program

EXAMPLE = """examples:
  grape lint quickstart.grape
  grape lint quickstart.grape --probe       (reads tokenizers and the first rows, no weights)
  grape lint pipelines --format json
  grape lint pipelines --format sarif > grape.sarif   (for code scanning)
  grape lint pipelines --format github                (annotations in a GitHub workflow)
  grape lint quickstart.grape --fix
  grape lint quickstart.grape --set rounds=2"""

MOST_PASSES = 10
"""How often fixes are applied and the result checked again."""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", type=Path, nargs="+", metavar="PATH", help="files or folders")
    parser.add_argument("--set", dest="sets", metavar="NAME=VALUE", action="append", default=[])
    parser.add_argument("--params", type=Path, metavar="FILE.toml")
    parser.add_argument(
        "--probe", action="store_true", help="look at the first rows and the tokenizers, too"
    )
    parser.add_argument("--fix", action="store_true", help="apply the certain fixes")
    format_argument(parser, ("human", "json", "sarif", "github"), "how findings are printed")


def run(args: argparse.Namespace) -> int:
    from grape.dsl.catalogue import entry

    found: list[Finding] = []
    count = 0
    for path in grape_files(args.paths):
        program = _mended(path, args) if args.fix else _check(path, args)
        said = program.findings + (_probed(program) if args.probe else [])
        found += [finding for finding in said if finding not in found]
        count += 1
    _print(found, count, args.format)
    return 1 if any(entry(finding.code).severity == "error" for finding in found) else 0


def _check(path: Path, args: argparse.Namespace, text: str | None = None) -> Program:
    """A file checked, or a text in its place."""
    from grape.compiler.modules import Texts
    from grape.compiler.program import load

    texts = Texts(lambda wanted: text if wanted == path and text is not None else _read(wanted))
    return load(path, sets=assignments(args.sets), params_file=args.params, texts=texts)


def _read(path: Path) -> str:
    return path.read_bytes().decode("utf-8-sig", errors="replace")


def _mended(path: Path, args: argparse.Namespace) -> Program:
    """Apply the certain fixes, check again, until none is left; write only what still reads.

    Raises UsageError when the fixes would break the file, which then stays as it was.
    """
    from grape.dsl.render import apply_fixes

    before = _check(path, args)
    start = text = _exact(path)
    program = before
    for _ in range(MOST_PASSES):
        own = [f for f in program.findings if f.span.source.path == str(path)]
        fixed = apply_fixes(text, [f.fix for f in own if f.fix and f.fix.safe])
        if fixed == text:
            break
        text, program = fixed, _check(path, args, fixed)
    if text == start:
        return before
    if _breaks(program.findings, before.findings) or not _keeps_comments(start, text):
        raise UsageError(
            f"`{path}` was left as it is: the fixes would break it",
            hint="mend it by hand, and please report this",
        )
    path.write_text(text, encoding="utf-8", newline="")
    return program


def _exact(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"`{path}` is not UTF-8 text (byte {error.start})") from None


def _breaks(after: list[Finding], before: list[Finding]) -> bool:
    """Whether syntax is wrong that was right; other findings may come to light by a good fix."""
    from collections import Counter

    def syntax(findings: list[Finding]) -> Counter[str]:
        return Counter(finding.code for finding in findings if finding.code.startswith("G0"))

    return bool(syntax(after) - syntax(before))


def _keeps_comments(before: str, after: str) -> bool:
    """Whether no comment is lost but suppressions, which a fix may remove."""
    from collections import Counter

    def comments(text: str) -> Counter[str]:
        lines = (line.partition("#")[2].strip() for line in text.split("\n") if "#" in line)
        return Counter(line for line in lines if not line.startswith("grape:"))

    return not comments(before) - comments(after)


def _print(found: list[Finding], count: int, format: str) -> None:
    if format == "human":
        show(found, stream=sys.stdout)
        print(_summary(found, count), file=sys.stderr)
        return
    if format == "github":
        from grape.dsl.reports import as_github

        print(as_github(found), end="\n" if found else "")
        return
    import json

    if format == "json":
        from grape.dsl.render import as_json

        print(json.dumps(as_json(found), indent=2))
    else:
        from grape.dsl.reports import as_sarif

        print(json.dumps(as_sarif(found, grape.__version__), indent=2))


def _probed(program: Program) -> list[Finding]:
    from grape.runtime.probe import probe

    return probe(program)


def _summary(found: list[Finding], count: int) -> str:
    from grape.dsl.catalogue import entry

    errors = sum(entry(finding.code).severity == "error" for finding in found)
    files = f"{count} file{'s' if count != 1 else ''}"
    if not found:
        return f"{files}: nothing to report"
    return f"{files}: {errors} error(s), {len(found) - errors} warning(s)"
