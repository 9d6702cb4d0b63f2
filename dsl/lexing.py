"""Between Lark's lexer and its parser: which line ends count, how deep brackets go, and that words
do not run into each other.

Line ends inside `( )` and `[ ]` are dropped; inside `{ }` a comma stands for a line end; runs of
line ends become one, and none is left at the start of the file or of a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from lark import Token

MAX_DEPTH = 60
"""How deep brackets may nest."""

_PAIRS = {"LPAR": "RPAR", "LSQB": "RSQB", "LBRACE": "RBRACE"}


class TooDeep(Exception):
    """Brackets nest deeper than MAX_DEPTH at `token`."""

    def __init__(self, token: Token) -> None:
        super().__init__("too deep")
        self.token = token


class Glued(Exception):
    """`token` follows `before`, both end and begin with a letter, a digit or `_`, and nothing
    stands between them: `with95%` is no word and no two words."""

    def __init__(self, before: Token, token: Token) -> None:
        super().__init__("glued")
        self.before = before
        self.token = token


class LineEnds:
    """The post-lexer. Lark calls `process` on every parse."""

    always_accept: ClassVar[tuple[str, ...]] = ("_NL", "COMMA")

    def process(self, stream: Iterator[Token]) -> Iterator[Token]:
        open_brackets: list[str] = []
        at_line_end = True  # drops the line ends before the first token
        before: Token | None = None
        for token in stream:
            kind = token.type
            if before is not None and before.end_pos == token.start_pos and _run_on(before, token):
                raise Glued(before, token)
            before = token
            inner = open_brackets[-1] if open_brackets else ""
            if kind == "COMMA" and inner == "LBRACE":
                kind = "_NL"
                token = token.update(type="_NL")
            if kind == "_NL":
                if inner in ("LPAR", "LSQB") or at_line_end:
                    continue
                at_line_end = True
            else:
                at_line_end = kind == "LBRACE"
                if kind in _PAIRS:
                    open_brackets.append(kind)
                    if len(open_brackets) > MAX_DEPTH:
                        raise TooDeep(token)
                elif open_brackets and kind == _PAIRS[inner]:
                    open_brackets.pop()
            yield token


def _run_on(before: Token, token: Token) -> bool:
    last, first = before[-1], token[0]
    return (last == "_" or last.isalnum()) and (first == "_" or first.isalnum())
