"""A mistake that stopped the parser: what to say about it, and the text to go on with.

`mend` blanks the damaged statement, or closes what was left open, and keeps every other character
at its place, so that later findings and spans stay exact. It does not parse.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from lark import Token, UnexpectedCharacters, UnexpectedInput, UnexpectedToken

from grape.dsl.findings import Edit, Finding, Fix
from grape.dsl.lexing import MAX_DEPTH, Glued, TooDeep
from grape.dsl.nearest import did_you_mean
from grape.dsl.source import Source, Span

_DECLARATIONS = ("use", "reward", "rubric", "algorithm", "pipeline")
_STATEMENTS = (
    *("model", "data", "stage", "next", "repeat", "until", "every", "each", "if", "check"),
    *("output", "let", "state", "log", "maximize", "minimize", "subject", "category", "item"),
)
_KEYWORDS = (*_DECLARATIONS, *_STATEMENTS)
_TESTED = frozenset({"category", "if", "check", "until"})
_NAMED = frozenset({"model", "data", "stage", "next", "let", "state", "log", "reward", "item"})

_DECLARATION = re.compile(rf"^(?:{'|'.join(_DECLARATIONS)})[ \t]+[a-z_]", re.MULTILINE)
_HEAD = re.compile(rf"[ \t]*(?:(?:{'|'.join(_KEYWORDS)})[ \t]+[A-Za-z_(\[0-9]|\}})")
_LEXEME = re.compile(
    r'r?"""(?:[^\\]|\\.)*?"""|r"[^"\n]*"|"(?:[^"\\\n]|\\.)*"|#[^\n]*|[{}()\[\]]', re.DOTALL
)
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CAMEL = re.compile(r"(?<![A-Za-z0-9_])[a-z_][a-z0-9_]*[A-Z][A-Za-z0-9_]*$")
_CONTINUATION = re.compile(
    rf"\r?\n(?!{_HEAD.pattern}|[ \t]*[a-z_][a-z0-9_]*[ \t]*=(?!=))[^\n]*[^\s\n][^\n]*"
)
_EXPECTED = (
    *(("EQUAL", "`=`"), ("LBRACE", "`{`"), ("COLON", "`:`"), ("NUMBER", "a value")),
    *(("NAME", "a name"), ("STRING", "a string"), ("RPAR", "`)`"), ("RSQB", "`]`")),
    ("AS", '`as "PATH"`'),
)


_LAST_WORD = re.compile(r"([a-z_][a-z0-9_]*)\s*$")
_ASSIGNED = re.compile(r"[ \t]*=(?!=)")
_ELSEWHERE = {
    "import": 'write `use NAME from "…"`',
    "from": 'write `use NAME from "…"`',
    "for": "`each X in [..] { … }` makes copies, `repeat N with …` goes in rounds",
    "while": "`repeat N with M = … { … until TEST }` goes in rounds",
    "elif": "write `} else {` and an `if` inside",
    "def": "declare a `reward`, an `algorithm` or a `pipeline`",
}
"""Words of other languages that begin a statement there."""


@dataclass(frozen=True, slots=True)
class _Open:
    """The brackets open at a place, and an inner `{` whose `}` stands too far left, if any."""

    stack: list[int]
    suspect: int | None


Stop = UnexpectedInput | TooDeep | Glued
"""What ends a parse."""


def place_of(error: Stop, text: str) -> int:
    """The character at which parsing stopped."""
    if isinstance(error, UnexpectedCharacters):
        return error.pos_in_stream or 0
    token = error.token if isinstance(error, TooDeep | Glued | UnexpectedToken) else None
    if token is None or token.type == "$END":
        return len(text.rstrip())
    return token.start_pos or 0


def mend(source: Source, text: str, error: Stop) -> tuple[Finding, str]:
    """The finding for an error, and the text without it. The text always differs."""
    at = place_of(error, text)
    finding, mended = _mend(source, text, at, error)
    if mended == text:
        mended = _without_declaration(text, at)
    return finding, mended if mended != text else cut(text, at)


def cut(text: str, at: int) -> str:
    """The text up to the declaration that holds `at`, all of which has been read already."""
    kept = text[: _declaration_start(text, max(0, at - 1))]
    return kept if kept != text else ""


def _mend(source: Source, text: str, at: int, error: Stop) -> tuple[Finding, str]:
    if isinstance(error, TooDeep):
        finding = Finding(
            "G006", f"brackets nest deeper than {MAX_DEPTH}", Span(source, at, at + 1)
        )
        return finding, _without_declaration(text, at)
    if isinstance(error, Glued):
        return _glued(source, error), _without_statement(text, at)
    opened = _open_at(text, at)
    unclosed = _unclosed(source, text, at, opened, error)
    if unclosed:
        return unclosed
    if isinstance(error, UnexpectedToken) and error.token.type != "$END":
        expected = set(error.accepts or error.expected)
        place, finding = _token(source, text, error.token, expected)
        mended = _without_statement(text, place)
        if error.token.type == "_NL" and "NUMBER" in expected:
            mended = _without_continuation(mended, at)
        return finding, mended
    if isinstance(error, UnexpectedCharacters):
        return _character(source, text, at)
    place = max(0, at - 1)
    message = "the file ends in the middle of a statement"
    return Finding("G001", message, Span(source, place, at)), _without_statement(text, place)


# --- brackets that are not closed -------------------------------------------------------------


def _open_at(text: str, at: int) -> _Open:
    stack: list[int] = []
    suspect: int | None = None
    for match in _LEXEME.finditer(text, 0, at):
        if match[0] in ("{", "(", "["):
            stack.append(match.start())
        elif match[0] in ("}", ")", "]") and stack:
            opener = stack.pop()
            if match[0] == "}" and _indent(text, match.start()) < _indent(text, opener):
                suspect = opener
    return _Open(stack, suspect)


def _indent(text: str, at: int) -> int:
    line = text[_line_start(text, at) : at + 1]
    return len(line) - len(line.lstrip())


def _unclosed(
    source: Source, text: str, at: int, opened: _Open, error: UnexpectedInput
) -> tuple[Finding, str] | None:
    """When the mistake is a bracket left open further up."""
    if not opened.stack:
        return None
    inner = opened.stack[-1]
    line = _line_start(text, at)
    at_end = isinstance(error, UnexpectedToken) and error.token.type == "$END"
    if text[inner] != "{" and (at_end or (inner < line and _HEAD.match(text, line))):
        end = len(text) if at_end else line
        return _not_closed(source, inner), _without_lines(text, inner, end)
    if text[inner] == "{" and inner < line and _is_statement(text, line, at, error):
        return _not_closed(source, inner), _closed_before(text, line)
    if text[inner] == "{" and (at_end or (at == line and _DECLARATION.match(text, at))):
        blame = inner if opened.suspect is None else max(opened.suspect, opened.stack[0])
        return _not_closed(source, blame, text), _closed(text, at, len(opened.stack), at_end)
    return None


def _is_statement(text: str, line: int, at: int, error: UnexpectedInput) -> bool:
    """Whether a statement stands where settings do: `output warm` wants no `=` after its first
    word."""
    wanted = isinstance(error, UnexpectedToken) and error.accepts == {"EQUAL"}
    return wanted and text[line:at].strip() in _STATEMENTS


def _closed_before(text: str, line: int) -> str:
    """Close a brace at the end of the code before a line, which begins one character later where
    nothing else gives room."""
    end = _code_end(text[:line])
    if text[end] != "\n":
        return f"{text[:end]}}}{text[end + 1 :]}"
    if not text[end + 1 : end + 2].isspace():
        return _without_declaration(text, line)
    return f"{text[:end]}}}\n{text[end + 2 :]}"


def _not_closed(source: Source, at: int, text: str | None = None) -> Finding:
    shown = (text or source.text)[at]
    return Finding("G002", f"this `{shown}` is not closed", Span(source, at, at + 1))


def _closed(text: str, at: int, count: int, at_end: bool) -> str:
    """Close `count` braces in the white space before `at`, or drop the declaration."""
    if at_end:
        return text.rstrip() + "\n" + "}" * count + "\n"
    before = text[:at]
    end = _code_end(before)
    gap = before[end:]
    room = len(gap) - len(gap.lstrip())
    if room < count or len(gap) <= count:
        return _without_declaration(text, max(0, at - 1))
    return before[:end] + "}" * count + gap[count:] + text[at:]


def _code_end(text: str) -> int:
    """Where its last code ends: blanks and a comment may follow."""
    code = max((m.end() for m in _LEXEME.finditer(text) if m[0][0] != "#"), default=0)
    comment = text.find("#", code)
    return len((text if comment < 0 else text[:comment]).rstrip())


def _without_lines(text: str, opener: int, end: int) -> str:
    """Blank the lines from the one that holds `opener` up to `end`."""
    start = _line_start(text, opener)
    if _DECLARATION.match(text, start):
        return _without_declaration(text, start)
    return _blank(text, start, end)


# --- mistakes within a line -------------------------------------------------------------------


def _character(source: Source, text: str, at: int) -> tuple[Finding, str]:
    char = text[at]
    if text[max(0, at - 2) : at + 1] == '"""':
        finding = Finding("G002", 'this `"""` is not closed', Span(source, at - 2, at + 1))
        return finding, _without_declaration(text, at)
    mended = _without_statement(text, at)
    if char == '"':
        end = text.find("\n", at)
        span = Span(source, at, len(text) if end < 0 else end)
        return Finding("G002", "this string is not closed", span), mended
    if char == "'":
        return Finding("G001", 'strings are written with `"`', Span(source, at, at + 1)), mended
    word = _WORD.match(text, at)
    if word:
        return _word(source, word[0], at), mended
    shown = char if char.isprintable() else f"U+{ord(char):04X}"
    return Finding("G001", f"`{shown}` does not belong here", Span(source, at, at + 1)), mended


def _glued(source: Source, error: Glued) -> Finding:
    """Two words without a blank between them. Which are certain to be two: a keyword before a
    number or a raw string."""
    before, token = error.before, error.token
    start, at = before.start_pos or 0, token.start_pos or 0
    span = Span(source, start, at + len(token))
    if token.type in ("NUMBER", "STRING"):
        fix = Fix("put a blank between them", (Edit(Span(source, at, at), " "),))
        message = f"`{before}` runs into `{token}`: write `{before} {token}`"
        return Finding("G011", message, span, fix=fix)
    if before.type == "NAME":
        return _no_name(span)
    word = span.text
    hint = did_you_mean(word, _KEYWORDS) or f"; did you mean `{before} {token}`?"
    return Finding("G011", f"`{word}` does not belong here{hint}", span)


def _no_name(span: Span) -> Finding:
    parts = (part.lower() for part in re.split(r"(?<=[a-z0-9])(?=[A-Z])", span.text))
    message = f"`{span.text}` is no name: names are small letters, digits and `_`"
    return Finding("G011", message, span, hint=f"write `{'_'.join(parts)}`")


def _word(source: Source, word: str, at: int) -> Finding:
    span = Span(source, at, at + len(word))
    meant = did_you_mean(word, [name for name in _KEYWORDS if name != word])
    hint = _ELSEWHERE.get(word)
    if not meant and hint is None and _ASSIGNED.match(source.text, span.end):
        inside = source.text.startswith("algorithm", _declaration_start(source.text, at))
        hint = f"a statement begins with its keyword: `{'let' if inside else 'stage'} {word} = …`"
    return Finding("G001", f"`{word}` does not belong here{meant}", span, hint=hint)


def _token(source: Source, text: str, token: Token, expected: set[str]) -> tuple[int, Finding]:
    at = token.start_pos or 0
    span = Span(source, at, at + len(token))
    what = next((plain for name, plain in _EXPECTED if name in expected), None)
    if token == "else":
        message = "`else` stands on the line of the `}` before it: `} else {`"
        return at, Finding("G001", message, span)
    camel = _CAMEL.search(text, _line_start(text, at), at + len(token))
    if token.type == "TYPE" and camel:
        return camel.start(), _no_name(Span(source, camel.start(), camel.end()))
    if token.type == "_NL":
        end = max(1, len(text[:at].rstrip()))
        span = Span(source, end - 1, end)
        construct = _construct(text, end - 1)
        message = f"{construct} needs {what or 'something more'} at the end of this line"
        return end - 1, Finding("G001", message, span)
    if token.type in ("NAME", "TYPE") or str(token) in _KEYWORDS:
        finding = _word(source, str(token), at)
        told = finding.hint or "did you mean" in finding.message
        if told and not _misplaced_equal(text, at, expected):
            return at, finding
    if _misplaced_equal(text, at, expected):
        return at, Finding("G001", f"{_construct(text, at)} needs `=` after its name", span)
    if token == "=" and _construct(text, at).split()[-1] in _TESTED:
        message = "`=` gives a name its value; to compare, write `==`"
        return at, Finding("G001", message, span)
    name = _LAST_WORD.search(text, 0, at)
    if "COLON" in expected and name:
        message = f"the parameter `{name[1]}` needs a type: `{name[1]}: float`"
        return name.start(1), Finding("G001", message, Span(source, name.start(1), name.end(1)))
    if what and token.type != "RBRACE":
        message = f"{_construct(text, at)} needs {what} before `{token}`"
        return at, Finding("G001", message, span)
    return at, Finding("G001", f"`{token}` does not belong here", span)


def _misplaced_equal(text: str, at: int, expected: set[str]) -> bool:
    """Whether `stage warm train(…)` lacks its `=`: a keyword and a name stand before `at`."""
    words = text[_line_start(text, at) : at].split()
    return "EQUAL" in expected and len(words) == 2 and words[0] in _NAMED


def _construct(text: str, at: int) -> str:
    """The statement that holds `at`, in the reader's words."""
    line = text[_line_start(text, at) : at + 1]
    word = _WORD.match(line.lstrip())
    return f"this {word[0]}" if word and word[0] in _KEYWORDS else "this line"


# --- blanking ---------------------------------------------------------------------------------


def _line_start(text: str, at: int) -> int:
    return text.rfind("\n", 0, at) + 1


def _blank(text: str, start: int, end: int) -> str:
    return text[:start] + re.sub(r"[^\n]", " ", text[start:end]) + text[end:]


def _declaration_start(text: str, at: int) -> int:
    start = None
    for match in _DECLARATION.finditer(text):
        if match.start() > at:
            break
        start = match.start()
    return _line_start(text, at) if start is None else start


def _without_declaration(text: str, at: int) -> str:
    start = _declaration_start(text, at)
    following = _DECLARATION.search(text, max(at, start) + 1)
    return _blank(text, start, following.start() if following else len(text))


def _without_statement(text: str, at: int) -> str:
    """Blank the line that holds `at`, with the block that it opens; or a stray bracket only."""
    start = _line_start(text, at)
    line_end = text.find("\n", at)
    line_end = len(text) if line_end < 0 else line_end
    line = text[start:line_end]
    if line.strip() and set(line.strip()) <= set("{}()[]"):
        return _blank(text, at, at + 1)
    end = line_end
    if re.search(r"[{(\[][ \t]*(#.*)?\r?$", line):
        end = _block_end(text, start, line_end)
    return _blank(text, start, end)


def _without_continuation(text: str, line_end: int) -> str:
    """Blank the line after an operator at a line's end, unless it begins something of its own."""
    rest = _CONTINUATION.match(text, line_end)
    return _blank(text, line_end, rest.end()) if rest else text


def _block_end(text: str, start: int, line_end: int) -> int:
    depth = 0
    for match in _LEXEME.finditer(text, start):
        depth += (match[0] in ("{", "(", "[")) - (match[0] in ("}", ")", "]"))
        if depth == 0 and match[0] in ("}", ")", "]") and match.end() > line_end:
            return match.end()
    return line_end
