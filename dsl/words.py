"""The words of the language, read from the grammar: what editors colour and complete.

There is no second list: a keyword added to `grammar.lark` is known here. Only what a word does
(which group it belongs to) is said in this file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

_GRAMMAR = Path(__file__).with_name("grammar.lark")
_WORD = re.compile(r'"([a-z]+)"')
_TERMINAL = re.compile(r"^([A-Z]+): (.*)$", re.MULTILINE)
_LITERALS = ("TRUE", "FALSE")
_LOGIC = ("AND", "OR", "NOT")
_DECLARE = (
    *("USE", "REWARD", "RUBRIC", "CATEGORY", "ITEM", "ALGORITHM", "PIPELINE", "LET", "LOG"),
    *("MODEL", "DATA", "STAGE", "NEXT"),
)


@dataclass(frozen=True, slots=True)
class Words:
    """Keywords by what they do, in alphabetical order; no word is in two groups."""

    declarations: tuple[str, ...]
    """Words before the name of a thing: `pipeline`, `model`, `let`."""
    control: tuple[str, ...]
    """All other keywords: `repeat`, `per`, `from`."""
    logic: tuple[str, ...]
    constants: tuple[str, ...]

    @property
    def keywords(self) -> frozenset[str]:
        """Every word that the grammar gives a meaning somewhere."""
        return frozenset((*self.declarations, *self.control, *self.logic, *self.constants))


@cache
def words() -> Words:
    """The words of the grammar that ships with this package."""
    text = "\n".join(
        line for line in _GRAMMAR.read_text(encoding="utf-8").splitlines() if line[:2] != "//"
    )
    terminals = {name: set(_WORD.findall(body)) for name, body in _TERMINAL.findall(text)}
    declarations = set[str]().union(*(terminals[name] for name in _DECLARE))
    logic = set[str]().union(*(terminals[name] for name in _LOGIC))
    constants = set[str]().union(*(terminals[name] for name in _LITERALS))
    control = set(_WORD.findall(text)) - declarations - logic - constants
    return Words(*(tuple(sorted(group)) for group in (declarations, control, logic, constants)))
