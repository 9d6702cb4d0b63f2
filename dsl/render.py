"""Findings as text for a person, as JSON, and fixes as edits of a text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any
from unicodedata import east_asian_width

from grape.dsl.catalogue import entry
from grape.dsl.findings import Edit, Finding, Fix, in_order
from grape.dsl.source import Span

_COLORS = {"error": "\x1b[31m", "warning": "\x1b[33m", "bold": "\x1b[1m", "dim": "\x1b[2m"}
_RESET = "\x1b[0m"
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")
"""What a terminal would obey rather than show."""


def human(findings: Sequence[Finding], *, color: bool = False, limit: int | None = None) -> str:
    """Findings for a terminal: place, code, sentence, and the source line underlined."""
    ordered = in_order(findings)
    shown = ordered if limit is None else ordered[:limit]
    blocks = [_block(finding, color) for finding in shown]
    if len(shown) < len(ordered):
        blocks.append(f"… and {len(ordered) - len(shown)} more")
    return "\n\n".join(blocks)


def _paint(text: str, what: str, color: bool) -> str:
    return f"{_COLORS[what]}{text}{_RESET}" if color else text


def _block(finding: Finding, color: bool) -> str:
    severity = entry(finding.code).severity
    head = f"{severity} {finding.code}"
    lines = [
        f"{_place(finding.span)}: {_paint(head, severity, color)}: "
        f"{_paint(finding.message, 'bold', color)}"
    ]
    lines += _excerpt(finding.span, "^", "", severity, color)
    for label in finding.labels:
        lines.append(_paint(f"  {_place(label.span)}", "dim", color))
        lines += _excerpt(label.span, "-", f" {label.text}", "dim", color)
    if finding.hint:
        lines.append(f"  hint: {finding.hint}")
    if finding.fix:
        lines.append(f"  fix: {finding.fix.title}")
    return "\n".join(lines)


def _place(span: Span) -> str:
    return f"{span.source.path}:{span.line}:{span.column}"


def _excerpt(span: Span, mark: str, text: str, paint: str, color: bool) -> list[str]:
    line, column = span.source.position(span.start)
    source = span.source.line_text(line)
    if not source.strip():
        return []
    length = min(span.end - span.start, len(source) - column + 1)
    before = "".join("\t" if char == "\t" else " " * _width(char) for char in source[: column - 1])
    marked = sum(_width(char) for char in source[column - 1 : column - 1 + length])
    number = f"{line:>4}"
    source = _CONTROL.sub("\ufffd", source)
    under = _paint(mark * max(1, marked) + text, paint, color)
    return [f"{number} | {source}", f"     | {before}{under}"]


def _width(char: str) -> int:
    return 2 if east_asian_width(char) in "WF" else 1


def as_json(findings: Iterable[Finding]) -> dict[str, Any]:
    """The documented JSON: findings with lines and columns from 1, and a summary."""
    rows = [_row(finding) for finding in in_order(findings)]
    errors = sum(row["severity"] == "error" for row in rows)
    return {"findings": rows, "summary": {"errors": errors, "warnings": len(rows) - errors}}


def _row(finding: Finding) -> dict[str, Any]:
    row: dict[str, Any] = {
        "code": finding.code,
        "severity": entry(finding.code).severity,
        "message": finding.message,
        "file": finding.span.source.path,
        **_range(finding.span),
        "labels": [
            {"message": label.text, "file": label.span.source.path, **_range(label.span)}
            for label in finding.labels
        ],
    }
    if finding.hint:
        row["hint"] = finding.hint
    if finding.fix:
        row["fix"] = {
            "title": finding.fix.title,
            "safe": finding.fix.safe,
            "edits": [{**_range(edit.span), "text": edit.text} for edit in finding.fix.edits],
        }
    return row


def _range(span: Span) -> dict[str, Any]:
    end_line, end_column = span.end_position
    return {
        "start": {"line": span.line, "column": span.column},
        "end": {"line": end_line, "column": end_column},
    }


def apply_fixes(text: str, fixes: Iterable[Fix]) -> str:
    """The text with the edits of the fixes made; of two that overlap, only the first."""
    edits: list[Edit] = []
    for fix in fixes:
        apart = all(
            edit.span.end <= other.span.start or other.span.end <= edit.span.start
            for edit in fix.edits
            for other in edits
        )
        if apart:
            edits += fix.edits
    for edit in sorted(edits, key=lambda edit: edit.span.start, reverse=True):
        text = text[: edit.span.start] + edit.text + text[edit.span.end :]
    return text
