"""Text to syntax: `parse(source)` gives a `File` and findings, and never raises on bad text.

Recovery (`recovery.py`): the statement in which parsing stopped is reported and blanked out, and
the rest is parsed again; so every statement gives at most one finding and later ones keep their
exact places.
"""

from __future__ import annotations

import re
from dataclasses import replace
from functools import cache
from typing import Any

from lark import Token, UnexpectedInput

from grape.dsl import ast
from grape.dsl.build import Builder
from grape.dsl.findings import Edit, Finding, Fix
from grape.dsl.lexing import Glued, LineEnds, TooDeep
from grape.dsl.source import Source, Span
from grape.dsl.table import load

EDITION = 1
MAX_ERRORS = 20

_COMMAND = re.compile(r"#+\s*grape:")
_ALLOW = re.compile(r"#\s*grape:\s*allow\s+(G[0-9]{3})\s*:\s*(\S.*)")


class _Parser:
    """Lark with the builder inside: reductions make records while parsing."""

    def __init__(self) -> None:
        self.builder = Builder()
        self.comments: list[Token] = []
        options: dict[str, Any] = {
            "transformer": self.builder,
            "postlex": LineEnds(),
            "lexer_callbacks": {"COMMENT": self._comment},
        }
        self.lark, self.fresh = load(options)

    def _comment(self, token: Token) -> Token:
        self.comments.append(token)
        return token

    def read(self, source: Source, text: str) -> list[Any]:
        """What stands at the top level of `text`, a mended copy of the source's text."""
        self.builder.begin(source, _docs(source))
        self.comments.clear()
        tree: Any = self.lark.parse(text)
        return [item for item in tree.children if item is not None]


@cache
def _parser() -> _Parser:
    return _Parser()


def parse(source: Source) -> tuple[ast.File, list[Finding]]:
    """The syntax of a file and what is wrong with it; statements that cannot be read are left
    out, and `damaged` says so."""
    parser = _parser()
    text = source.text
    findings: list[Finding] = []
    tries = 0
    while True:
        try:
            items = parser.read(source, text)
            break
        except (UnexpectedInput, TooDeep, Glued) as error:
            from grape.dsl.recovery import cut, mend, place_of  # 5 ms that a sound file needs not

            tries += 1
            if tries > MAX_ERRORS:
                findings[-1] = replace(findings[-1], hint="the rest of the file was not read")
                text = cut(text, place_of(error, text))
                continue
            finding, text = mend(source, text, error)
            if finding.span.end <= len(source.text):  # else a brace that mending put there
                findings.append(finding)
    damaged = bool(findings)
    findings += parser.builder.findings
    edition, declarations = _top(source, items, findings, damaged)
    allows = _allows(source, parser.comments, findings)
    damaged = damaged or parser.builder.skipped
    return ast.File(source, edition, declarations, allows, damaged), findings


def _top(
    source: Source, items: list[Any], findings: list[Finding], damaged: bool
) -> tuple[int | None, tuple[ast.Declaration, ...]]:
    edition = None
    for number, item in enumerate(items):
        if not isinstance(item, ast.Number):
            continue
        if number or edition is not None:
            findings.append(Finding("G007", "the edition stands on the first line", item.span))
        elif item.kind != "refused" and item.value != EDITION:
            message = f"this Grape reads edition {EDITION}, and the file is written for another"
            hint = f"install a Grape that knows it, or begin the file with `grape {EDITION}`"
            findings.append(Finding("G007", message, item.span, hint=hint))
        edition = int(item.value) if edition is None else edition
    if edition is None and not damaged:
        first = Span(source, 0, min(1, len(source.text)))
        fix = Fix(f"add `grape {EDITION}`", (Edit(Span(source, 0, 0), f"grape {EDITION}\n\n"),))
        message = f"the file does not begin with its edition: `grape {EDITION}`"
        findings.append(Finding("G007", message, first, fix=fix))
    kept = tuple(item for item in items if not isinstance(item, ast.Number))
    return edition, kept


def _docs(source: Source) -> dict[int, str]:
    """The text of each run of `##` lines, by the line after it."""
    docs: dict[int, str] = {}
    if "##" not in source.text:
        return docs
    run: list[str] = []
    for number, line in enumerate(source.text.split("\n"), 1):
        stripped = line.strip()
        if stripped.startswith("##"):
            run.append(stripped[2:].strip())
        elif run:
            docs[number] = "\n".join(run)
            run = []
    return docs


def _allows(
    source: Source, comments: list[Token], findings: list[Finding]
) -> tuple[ast.Allow, ...]:
    found = []
    for token in comments:
        text = str(token).rstrip()
        if token.start_pos is None or not _COMMAND.match(text):
            continue
        span = Span(source, token.start_pos, token.start_pos + len(text))
        match = _ALLOW.fullmatch(text)
        if match:
            found.append(ast.Allow(match[1], match[2].strip(), span))
            continue
        message = "a suppression is written `# grape: allow G412: reason`; this one has no effect"
        findings.append(Finding("G010", message, span))
    return tuple(found)
