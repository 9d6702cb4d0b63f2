"""What several commands share: naming a pipeline, loading it, and saying what was found.

Results go to stdout, everything for a person's eyes to stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from grape.dsl.findings import Finding
from grape.runtime.errors import UsageError

if TYPE_CHECKING:
    from grape.compiler.graph import Graph
    from grape.compiler.plan import Plan
    from grape.compiler.program import Program


def pipeline_arguments(parser: argparse.ArgumentParser, *, optional: bool = False) -> None:
    """FILE and the options that choose a pipeline and its parameters."""
    parser.add_argument("file", type=Path, nargs="?" if optional else None, help="a .grape file")
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


def device_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        metavar="DEVICE",
        help="estimate for `cpu`, `cuda:80GiB`, `24GiB`; this machine when left out",
    )


def track_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--track",
        dest="trackers",
        metavar="NAME",
        action="append",
        default=[],
        help="send metrics to tensorboard, wandb, mlflow or trackio; may be given several times",
    )


def locked_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--locked", action="store_true", help="refuse when `grape.lock` says something else"
    )


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


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan with all there is to say about it; no plan when the file has errors."""

    plan: Plan | None
    graph: Graph | None
    findings: list[Finding]

    @property
    def ok(self) -> bool:
        """No errors; there may be warnings."""
        from grape.compiler.program import is_error

        return self.plan is not None and not any(map(is_error, self.findings))


def planned(args: argparse.Namespace, *, quiet: bool = False) -> Planned:
    """The plan that the arguments mean, its findings shown: those of the file, of resources and
    of the lock, and what a look at first rows and tokenizers tells. With `quiet` only errors of
    the file are shown. An error that the look finds leaves no plan."""
    from grape.compiler.program import is_error
    from grape.compiler.resources import resource_findings
    from grape.runtime.devices import chosen
    from grape.runtime.locking import lock_findings
    from grape.runtime.preparing import prepare
    from grape.runtime.probe import probe

    program = load(args)
    if not program.ok:
        show(program.findings)
        return Planned(None, None, program.findings)
    name = chosen_pipeline(program, args)
    seen = probe(program, name) if getattr(args, "probe", False) else []
    if any(map(is_error, seen)):
        show([*program.findings, *seen])
        return Planned(None, None, [*program.findings, *seen])
    graph = program.graph(name)
    plan = prepare(graph, args.file, chosen(getattr(args, "device", None)))
    more = seen + program.plan_findings(name)
    more += resource_findings(graph, plan, program.files.values())
    more += lock_findings(graph, plan, locked=getattr(args, "locked", False))
    findings = [*program.findings, *more]
    if not quiet:
        show(findings)
    return Planned(plan, graph, findings)


def warn_drift(drift: Sequence[str]) -> None:
    """Say what is not as it was when a plan was made."""
    for sentence in drift:
        print(f"grape: {sentence}", file=sys.stderr)


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
