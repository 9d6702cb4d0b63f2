"""The saved parse table: `load` gives Lark from `grammar.table`, or builds it when that is stale.

The file begins with a digest of the grammar and of Lark's version. `python -m grape.dsl.table`
writes it anew; nothing else ever writes.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from pathlib import Path
from typing import Any

import lark
from lark import Lark
from lark.grammar import Rule
from lark.lexer import TerminalDef

from grape.dsl.lexing import LineEnds

_GRAMMAR = Path(__file__).with_name("grammar.lark")
_TABLE = Path(__file__).with_name("grammar.table")
_SHIFT = 0
"""Lark's mark of a shift in a saved table; a reduction is 1."""


def load(options: dict[str, Any]) -> tuple[Lark, bool]:
    """Lark with these options, and whether the saved table served (building takes 0.4 s)."""
    saved = _TABLE.read_bytes() if _TABLE.is_file() else b""
    digest = _digest()
    if saved.startswith(digest):
        return Lark.__new__(Lark)._load(io.BytesIO(saved[len(digest) :]), **options), True
    return _build(options), False


def write() -> None:
    """Save the parse table beside the grammar, so that a start need not build it."""
    data, memo = _build({"postlex": LineEnds()}).memo_serialize([TerminalDef, Rule])
    data["parser"]["parser"] = _renumbered(data["parser"]["parser"])
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, protocol=4)
    pickler.fast = True  # no back references: which strings are one object is chance
    pickler.dump({"data": data, "memo": memo})
    _TABLE.write_bytes(_digest() + buffer.getvalue())


def _renumbered(table: dict[str, Any]) -> dict[str, Any]:
    """The same automaton with tokens by name and states by walk: Lark numbers both by chance."""
    named: dict[int, str] = dict(table["tokens"])
    order = sorted(named, key=lambda number: str(named[number]))
    tokens = {old: new for new, old in enumerate(order)}
    rows = {
        state: sorted((tokens[token], action) for token, action in row.items())
        for state, row in table["states"].items()
    }
    walk = [state for _, state in sorted(table["start_states"].items())]
    numbers = {state: number for number, state in enumerate(walk)}
    for state in walk:  # grows while it is walked
        for _, (kind, target) in rows[state]:
            if kind == _SHIFT and target not in numbers:
                numbers[target] = len(walk)
                walk.append(target)
    return {
        "tokens": {new: named[old] for new, old in enumerate(order)},
        "states": {
            numbers[state]: {
                token: (kind, numbers[target] if kind == _SHIFT else target)
                for token, (kind, target) in rows[state]
            }
            for state in walk
        },
        "start_states": {name: numbers[state] for name, state in table["start_states"].items()},
        "end_states": {name: numbers[state] for name, state in table["end_states"].items()},
    }


def _digest() -> bytes:
    said = lark.__version__.encode() + b"\0" + _GRAMMAR.read_bytes()
    return hashlib.sha256(said).hexdigest().encode()


def _build(options: dict[str, Any]) -> Lark:
    grammar = _GRAMMAR.read_text(encoding="utf-8")
    return Lark(grammar, parser="lalr", lexer="contextual", maybe_placeholders=True, **options)


if __name__ == "__main__":
    write()
