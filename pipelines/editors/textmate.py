"""Writes `vscode/syntaxes/grape.tmLanguage.json` from the words and units of the language.

Run it as `python pipelines/editors/textmate.py` after a change of the grammar; a test compares.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from grape.dsl.build import UNITS
from grape.dsl.words import words

PLACE = Path(__file__).parent / "vscode" / "syntaxes" / "grape.tmLanguage.json"

ESCAPE = {"name": "constant.character.escape.grape", "match": r"\\(u[0-9a-fA-F]{4}|.)"}
BRACES = {"name": "constant.character.escape.grape", "match": r"\{\{|\}\}"}
COLUMN = {"name": "variable.other.placeholder.grape", "match": r"\{[^{}\"\n]*\}"}


def grammar() -> dict[str, Any]:
    """The TextMate grammar as JSON."""
    known = words()
    units = "|".join(sorted((unit for unit in UNITS if unit), key=len, reverse=True))
    return {
        "name": "Grape",
        "scopeName": "source.grape",
        "fileTypes": ["grape"],
        "patterns": [{"include": f"#{name}"} for name in _ORDER],
        "repository": {
            "comment": {
                "patterns": [
                    _rule("comment.line.directive.grape", r"#\s*grape:.*$"),
                    _rule("comment.line.documentation.grape", r"##.*$"),
                    _rule("comment.line.number-sign.grape", r"#.*$"),
                ]
            },
            "string": {"patterns": _strings()},
            "number": {
                "patterns": [
                    {
                        "match": rf"\b([0-9][0-9_]*(?:\.[0-9][0-9_]*)?(?:[eE][+-]?[0-9]+)?)"
                        rf"({units})?(?![A-Za-z0-9_])",
                        "captures": {
                            "1": {"name": "constant.numeric.grape"},
                            "2": {"name": "keyword.other.unit.grape"},
                        },
                    }
                ]
            },
            "declaration": {
                "patterns": [
                    {
                        "match": rf"\b({_any(known.declarations)})\s+([a-z_][a-z0-9_]*)",
                        "captures": {
                            "1": {"name": "storage.type.grape"},
                            "2": {"name": "entity.name.grape"},
                        },
                    }
                ]
            },
            "setting": {
                "patterns": [
                    _rule("variable.parameter.grape", r"\b[a-z_][a-z0-9_]*(?=\s*=(?!=))"),
                    _rule("variable.parameter.grape", r"\b[a-z_][a-z0-9_]*(?=\s*:)"),
                ]
            },
            "call": {"patterns": [_rule("entity.name.function.grape", _CALL)]},
            "member": {"patterns": [_rule("variable.other.member.grape", r"(?<=\.)[a-z_]\w*")]},
            "keyword": {
                "patterns": [
                    _rule("constant.language.grape", rf"\b({_any(known.constants)})\b"),
                    _rule("keyword.operator.logical.grape", rf"\b({_any(known.logic)})\b"),
                    _rule("keyword.control.grape", rf"\b({_any(known.control)})\b"),
                ]
            },
            "type": {"patterns": [_rule("support.type.grape", r"\b[A-Z][A-Za-z0-9_]*\b")]},
            "operator": {"patterns": [_rule("keyword.operator.grape", r"==|!=|<=|>=|[-+*/^<>=]")]},
        },
    }


_ORDER = (
    "comment",
    "string",
    "number",
    "declaration",
    "setting",
    "member",
    "keyword",
    "call",
    "type",
    "operator",
)
_CALL = r"\b[a-z_][a-z0-9_]*(?=\()"


def _any(group: tuple[str, ...]) -> str:
    return "|".join(group)


def _rule(name: str, match: str) -> dict[str, str]:
    return {"name": name, "match": match}


def _strings() -> list[dict[str, Any]]:
    inside = [ESCAPE, BRACES, COLUMN]
    return [
        _string("string.quoted.triple.raw.grape", 'r"""', '"""', [BRACES, COLUMN]),
        _string("string.quoted.triple.grape", '"""', '"""', inside),
        _string("string.quoted.double.raw.grape", 'r"', '"|$', [BRACES, COLUMN]),
        _string("string.quoted.double.grape", '"', '"|$', inside),
    ]


def _string(name: str, begin: str, end: str, patterns: list[dict[str, str]]) -> dict[str, Any]:
    return {"name": name, "begin": begin, "end": end, "patterns": patterns}


def text() -> str:
    """The file's content."""
    return json.dumps(grammar(), indent=2) + "\n"


if __name__ == "__main__":
    PLACE.write_text(text(), encoding="utf-8")
