"""Templates of data: `"What is {a} + {b}?"` and a row in, a piece of text out.

`{column}` is replaced, `{{` and `}}` are braces. A template that is nothing but one column can keep
the column's type. Checking that the columns exist is the reader's job, which knows the place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_TOKEN = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


@dataclass(frozen=True, slots=True)
class Template:
    """Pieces in order: (text, None) or (None, column)."""

    pieces: tuple[tuple[str | None, str | None], ...]

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(column for _, column in self.pieces if column is not None)

    @property
    def only(self) -> str | None:
        """The column that is the whole template, if one is."""
        return self.pieces[0][1] if len(self.pieces) == 1 else None

    def render(self, row: Mapping[str, Any]) -> str:
        return "".join(
            text if text is not None else as_text(row[column or ""]) for text, column in self.pieces
        )


def parse_template(text: str) -> Template:
    """Raises ValueError with one sentence when a brace has no partner or a column no name."""
    pieces: list[tuple[str | None, str | None]] = []
    literal = ""
    end = 0
    for match in _TOKEN.finditer(text):
        literal += text[end : match.start()]
        end = match.end()
        if match[0] in ("{{", "}}"):
            literal += match[0][0]
            continue
        name = match[1].strip() if match[1] is not None else ""
        if not name:
            shown = text if len(text) <= 60 else f"{text[:57]}…"
            raise ValueError(
                f"the template {shown!r} has a `{match[0]}` that names no column; "
                f"write `{{{{` and `}}}}` for braces"
            )
        if literal:
            pieces.append((literal, None))
        pieces.append((None, name))
        literal = ""
    literal += text[end:]
    if literal or not pieces:
        pieces.append((literal, None))
    return Template(tuple(pieces))


def as_text(value: Any) -> str:
    """A value as a template shows it: text as it is, everything else as JSON."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
