"""The formatter: one style, no options, every comment kept, works on broken files.

It lays out the stream of tokens and comments; it never looks at the syntax tree, so nothing can be
lost between the two. What comes out is compared with what went in, token by token.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TOKEN = re.compile(
    r"(?P<newline>\r?\n)|(?P<space>[ \t\f]+)|(?P<comment>\#[^\n]*)"
    r'|(?P<string>r?"""(?:[^\\]|\\.)*?"""|r"[^"\n]*"|"(?:[^"\\\n]|\\.)*"|r?"[^\n]*)'
    r"|(?P<number>[0-9][0-9_]*(?:\.[0-9][0-9_]*)?(?:[eE][+-]?[0-9]+)?[A-Za-z%]*)"
    r"|(?P<word>[A-Za-z_][A-Za-z0-9_]*)"
    r"|(?P<open>[({\[])|(?P<close>[)}\]])"
    r"|(?P<op>==|!=|<=|>=|[-+*/^<>=])|(?P<comma>,)|(?P<colon>:)|(?P<dot>\.)|(?P<other>.)",
    re.DOTALL,
)
_OPERATOR_WORDS = frozenset(
    [
        "and",
        "or",
        "not",
        "per",
        "if",
        "then",
        "else",
        "where",
        "with",
        "in",
        "on",
        "as",
        "from",
        "to",
    ]
)
_EXPRESSION_WORDS = ("maximize", "minimize", "check", "until", "every", "repeat", "output")
"""Statements that begin with an expression: `check (a + b) > 1` is no call."""
_BLOCK_WORDS = frozenset(["pipeline", "algorithm", "rubric", "reward"])
INDENT = "  "


@dataclass(frozen=True, slots=True)
class _Token:
    """A lexeme with its kind."""

    kind: str
    text: str


def format_text(text: str) -> str:
    """The text in Grape's style.

    Raises ValueError when the result would not hold the very same tokens and comments; the file
    should then be left as it is.
    """
    tokens = _scan(text)
    lines = _layout(tokens)
    result = "\n".join(lines).strip("\n") + "\n" if any(lines) else ""
    if _signature(_scan(result)) != _signature(tokens):
        raise ValueError("formatting it would change what it says")
    return result


def _scan(text: str) -> list[_Token]:
    found = []
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "other"
        if kind != "space":
            found.append(_Token(kind, match[0].rstrip() if kind == "comment" else match[0]))
    return found


def _signature(tokens: list[_Token]) -> list[str]:
    return [token.text for token in tokens if token.kind != "newline"]


def _layout(tokens: list[_Token]) -> list[str]:
    """Lines of output: indented by bracket depth, at most one blank line in a run."""
    lines: list[str] = []
    line: list[_Token] = []
    depth = 0
    for token in [*tokens, _Token("newline", "\n")]:
        if token.kind != "newline":
            line.append(token)
            continue
        if line:
            leading = _leading_closers(line)
            lines.append(INDENT * max(0, depth - leading) + _join(line))
            depth = max(0, depth + sum(_step(item) for item in line))
        elif lines and lines[-1]:
            lines.append("")
        line = []
    return _settle_blanks(lines)


def _step(token: _Token) -> int:
    return (token.kind == "open") - (token.kind == "close")


def _leading_closers(line: list[_Token]) -> int:
    count = 0
    for token in line:
        if token.kind != "close":
            break
        count += 1
    return count


def _settle_blanks(lines: list[str]) -> list[str]:
    """No blank line after an opening or before a closing bracket; one before a declaration."""
    settled: list[str] = []
    for line in lines:
        if not line:
            if settled and not settled[-1].endswith(("{", "(", "[")):
                settled.append("")
            continue
        if line.lstrip(" ")[0] in "})]" and settled and not settled[-1]:
            settled.pop()
        if _starts_block(line) and settled and settled[-1] and not settled[-1].startswith("#"):
            settled.append("")
        settled.append(line)
    return settled


def _starts_block(line: str) -> bool:
    return line.split(" ", 1)[0] in _BLOCK_WORDS


def _join(line: list[_Token]) -> str:
    text = ""
    before: _Token | None = None
    unary = False
    for token in line:
        starts = before is line[0] and before.text in _EXPRESSION_WORDS and token.kind == "open"
        if before is not None and (starts or _space(before, token, unary)):
            text += "  " if token.kind == "comment" and text.strip() else " "
        unary = token.text == "-" and (
            before is None
            or before.kind in ("op", "open", "comma", "colon")
            or before.text in _OPERATOR_WORDS
            or before.text in (*_EXPRESSION_WORDS, "weight", "when")
        )
        text += token.text
        before = token
    return text


def _space(before: _Token, token: _Token, unary: bool) -> bool:
    """Whether a space stands between two tokens of a line."""
    if token.kind == "comment" or before.kind == "comma":
        return True
    if unary or token.kind in ("comma", "dot", "colon") or before.kind == "dot":
        return False
    if "{" in (before.text, token.text) or "}" in (before.text, token.text):
        return not (before.text == "{" and token.text == "}")
    if token.kind == "open":
        called = before.kind in ("word", "close") and before.text not in _OPERATOR_WORDS
        return before.kind != "open" and not called
    return before.kind != "open" and token.kind != "close"
