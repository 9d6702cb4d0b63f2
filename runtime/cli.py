"""The command line: argument parsing, dispatch, exit codes.

Every command is a module of `commands/` with `arguments(parser)` and `run(args) -> int`, imported
only when it is called, so that `grape --help` and `grape lint` stay quick. Exit codes: 0 fine,
1 findings, 2 wrong use, 3 a check failed, 4 a stage failed, 130 cancelled.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
from collections.abc import Sequence
from importlib import import_module

import grape
from grape.runtime.errors import StageError, UsageError

COMMANDS: dict[str, str] = {
    "new": "write a pipeline to start from",
    "lint": "check pipeline files",
    "fmt": "format pipeline files",
    "explain": "explain a finding code or an algorithm",
    "graph": "draw the stage graph",
    "plan": "show what a run would do, and why",
    "why": "say why a stage would run",
    "run": "run a pipeline",
    "resume": "go on with a run that was stopped",
    "runs": "list past runs",
    "report": "write the HTML report of a run",
    "diff": "compare two files, plans or runs",
    "lock": "freeze defaults, versions and data of a pipeline",
    "gc": "remove from the store what no run needs",
    "server": "start, stop or show the Prefect server that Grape owns",
    "lsp": "serve editors (language server)",
}

_STATIC = frozenset({"lint", "fmt", "explain", "graph", "plan", "why", "diff", "lock", "lsp"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    gc.disable()  # short commands allocate once and exit; long work happens in worker processes
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except (UsageError, StageError) as error:
        _say(error.message, error.hint)
        return 2 if isinstance(error, UsageError) else 4
    except KeyboardInterrupt:
        _say("cancelled", None)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(arguments: list[str]) -> int:
    name = next((word for word in arguments if not word.startswith("-")), None)
    if name in _STATIC:
        # looking for pydantic plugins reads every installed package's metadata: 50 ms of a lint
        os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    parser = argparse.ArgumentParser(
        prog="grape",
        description="Post-train language models from one declarative file.",
        epilog="Example: grape run pipelines/quickstart.grape",
    )
    parser.add_argument("--version", action="version", version=f"grape {grape.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command, summary in COMMANDS.items():
        if command != name:
            commands.add_parser(command, help=summary)
            continue
        module = import_module(f"grape.runtime.commands.{command}")
        chosen = commands.add_parser(
            command,
            help=summary,
            description=(module.__doc__ or "").strip(),
            epilog=module.EXAMPLE,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.arguments(chosen)
        chosen.set_defaults(do=module.run)
    args = parser.parse_args(arguments)
    code: int = args.do(args)
    return code


def _say(message: str, hint: str | None) -> None:
    print(f"grape: {message}", file=sys.stderr)
    if hint:
        print(f"  {hint}", file=sys.stderr)
