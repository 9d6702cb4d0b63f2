"""A text as tokens and blocks, for files that do not parse: what encloses a place, and which names
are defined around it. A word that begins a declaration at the start of a line closes what was left
open before it. Meaning is not looked at.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

_TOKEN = re.compile(
    r"(?P<space>[ \t\f]+)|(?P<newline>\r?\n)|(?P<comment>\#[^\r\n]*)"
    r'|(?P<string>r?"""(?:[^\\]|\\.)*?(?:"""|\Z)|r"[^"\r\n]*"?|"(?:[^"\\\r\n]|\\.)*"?)'
    r"|(?P<number>[0-9][0-9_]*(?:\.[0-9][0-9_]*)?(?:[eE][+-]?[0-9]+)?[A-Za-z%]*)"
    r"|(?P<word>[A-Za-z_][A-Za-z0-9_]*)|(?P<open>[({\[])|(?P<close>[)}\]])|(?P<comma>,)"
    r"|(?P<op>==|!=|<=|>=|[-+*/^<>=:.])|(?P<other>.)",
    re.DOTALL,
)
_SET = re.compile(r"([a-z_][a-z0-9_]*)[ \t]*=(?!=)")
_NODES = ("model", "data", "stage")
_TOP = frozenset({"use", "reward", "rubric", "algorithm", "pipeline"})
_PAIRS = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True, slots=True)
class Token:
    kind: str
    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)


@dataclass(slots=True, eq=False)
class Frame:
    """An open bracket. `head` is the statement up to it; `statement` what stands inside since the
    last line end or comma; `end` is the place after the closing bracket, None while it is open."""

    opener: Token
    head: list[Token]
    parent: Frame | None
    end: int | None = None
    statement: list[Token] = field(default_factory=list)
    commas: int = 0
    names: dict[str, str] = field(default_factory=dict)
    """Names defined directly inside, and what each is: model, data, stage, variable, parameter."""
    given: list[str] = field(default_factory=list)
    """Names set so far as `NAME = …`."""

    @property
    def word(self) -> str:
        """The word that begins the statement of the bracket."""
        return self.head[0].text if self.head else ""

    @property
    def callee(self) -> str:
        """The name before a parenthesis, or before the first one of the head of a brace."""
        if self.opener.text == "(":
            return self.head[-1].text if self.head and self.head[-1].kind == "word" else ""
        for before, token in zip(self.head, self.head[1:], strict=False):
            if token.text == "(" and before.kind == "word":
                return before.text
        return ""


@dataclass(frozen=True, slots=True)
class Scanned:
    tokens: tuple[Token, ...]
    """All but white space; line ends and comments too."""
    frames: tuple[Frame, ...]
    """In the order in which they open."""

    def at(self, offset: int) -> Token | None:
        """The string or comment that a place lies inside of, or None."""
        for token in self.tokens:
            if token.start < offset <= token.end and token.kind in ("string", "comment"):
                closed = token.kind == "string" and _is_closed(token.text)
                return None if closed and offset == token.end else token
        return None


def _is_closed(text: str) -> bool:
    body = text.removeprefix("r")
    mark = '"""' if body.startswith('"""') else '"'
    return len(body) >= 2 * len(mark) and body.endswith(mark)


class _Scanner:
    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.stack: list[Frame] = []
        self.statement: list[Token] = []
        """At the top level."""
        self.line_start = True

    @property
    def current(self) -> list[Token]:
        return self.stack[-1].statement if self.stack else self.statement

    def feed(self, token: Token) -> None:
        if token.kind == "comment":
            return
        first = self.line_start and token.kind == "word" and token.text in _TOP
        if token.kind == "newline":
            self.line_start = True
            if not self.stack or self.stack[-1].opener.text == "{":
                self._end_statement()
            return
        if first and _at_line_start(token, self.before):
            while self.stack:
                self._close(self.stack[-1], token.start)
            self._end_statement()
        self.line_start = False
        self._take(token)

    before = ""
    """The text of the line before the token."""

    def _take(self, token: Token) -> None:
        if token.kind == "open":
            parent = self.stack[-1] if self.stack else None
            made = Frame(token, list(self.current), parent)
            self._head_names(made)
            self.frames.append(made)
            self.current.append(token)
            self.stack.append(made)
        elif token.kind == "close":
            if any(_PAIRS[frame.opener.text] == token.text for frame in self.stack):
                while _PAIRS[self.stack[-1].opener.text] != token.text:
                    self._close(self.stack[-1], token.start)
                self._close(self.stack[-1], token.end)
                self.current.append(token)
        elif token.kind == "comma" and self.stack:
            frame = self.stack[-1]
            frame.commas += 1
            self._end_statement()
        else:
            self.current.append(token)

    def _close(self, frame: Frame, end: int) -> None:
        self._end_statement()
        frame.end = end
        self.stack.pop()

    def _end_statement(self) -> None:
        statement = self.current
        if self.stack:
            _note(self.stack[-1], statement)
        statement.clear()

    def _head_names(self, frame: Frame) -> None:
        """What the head of a block defines: parameters inside, the model of a repeat outside."""
        if frame.opener.text != "{":
            return
        words = [token.text for token in frame.head]
        if frame.word in _TOP:
            for parens in reversed(self.frames):
                if parens.opener.text == "(" and parens.head[:1] == frame.head[:1]:
                    frame.names |= parens.names
                    break
        if frame.word == "repeat" and "with" in words[:-1] and frame.parent:
            name = words[words.index("with") + 1]
            frame.names[name] = frame.parent.names[name] = "model"
        if frame.word == "each" and len(words) > 1:
            frame.names[words[1]] = "parameter"


def _at_line_start(token: Token, before: str) -> bool:
    return not before or before.endswith("\n")


def _note(frame: Frame, statement: Sequence[Token]) -> None:
    texts = [token.text for token in statement[:3]]
    if len(texts) < 2 or statement[0].kind != "word":
        return
    if texts[0] in _NODES and statement[1].kind == "word":
        frame.names[texts[1]] = texts[0]
    elif texts[0] == "let" and statement[1].kind == "word":
        frame.names[texts[1]] = "variable"
    elif texts[1] == ":":
        frame.names[texts[0]] = "parameter"
    elif texts[1] == "=":
        frame.given.append(texts[0])


def scan(text: str, end: int | None = None) -> Scanned:
    """Tokens and brackets of the text, or of the text up to `end`."""
    scanner = _Scanner()
    tokens = []
    stop = len(text) if end is None else end
    for match in _TOKEN.finditer(text, 0, stop):
        kind = match.lastgroup or "other"
        if kind == "space":
            continue
        token = Token(kind, match[0], match.start())
        tokens.append(token)
        scanner.before = text[max(0, match.start() - 1) : match.start()]
        scanner.feed(token)
    if end is None:
        while scanner.stack:
            scanner._close(scanner.stack[-1], len(text))
    return Scanned(tuple(tokens), tuple(scanner.frames))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a cursor is: the brackets around it, from the innermost, and its statement so far."""

    frames: tuple[Frame, ...]
    statement: tuple[Token, ...]
    inside: Token | None
    """The string or comment that it is in."""
    word: str
    """What is typed of the word at the cursor."""
    names: dict[str, str]
    """Names in scope and what each is."""

    @property
    def frame(self) -> Frame | None:
        return self.frames[0] if self.frames else None


def place_at(text: str, offset: int) -> Place:
    """What encloses a place of a text, half-typed or whole. Names defined after the place count
    too, where the language lets them."""
    inside = scan(text, offset).at(offset)
    scanner = _Scanner()
    end = inside.start if inside is not None else offset
    for match in _TOKEN.finditer(text, 0, end):
        kind = match.lastgroup or "other"
        if kind != "space":
            scanner.before = text[max(0, match.start() - 1) : match.start()]
            scanner.feed(Token(kind, match[0], match.start()))
    statement = list(scanner.current)
    word = ""
    if inside is None and statement and statement[-1].kind == "word":
        last = statement[-1]
        if last.end == offset:
            word = statement.pop().text
    whole = {frame.opener.start: frame for frame in scan(text).frames}
    names: dict[str, str] = {}
    typed = _SET.match(text, offset - len(word))
    for frame in scanner.stack:
        if frame.word != "algorithm":  # a `let` is in scope only after its line
            _note(frame, frame.statement)
        known = whole.get(frame.opener.start)
        if frame.opener.text == "{" and known is not None:
            frame.given = known.given
            later = known.names if frame.word != "algorithm" else frame.names
            names |= frame.names | later
        elif known is not None:
            frame.given = known.given
            if frame.opener.text == "(" and frame.word in _TOP:
                names |= frame.names
    if scanner.stack and typed and typed[1] in scanner.stack[-1].given:
        scanner.stack[-1].given = [name for name in scanner.stack[-1].given if name != typed[1]]
    head = _header_names(scanner, statement)
    return Place(tuple(reversed(scanner.stack)), tuple(statement), inside, word, names | head)


def _header_names(scanner: _Scanner, statement: Sequence[Token]) -> dict[str, str]:
    """Parameters of a `reward NAME(…) = EXPR`, which has no braces."""
    outer = scanner.statement
    if outer and outer[0].text == "reward":
        for frame in reversed(scanner.frames):
            if frame.opener.text == "(" and frame.head[:1] == outer[:1]:
                return dict(frame.names)
    return {}
