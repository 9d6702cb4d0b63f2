"""Refusals and suggestions: how a check stops at one statement and names the nearest name.

`refuse` raises `Refused` with a finding; whoever checks a statement catches it, so that a
statement gets at most one finding and what depends on it is skipped.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

from grape.dsl.findings import Edit, Finding, Fix, Label
from grape.dsl.nearest import nearest
from grape.dsl.source import Span


class Refused(Exception):
    """A statement is wrong; `finding` is None when the reason was reported elsewhere."""

    def __init__(self, finding: Finding | None) -> None:
        super().__init__(finding.message if finding else "poisoned")
        self.finding = finding


def refuse(
    code: str,
    message: str,
    span: Span,
    *,
    labels: tuple[Label, ...] = (),
    hint: str | None = None,
    fix: Fix | None = None,
) -> NoReturn:
    """Raise `Refused` with a finding."""
    raise Refused(Finding(code, message, span, labels, hint, fix))


def unknown(
    code: str, message: str, name: str, span: Span, known: Iterable[str], *, listing: str = ""
) -> NoReturn:
    """Refuse an unknown name: suggest the nearest one, or else list what there is."""
    names = sorted(set(known))
    close = nearest(name, names)
    if close:
        meant = f"did you mean {' or '.join(f'`{best}`' for best in close)}?"
        fix = Fix(f"write `{close[0]}`", (Edit(span, close[0]),), safe=False)
        refuse(code, message, span, hint=meant, fix=fix if len(close) == 1 else None)
    hint = f"{listing}: {', '.join(names)}" if names and listing else None
    refuse(code, message, span, hint=hint)


def is_path(text: str) -> bool:
    """Whether a file system can hold such a path; asking it for another raises OSError."""
    longest = max(len(part.encode(errors="replace")) for part in text.split("/"))
    return "\0" not in text and len(text) <= MAX_PATH and longest <= MAX_NAME


MAX_PATH, MAX_NAME = 1024, 240
"""Characters of a path and bytes of a name in it; systems take 255, and endings may be added."""
