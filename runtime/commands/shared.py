"""What several commands share: naming a pipeline, loading it, and saying what was found.

Results go to stdout, everything for a person's eyes to stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from grape.dsl.findings import Finding
from grape.runtime.errors import UsageError

if TYPE_CHECKING:
    from grape.compiler.program import Program


def pipeline_arguments(parser: argparse.ArgumentParser) -> None:
    """FILE and the options that choose a pipeline and its parameters."""
    parser.add_argument("file", type=Path, help="a .grape file")
    parser.add_argument("--pipeline", metavar="NAME", help="which pipeline of the file")
    parser.add_argument(
        "--set",
        dest="sets",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="set a parameter; may be given several times",
    )
    parser.add_argument("--params", type=Path, metavar="FILE.toml", help="parameters from a file")


def probe_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--no-probe",
        dest="probe",
        action="store_false",
        help="do not look at the first rows and the tokenizers",
    )


def probed(program: Program, pipeline: str, args: argparse.Namespace) -> bool:
    """Probe a pipeline unless the arguments say no, and show what is found; False for errors."""
    if not args.probe:
        return True
    from grape.compiler.program import is_error
    from grape.runtime.probe import probe

    found = probe(program, pipeline)
    show(found)
    return not any(is_error(finding) for finding in found)


def format_argument(parser: argparse.ArgumentParser, choices: Sequence[str], help: str) -> None:
    parser.add_argument("--format", choices=list(choices), default=choices[0], help=help)


def load(args: argparse.Namespace) -> Program:
    """Parse and check the file that the arguments name; UsageError when there is none."""
    from grape.compiler.program import load as load_program

    if not args.file.is_file():
        raise UsageError(f"there is no file `{args.file}`")
    return load_program(
        args.file, sets=assignments(args.sets), params_file=args.params, pipeline=args.pipeline
    )


def assignments(words: Iterable[str]) -> dict[str, str]:
    """`NAME=VALUE` words as a dict; UsageError for a word without `=` or a name given twice."""
    found: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name.strip():
            raise UsageError(f"`--set {word}` has no value; write `--set NAME=VALUE`")
        if name.strip() in found:
            raise UsageError(f"`--set` gives `{name.strip()}` twice")
        found[name.strip()] = value
    return found


def chosen_pipeline(program: Program, args: argparse.Namespace) -> str:
    """The pipeline that the arguments mean; UsageError when that is not clear."""
    names = list(program.pipelines)
    if args.pipeline is not None:
        if args.pipeline not in names:
            known = ", ".join(names) or "none"
            raise UsageError(f"`{args.file}` has no pipeline `{args.pipeline}`; it has: {known}")
        return str(args.pipeline)
    if len(names) != 1:
        raise UsageError(
            f"`{args.file}` has {len(names)} pipelines; choose one with --pipeline",
            hint=f"they are: {', '.join(names)}" if names else None,
        )
    return names[0]


def show(findings: Sequence[Finding], *, stream: TextIO | None = None) -> None:
    """Print findings for a person."""
    from grape.dsl.render import human

    out = stream or sys.stderr
    if findings:
        print(human(list(findings), color=colored(out), limit=20), file=out)


def colored(stream: TextIO) -> bool:
    return stream.isatty() and "NO_COLOR" not in os.environ


def grape_files(paths: Iterable[Path]) -> Iterator[Path]:
    """The `.grape` files that the paths name, folders searched; UsageError for a missing path."""
    for path in paths:
        if path.is_dir():
            found = sorted(path.rglob("*.grape"))
            if not found:
                raise UsageError(f"there is no .grape file below `{path}`")
            yield from found
        elif path.is_file():
            yield path
        else:
            raise UsageError(f"there is no file or folder `{path}`")
