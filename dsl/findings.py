"""Findings: what a check has to say to the user, as values.

A finding has a stable code, a place, one sentence in the reader's words, other places that matter
and, where one is certain, a fix. Rendering is done elsewhere (`render.py`); severity and the long
explanation come from the catalogue (`catalogue/CODE.md`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from grape.dsl.source import Span


@dataclass(frozen=True, slots=True)
class Label:
    """Another place that matters, and why."""

    span: Span
    text: str


@dataclass(frozen=True, slots=True)
class Edit:
    """Replace the characters of `span` by `text`."""

    span: Span
    text: str


@dataclass(frozen=True, slots=True)
class Fix:
    """A change that mends the finding; `safe` when it keeps the meaning for certain."""

    title: str
    edits: tuple[Edit, ...]
    safe: bool = True


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing to tell the user about their file."""

    code: str
    message: str
    span: Span
    labels: tuple[Label, ...] = ()
    hint: str | None = None
    fix: Fix | None = None


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Findings sorted by file, place and code, each once."""
    unique = dict.fromkeys(findings)
    return sorted(unique, key=lambda f: (f.span.source.path, f.span.start, f.span.end, f.code))
