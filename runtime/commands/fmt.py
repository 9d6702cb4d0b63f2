"""Format pipeline files in the one style there is. Every comment stays; broken files too."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from grape.runtime.commands.shared import grape_files
from grape.runtime.errors import UsageError

EXAMPLE = """examples:
  grape fmt quickstart.grape
  grape fmt --check pipelines
  grape fmt - < quickstart.grape"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", type=Path, nargs="+", metavar="PATH", help="files or folders; - for standard input"
    )
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if it would")


def run(args: argparse.Namespace) -> int:
    from grape.dsl.format import format_text

    if args.paths == [Path("-")]:
        sys.stdout.write(format_text(sys.stdin.read()))
        return 0
    changed = []
    for path in grape_files(args.paths):
        text = _read(path)
        try:
            formatted = format_text(text)
        except ValueError as error:
            raise UsageError(f"`{path}` was left as it is: {error}") from None
        if formatted != text:
            changed.append(path)
            if not args.check:
                path.write_text(formatted, encoding="utf-8", newline="")
    for path in changed:
        print(f"{'would format' if args.check else 'formatted'} {path}", file=sys.stderr)
    return 1 if changed and args.check else 0


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"`{path}` is not UTF-8 text (byte {error.start})") from None
