"""Text to syntax: `parse(source)` gives a `File` and findings, and never raises on bad text.

Recovery: the statement in which parsing stopped is reported, blanked out, and the rest is parsed
again; so every statement gives at most one finding and later ones keep their exact places.
"""

from __future__ import annotations

import hashlib
import io
import re
from functools import cache
from pathlib import Path
from typing import Any

from lark import Lark, Token, UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from grape.dsl import ast
from grape.dsl.build import Builder
from grape.dsl.findings import Finding
from grape.dsl.lexing import MAX_DEPTH, LineEnds, TooDeep
from grape.dsl.nearest import did_you_mean
from grape.dsl.source import Source, Span

EDITION = 1
MAX_ERRORS = 20

_GRAMMAR = Path(__file__).with_name("grammar.lark")
_TABLE = Path(__file__).with_name("grammar.table")
_ALLOW = re.compile(r"#\s*grape:\s*allow\s+(G[0-9]{3})\s*:?\s*(.*)")
_KEYWORDS = [
    "model",
    "data",
    "stage",
    "next",
    "repeat",
    "until",
    "every",
    "each",
    "if",
    "check",
    "output",
    "use",
    "reward",
    "rubric",
    "algorithm",
    "pipeline",
    "let",
    "log",
    "maximize",
    "minimize",
    "subject",
]

_PLAIN = {
    "_NL": "the end of the line",
    "$END": "the end of the file",
    "LPAR": "`(`",
    "RPAR": "`)`",
    "LSQB": "`[`",
    "RSQB": "`]`",
    "LBRACE": "`{`",
    "RBRACE": "`}`",
    "EQUAL": "`=`",
    "COLON": "`:`",
    "COMMA": "`,`",
    "NAME": "a name",
    "TYPE": "a type",
    "STRING": "a string",
}


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
        grammar = _GRAMMAR.read_bytes()
        saved = _TABLE.read_bytes() if _TABLE.is_file() else b""
        digest = _digest(grammar)
        self.fresh = saved.startswith(digest)
        if self.fresh:
            self.lark = Lark.__new__(Lark)._load(io.BytesIO(saved[len(digest) :]), **options)
        else:
            self.lark = _build(grammar.decode(), options)

    def _comment(self, token: Token) -> Token:
        self.comments.append(token)
        return token


def _digest(grammar: bytes) -> bytes:
    return hashlib.sha256(grammar).hexdigest().encode()


def _build(grammar: str, options: dict[str, Any]) -> Lark:
    return Lark(grammar, parser="lalr", lexer="contextual", maybe_placeholders=True, **options)


def write_table() -> None:
    """Save the parse table beside the grammar, so that a start need not build it."""
    grammar = _GRAMMAR.read_bytes()
    buffer = io.BytesIO()
    _build(grammar.decode(), {"postlex": LineEnds()}).save(buffer)
    _TABLE.write_bytes(_digest(grammar) + buffer.getvalue())


@cache
def _parser() -> _Parser:
    return _Parser()


def parse(source: Source) -> tuple[ast.File, list[Finding]]:
    """The syntax of a file and what is wrong with it; statements that cannot be read are left
    out, and `damaged` says so."""
    parser = _parser()
    text = source.text
    findings: list[Finding] = []
    items: list[Any] = []
    for _ in range(MAX_ERRORS):
        parser.builder.source = source
        parser.builder.findings = []
        parser.builder.docs = _docs(source)
        parser.comments.clear()
        try:
            tree: Any = parser.lark.parse(text)
        except (UnexpectedInput, TooDeep) as error:
            finding, blanked = _mistake(source, text, error)
            findings.append(finding)
            if blanked == text:
                break
            text = blanked
            continue
        items = [item for item in tree.children if item is not None]
        break
    damaged = bool(findings)
    findings += parser.builder.findings
    edition, declarations = _top(source, items, findings, damaged)
    allows = _allows(source, parser.comments)
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
        elif item.value != EDITION:
            findings.append(Finding("G007", f"this Grape reads edition {EDITION}", item.span))
        edition = int(item.value) if edition is None else edition
    if edition is None and not damaged:
        first = Span(source, 0, min(1, len(source.text)))
        findings.append(
            Finding("G007", f"the file does not begin with its edition: `grape {EDITION}`", first)
        )
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


def _allows(source: Source, comments: list[Token]) -> tuple[ast.Allow, ...]:
    found = []
    for token in comments:
        match = _ALLOW.fullmatch(str(token).rstrip())
        if match and token.start_pos is not None and token.end_pos is not None:
            span = Span(source, token.start_pos, token.end_pos)
            found.append(ast.Allow(match[1], match[2].strip(), span))
    return tuple(found)


# --- mistakes ---------------------------------------------------------------------------------


def _mistake(source: Source, text: str, error: Exception) -> tuple[Finding, str]:
    """What to say about an error, and the text with its statement blanked out."""
    if isinstance(error, TooDeep):
        at = error.token.start_pos or 0
        message = f"brackets nest deeper than {MAX_DEPTH}"
        return Finding("G006", message, Span(source, at, at + 1)), text
    if isinstance(error, UnexpectedCharacters):
        at = error.pos_in_stream or 0
        finding = _character(source, text, at)
    else:
        assert isinstance(error, UnexpectedToken)
        token = error.token
        at = len(text.rstrip()) if token.type == "$END" else token.start_pos or 0
        if token.type == "$END":
            return _unclosed(source, text), text
        at, finding = _token(source, text, token, set(error.accepts or error.expected))
    return finding, _without_statement(text, at)


def _character(source: Source, text: str, at: int) -> Finding:
    char = text[at]
    if char == '"':
        end = text.find("\n", at)
        end = len(text) if end < 0 else end
        return Finding("G002", "this string is not closed", Span(source, at, end))
    if char == "'":
        return Finding("G002", 'strings are written with `"`', Span(source, at, at + 1))
    word = re.compile(r"[A-Za-z_][A-Za-z0-9_]*").match(text, at)
    if word:
        return _word(source, word[0], at)
    shown = char if char.isprintable() else f"U+{ord(char):04X}"
    return Finding("G001", f"`{shown}` does not belong here", Span(source, at, at + 1))


def _word(source: Source, word: str, at: int) -> Finding:
    hint = did_you_mean(word, [name for name in _KEYWORDS if name != word])
    span = Span(source, at, at + len(word))
    return Finding("G001", f"`{word}` does not belong here{hint}", span)


def _token(source: Source, text: str, token: Token, expected: set[str]) -> tuple[int, Finding]:
    at = token.start_pos or 0
    what = next(
        (_PLAIN[name] for name in ("EQUAL", "LBRACE", "COLON", "NAME") if name in expected), None
    )
    if token.type == "_NL":
        end = len(text[:at].rstrip())
        span = Span(source, max(0, end - 1), end)
        missing = what or next((_PLAIN[n] for n in ("RPAR", "RSQB") if n in expected), "a value")
        return max(0, end - 1), Finding(
            "G001", f"{missing} is missing at the end of this line", span
        )
    span = Span(source, at, at + len(token))
    if token.type in ("NAME", "TYPE") or str(token) in _KEYWORDS:
        finding = _word(source, str(token), at)
        if what and "did you mean" not in finding.message:
            finding = Finding("G001", f"expected {what} before `{token}`", span)
        return at, finding
    if what and token.type not in ("RBRACE",):
        return at, Finding("G001", f"expected {what} here, not `{token}`", span)
    return at, Finding("G001", f"`{token}` does not belong here", span)


def _unclosed(source: Source, text: str) -> Finding:
    stack: list[int] = []
    for match in re.finditer(r'"""|"(?:[^"\\\n]|\\.)*"|#[^\n]*|[{}()\[\]]', text):
        char = match[0]
        if char in "{([":
            stack.append(match.start())
        elif char in "})]" and stack:
            stack.pop()
    if stack:
        at = stack[-1]
        return Finding("G002", f"this `{text[at]}` is not closed", Span(source, at, at + 1))
    end = len(text.rstrip())
    return Finding("G001", "the file ends in the middle of a statement", Span(source, end - 1, end))


def _without_statement(text: str, at: int) -> str:
    """Blank the logical line that holds `at`, with the block that it opens."""
    start = text.rfind("\n", 0, at) + 1
    line_end = text.find("\n", at)
    line_end = len(text) if line_end < 0 else line_end
    line = text[start:line_end]
    depth = 0
    end = line_end
    opener = re.search(r"[{(\[]\s*(#.*)?$", line)
    if opener:
        for match in re.compile(r'"(?:[^"\\\n]|\\.)*"|#[^\n]*|[{}()\[\]]').finditer(text, start):
            depth += (match[0] in "{([") - (match[0] in "})]")
            if depth == 0 and match[0] in "})]" and match.end() > line_end:
                end = match.end()
                break
        else:
            end = line_end
    elif line.strip() and set(line.strip()) <= set("{}()[]"):
        start = at
        end = at + 1
    if not text[start:end].strip():
        return text
    return text[:start] + re.sub(r"[^\n]", " ", text[start:end]) + text[end:]
