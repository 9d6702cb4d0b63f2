"""Serve editors: findings while typing, completion, hover, rename and more, over standard input and
output. An editor starts it; see docs/editors.md."""

from __future__ import annotations

import argparse
import gc
import logging
import sys

import grape
from grape.runtime.errors import UsageError

EXAMPLE = """examples:
  grape lsp              (started by an editor: it speaks the Language Server Protocol)
  grape lsp --log debug  (what it does, on standard error)"""


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--stdio", action="store_true", help="what is done anyway; clients send it")
    parser.add_argument("--log", choices=("debug", "info", "warning", "error"), default="warning")


def run(args: argparse.Namespace) -> int:
    from grape.compiler.semantics import GrapeAnalyser

    try:
        from grape.dsl.lsp.server import serve
    except ModuleNotFoundError as error:
        if error.name not in ("pygls", "lsprotocol"):
            raise
        hint = "install it: pip install 'grape-lang[lsp]'"
        raise UsageError("the language server needs pygls", hint=hint) from None
    gc.enable()  # the command line switches it off; a server lives long
    gc.freeze()
    logging.basicConfig(stream=sys.stderr, level=args.log.upper(), format="%(name)s: %(message)s")
    serve(GrapeAnalyser(), grape.__version__)
    return 0
