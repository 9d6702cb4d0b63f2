"""Between character offsets and what the protocol speaks: lines from 0, columns in code units of
the negotiated encoding (UTF-16 unless the client asks for another), file addresses.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

from lsprotocol import types as lsp

_LINE_END = re.compile(r"\r\n|\n|\r")


@lru_cache(maxsize=32)
def _starts(text: str) -> tuple[int, ...]:
    """Where the lines begin; the protocol counts a lone carriage return as a line end."""
    return (0, *(match.end() for match in _LINE_END.finditer(text)))


def _units(text: str, encoding: str) -> int:
    match encoding:
        case "utf-8":
            return len(text.encode("utf-8", "surrogatepass"))
        case "utf-32":
            return len(text)
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


class Converter:
    """Positions of one encoding: `utf-16`, `utf-8` or `utf-32`."""

    def __init__(self, encoding: str = "utf-16") -> None:
        self.encoding = encoding

    def position(self, text: str, offset: int) -> lsp.Position:
        """The place of a character offset; past the end, the end."""
        offset = min(offset, len(text))
        starts = _starts(text)
        line = bisect_right(starts, offset) - 1
        return lsp.Position(line, _units(text[starts[line] : offset], self.encoding))

    def range(self, text: str, start: int, end: int) -> lsp.Range:
        return lsp.Range(self.position(text, start), self.position(text, end))

    def offset(self, text: str, position: lsp.Position) -> int:
        """The character offset of a position; a column past its line is the line's end, and one
        inside a character the character's start."""
        starts = _starts(text)
        if position.line >= len(starts):
            return len(text)
        start = starts[position.line]
        end = starts[position.line + 1] if position.line + 1 < len(starts) else len(text)
        line = text[start:end].rstrip("\r\n")
        if line.isascii():
            return start + min(position.character, len(line))
        units = 0
        for number, char in enumerate(line):
            units += _units(char, self.encoding)
            if units > position.character:
                return start + number
        return start + len(line)

    def units(self, text: str) -> int:
        """The length of a piece of a line."""
        return _units(text, self.encoding)


def path_of(uri: str) -> Path | None:
    """The file of a `file:` address, links resolved; None for any other scheme."""
    parts = urlsplit(uri)
    if parts.scheme != "file":
        return None
    path = unquote(parts.path)
    if re.match(r"/[A-Za-z]:", path):
        path = path[1:]
    return Path(path).resolve()


def uri_of(path: Path) -> str:
    return path.resolve().as_uri()
