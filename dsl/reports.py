"""Findings for other programs: SARIF 2.1.0 for code scanning, and annotations of GitHub workflows.

Rules come from the catalogue. Paths that are relative stay so, as those programs want them; columns
count characters, and the SARIF says it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import quote

from grape.dsl.catalogue import entry
from grape.dsl.findings import Finding, Fix, in_order
from grape.dsl.source import Span

SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)


def as_sarif(findings: Iterable[Finding], version: str) -> dict[str, Any]:
    """One SARIF run; `version` is Grape's."""
    ordered = in_order(findings)
    codes = sorted({finding.code for finding in ordered})
    driver = {"name": "grape", "version": version, "rules": [_rule(code) for code in codes]}
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [_result(finding, codes.index(finding.code)) for finding in ordered],
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(code: str) -> dict[str, Any]:
    known = entry(code)
    sentence = known.why.replace("\n", " ").split(". ")[0].rstrip(".") + "."
    example = (
        f"```grape\n{known.bad.rstrip()}\n```\n\nBut so:\n\n```grape\n{known.good.rstrip()}\n```"
    )
    return {
        "id": code,
        "name": "".join(word.capitalize() for word in known.name.split("-")),
        "shortDescription": {"text": sentence},
        "fullDescription": {"text": known.why},
        "help": {
            "text": f"grape explain {code}",
            "markdown": f"{known.why}\n\nNot so:\n\n{example}",
        },
        "defaultConfiguration": {"level": known.severity},
        "properties": {"depth": known.depth, "tags": [f"{code[:2]}"]},
    }


def _result(finding: Finding, rule: int) -> dict[str, Any]:
    text = finding.message + (f" ({finding.hint})" if finding.hint else "")
    row: dict[str, Any] = {
        "ruleId": finding.code,
        "ruleIndex": rule,
        "level": entry(finding.code).severity,
        "message": {"text": text},
        "locations": [_location(finding.span, snippet=True)],
    }
    if finding.labels:
        row["relatedLocations"] = [
            {"id": number, "message": {"text": label.text}, **_location(label.span)}
            for number, label in enumerate(finding.labels)
        ]
    if finding.fix:
        row["fixes"] = [_fix(finding.fix)]
    return row


def _location(span: Span, *, snippet: bool = False) -> dict[str, Any]:
    region: dict[str, Any] = _region(span)
    if snippet:
        region["snippet"] = {"text": span.text}
    place = {"artifactLocation": {"uri": uri(span.source.path)}, "region": region}
    return {"physicalLocation": place}


def _region(span: Span) -> dict[str, int]:
    end_line, end_column = span.end_position
    return {
        "startLine": span.line,
        "startColumn": span.column,
        "endLine": end_line,
        "endColumn": end_column,
    }


def _fix(fix: Fix) -> dict[str, Any]:
    by_file: dict[str, list[dict[str, Any]]] = {}
    for edit in fix.edits:
        replacement = {"deletedRegion": _region(edit.span), "insertedContent": {"text": edit.text}}
        by_file.setdefault(edit.span.source.path, []).append(replacement)
    changes = [
        {"artifactLocation": {"uri": uri(path)}, "replacements": replacements}
        for path, replacements in by_file.items()
    ]
    return {"description": {"text": fix.title}, "artifactChanges": changes}


def uri(path: str) -> str:
    """A path as a URI reference: absolute ones as `file:`."""
    windows = PureWindowsPath(path)
    if windows.drive:
        return windows.as_uri()
    posix = PurePosixPath(path)
    return posix.as_uri() if posix.is_absolute() else quote(posix.as_posix())


def as_github(findings: Sequence[Finding]) -> str:
    """A workflow command for each finding, which GitHub shows beside the line."""
    return "\n".join(_annotation(finding) for finding in in_order(findings))


def _annotation(finding: Finding) -> str:
    known, span = entry(finding.code), finding.span
    end_line, end_column = span.end_position
    places = {"file": span.source.path, "line": span.line, "endLine": end_line}
    if end_line == span.line:  # columns are refused for more than one line
        places |= {"col": span.column, "endColumn": end_column}
    places["title"] = f"{finding.code} {known.name}"
    values = ",".join(f"{name}={_property(str(value))}" for name, value in places.items())
    text = finding.message + (f"\n{finding.hint}" if finding.hint else "")
    return f"::{known.severity} {values}::{_data(text)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
