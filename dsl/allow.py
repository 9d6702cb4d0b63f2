"""Suppressions: `# grape: allow G412: reason` silences one code on its line or the next."""

from __future__ import annotations

from collections.abc import Iterable

from grape.dsl.ast import Allow, File
from grape.dsl.catalogue import codes, entry
from grape.dsl.findings import Edit, Finding, Fix
from grape.dsl.nearest import did_you_mean
from grape.dsl.source import Source


def apply_allows(files: Iterable[File], findings: Iterable[Finding]) -> list[Finding]:
    """The findings that are not silenced, and findings about suppressions that do nothing. Of a
    code that only a plan can tell, a file alone cannot say whether it is there."""
    allows = [allow for file in files for allow in file.allows]
    by_code: dict[str, dict[tuple[Source, int], list[Allow]]] = {}
    for allow in allows:
        places = by_code.setdefault(allow.code, {})
        for line in (allow.span.line, allow.span.line + 1):
            places.setdefault((allow.span.source, line), []).append(allow)
    kept, used = [], set()
    for finding in findings:
        places = by_code.get(finding.code, {})
        silencing = places.get((finding.span.source, finding.span.line), []) if places else []
        used.update(silencing)
        if not silencing:
            kept.append(finding)
    for allow in allows:
        if allow.code not in codes():
            hint = did_you_mean(allow.code, codes())
            kept.append(Finding("G009", f"there is no finding {allow.code}{hint}", allow.span))
        elif allow not in used and entry(allow.code).depth == "lint":
            message = f"nothing here gives {allow.code}; remove the suppression"
            fix = Fix("remove it", (Edit(allow.span, ""),))
            kept.append(Finding("G008", message, allow.span, fix=fix))
    return kept


def silenced(files: Iterable[File], findings: Iterable[Finding]) -> list[Finding]:
    """The findings that are not silenced: for those made after the file itself was checked."""
    allows = [allow for file in files for allow in file.allows]
    return [
        finding for finding in findings if not any(silences(allow, finding) for allow in allows)
    ]


def silences(allow: Allow, finding: Finding) -> bool:
    """Whether a suppression is meant for a finding: its code, on its line or the one before."""
    return (
        allow.code == finding.code
        and allow.span.source is finding.span.source
        and finding.span.line - allow.span.line in (0, 1)
    )
