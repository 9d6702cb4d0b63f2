"""Explain a finding code (why, bad and good example), an algorithm, or list the library."""

from __future__ import annotations

import argparse
import re

from grape.runtime.commands.shared import assignments
from grape.runtime.errors import UsageError

EXAMPLE = """examples:
  grape explain G204
  grape explain grpo
  grape explain algorithms
  grape explain grpo --set beta=0.04 --torch
  grape explain rpg --set divergence=forward --latex"""


_DEPTHS = {
    "lint": "found by `grape lint`",
    "probe": "found by `grape lint --probe`, `plan` and `run`",
    "plan": "found by `grape plan`",
    "run": "found while running",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", metavar="CODE|ALGORITHM|algorithms")
    parser.add_argument("--set", dest="sets", metavar="NAME=VALUE", action="append", default=[])
    parser.add_argument("--latex", action="store_true", help="the formulas alone, as LaTeX")
    parser.add_argument("--torch", action="store_true", help="the torch graph as code, too")


def run(args: argparse.Namespace) -> int:
    if re.fullmatch(r"[Gg]\d{3}", args.what):
        return _code(args.what.upper())
    if args.what == "algorithms":
        return _library()
    return _algorithm(args)


def _code(code: str) -> int:
    from grape.dsl.catalogue import entry

    try:
        found = entry(code)
    except KeyError as error:
        raise UsageError(str(error.args[0])) from None
    print(f"{found.code} {found.name} ({found.severity}, {_DEPTHS[found.depth]})\n\n{found.why}")
    print(f"\nNot so:\n\n{found.bad.rstrip()}\n\nBut so:\n\n{found.good.rstrip()}")
    if found.seen:
        print("\nPeople met it with other tools:")
        print("\n".join(f"  {address}" for address in found.seen))
    return 0


def _algorithm(args: argparse.Namespace) -> int:
    from grape.runtime.algorithm import algorithm

    try:
        values = {name: _number(text) for name, text in assignments(args.sets).items()}
        chosen = algorithm(args.what, **values)
    except ValueError as error:
        raise UsageError(str(error)) from None
    print(chosen.explain(latex=args.latex))
    if args.torch:
        from grape.runtime.formula import compile_formula

        print("\n" + str(compile_formula(chosen.formula).graph_module.code).strip())
    return 0


def _library() -> int:
    from grape.compiler.algorithms import library
    from grape.compiler.formula.explain import table
    from grape.runtime.algorithm import algorithm

    found = [algorithm(name) for name in library()]
    print(table((one.declaration, one.formula) for one in found))
    return 0


def _number(text: str) -> float | int | bool | str:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
