"""Lark's reductions to syntax records. One method per grammar rule, called while parsing.

Numbers get their units, strings their escapes, flat operator lists their precedence. What is wrong
with a literal becomes a finding in `findings`; the node is still built.
"""

from __future__ import annotations

import re
import textwrap
from typing import Any, TypeVar

from lark import Token, Transformer

from grape.dsl import ast
from grape.dsl.findings import Edit, Finding, Fix
from grape.dsl.nearest import nearest
from grape.dsl.source import Source, Span

UNITS: dict[str, tuple[ast.NumberKind, float]] = {
    "": ("float", 1),
    "%": ("fraction", 0.01),
    "k": ("int", 10**3),
    "M": ("int", 10**6),
    "KB": ("size", 10**3),
    "MB": ("size", 10**6),
    "GB": ("size", 10**9),
    "TB": ("size", 10**12),
    "KiB": ("size", 2**10),
    "MiB": ("size", 2**20),
    "GiB": ("size", 2**30),
    "TiB": ("size", 2**40),
    "ms": ("duration", 0.001),
    "s": ("duration", 1),
    "min": ("duration", 60),
    "h": ("duration", 3600),
    "d": ("duration", 86400),
}

_NUMBER = re.compile(r"([0-9][0-9_]*(?:\.[0-9][0-9_]*)?(?:[eE][+-]?[0-9]+)?)(.*)", re.DOTALL)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\", "0": "\0"}
_LEVELS: tuple[frozenset[str], ...] = (
    frozenset({"or"}),
    frozenset({"and"}),
    frozenset({"==", "!=", "<", "<=", ">", ">=", "in"}),
    frozenset({"+", "-"}),
    frozenset({"*", "/"}),
    frozenset({"^"}),
)
_PRECEDENCE = {op: level for level, ops in enumerate(_LEVELS) for op in ops}
_NOT, _NEGATE, _POWER = 2, 5, 5
MAX_OPERANDS = 200
MAX_NESTING = 200
MAX_DIGITS = 40
_E = TypeVar("_E", bound=ast.Expr)


class Builder(Transformer[Token, Any]):
    """Makes records for `source`, which `begin` sets before each parse."""

    def __init__(self) -> None:
        super().__init__(visit_tokens=False)
        self.source = Source("", "")
        self.findings: list[Finding] = []
        self.docs: dict[int, str] = {}
        """Line on which a documented thing starts, to its doc text."""
        self.skipped = False
        """Whether something written was left out of the tree."""
        self._settings_end = Span(self.source, 0, 0)
        self._depths: dict[int, tuple[float, ast.Expr]] = {}

    def begin(self, source: Source, docs: dict[int, str]) -> None:
        """Forget the last text and build for this one."""
        self.source, self.docs = source, docs
        self.findings, self.skipped = [], False
        self._depths.clear()

    # --- places -------------------------------------------------------------------------------

    def _span(self, token: Token) -> Span:
        assert token.start_pos is not None and token.end_pos is not None
        return Span(self.source, token.start_pos, token.end_pos)

    def _ident(self, token: Token) -> ast.Ident:
        return ast.Ident(str(token), self._span(token))

    def _doc(self, span: Span) -> str | None:
        line, column = self.source.position(span.start)
        first = not self.source.line_text(line)[: column - 1].strip()
        return self.docs.get(line) if first else None

    def _report(self, code: str, message: str, span: Span, fix: Fix | None = None) -> None:
        self.findings.append(Finding(code, message, span, fix=fix))

    def _nested(self, made: _E, *parts: ast.Expr) -> _E | ast.Number:
        """`made`, unless its `parts` nest so deep that later phases could not walk it."""
        depth = 1 + max(
            self._depths[id(part)][0] if id(part) in self._depths else 0 for part in parts
        )
        if depth <= MAX_NESTING:
            self._depths[id(made)] = depth, made
            return made
        if depth <= MAX_NESTING + 1:
            self._report("G006", "this expression nests too deep; name parts of it", made.span)
        self.skipped = True
        stand_in = ast.Number(0, "refused", made.span)
        self._depths[id(stand_in)] = float("inf"), stand_in
        return stand_in

    # --- expressions --------------------------------------------------------------------------

    def number(self, children: list[Token]) -> ast.Number:
        return self._number(children[0])

    def _number(self, token: Token) -> ast.Number:
        span = self._span(token)
        match = _NUMBER.fullmatch(str(token))
        assert match
        digits, unit = match[1].replace("_", ""), match[2]
        if unit not in UNITS:
            close = nearest(unit, UNITS)
            hint = f"; did you mean `{match[1]}{close[0]}`?" if close else ""
            fix = None
            if close:
                fix = Fix(f"write {close[0]}", (Edit(span, match[1] + close[0]),), safe=False)
            self._report("G003", f"`{unit}` is not a unit{hint}", span, fix)
            self.skipped = True
            return ast.Number(0, "refused", span)
        if len(digits) > MAX_DIGITS or float(digits) * UNITS[unit][1] == float("inf"):
            self._report("G004", "this number is too large to mean anything", span)
            self.skipped = True
            return ast.Number(0, "refused", span)
        kind, scale = UNITS[unit]
        whole = digits.isdigit()
        if unit == "":
            return ast.Number(
                int(digits) if whole else float(digits), "int" if whole else "float", span
            )
        value = (int(digits) if whole else float(digits)) * scale
        if kind == "fraction":
            value = (int(digits) if whole else float(digits)) / 100
        if kind in ("int", "size") and float(value).is_integer():
            value = int(value)
        elif kind == "int":
            kind = "float"
        return ast.Number(value, kind, span)

    def string(self, children: list[Token]) -> ast.String:
        return self._string_of(children[0])

    def _string_of(self, token: Token) -> ast.String:
        text = str(token)
        raw = text.startswith("r")
        body = text[1:] if raw else text
        if body.startswith('"""'):
            value = textwrap.dedent(body[3:-3].removeprefix("\n"))
        else:
            value = body[1:-1]
        return ast.String(value if raw else self._unescape(value, token), raw, self._span(token))

    def _unescape(self, text: str, token: Token) -> str:
        def one(match: re.Match[str]) -> str:
            what = match[1]
            if what[0] == "u" and len(what) == 5:
                if 0xD800 <= int(what[1:], 16) <= 0xDFFF:
                    half = f"`\\{what}` is half a character; write the character itself"
                    self._report("G005", half, self._span(token))
                    return "\ufffd"
                return chr(int(what[1:], 16))
            if what not in _ESCAPES:
                self._report(
                    "G005",
                    f'`\\{what}` is not an escape; write `\\\\{what}` or a raw string r"…"',
                    self._span(token),
                )
                return what
            return _ESCAPES[what]

        return _ESCAPE.sub(one, text)

    def name(self, children: list[Token]) -> ast.Name | ast.Bool:
        token = children[0]
        if token in ("true", "false"):
            return ast.Bool(token == "true", self._span(token))
        return ast.Name(str(token), self._span(token))

    def list_(self, children: list[Any]) -> ast.Expr:
        first, *items, last = children
        kept = tuple(item for item in items if item is not None)
        made = ast.List(kept, self._span(first).to(self._span(last)))
        return self._nested(made, made, *kept)

    def group(self, children: list[Any]) -> ast.Expr:
        inner: ast.Expr = children[1]
        return inner

    def member(self, children: list[Any]) -> ast.Expr:
        value, token = children
        made = ast.Member(value, self._ident(token), value.span.to(self._span(token)))
        return self._nested(made, value)

    def index(self, children: list[Any]) -> ast.Expr:
        value, _, key, close = children
        made = ast.Index(value, key, value.span.to(self._span(close)))
        return self._nested(made, value, key)

    def call(self, children: list[Any]) -> ast.Expr:
        function, _, *args, close = children
        kept = tuple(arg for arg in args if arg is not None)
        made = ast.Call(function, kept, function.span.to(self._span(close)))
        return self._nested(made, function, *(arg.value for arg in kept))

    def named(self, children: list[Any]) -> ast.Arg:
        name, value = self._ident(children[0]), children[1]
        return ast.Arg(name, value, None, name.span.to(value.span))

    def plain(self, children: list[Any]) -> ast.Arg:
        value, level = children
        if level is None:
            return ast.Arg(None, value, None, value.span)
        ident = self._ident(level)
        return ast.Arg(None, value, ident, value.span.to(ident.span))

    def conditional(self, children: list[Any]) -> ast.Expr:
        start, test, yes, no = children
        made = ast.Conditional(test, yes, no, self._span(start).to(no.span))
        return self._nested(made, test, yes, no)

    def flat(self, children: list[Any]) -> ast.Expr:
        if len(children) == 1:
            single: ast.Expr = children[0]
            return single
        if len(children) > 2 * MAX_OPERANDS:
            first = children[0]
            span = self._span(first) if isinstance(first, Token) else first.span
            self._report("G006", "this expression has too many operators; name parts of it", span)
            self.skipped = True
            return ast.Number(0, "refused", span)
        items = list(reversed(children))
        return self._climb(items, 0)

    def _climb(self, items: list[Any], lowest: int) -> ast.Expr:
        left = self._prefix(items)
        while items:
            op = str(items[-1])
            level = _PRECEDENCE[op]
            if level < lowest:
                break
            items.pop()
            right = self._climb(items, level if op == "^" else level + 1)
            left = self._nested(ast.Binary(op, left, right, left.span.to(right.span)), left, right)
        return left

    def _prefix(self, items: list[Any]) -> ast.Expr:
        item = items.pop()
        if not isinstance(item, Token):
            operand: ast.Expr = item
            return operand
        if item.type == "NOT":
            inner = self._climb(items, _NOT)
            return self._nested(ast.Unary("not", inner, self._span(item).to(inner.span)), inner)
        inner = self._climb(items, _NEGATE)
        return self._nested(ast.Unary("-", inner, self._span(item).to(inner.span)), inner)

    # --- pipelines ----------------------------------------------------------------------------

    def setting(self, children: list[Any]) -> ast.Setting:
        name, value = self._ident(children[0]), children[1]
        return ast.Setting(name, value, name.span.to(value.span))

    def settings(self, children: list[Any]) -> tuple[ast.Setting, ...]:
        self._settings_end = self._span(children[-1])
        return tuple(child for child in children if isinstance(child, ast.Setting))

    def node(self, children: list[Any]) -> ast.Node:
        keyword, name, call, settings = children
        start = self._span(keyword)
        end = call.span if settings is None else self._settings_end
        return ast.Node(
            keyword=str(keyword),  # type: ignore[arg-type]
            name=self._ident(name),
            call=call,
            settings=settings or (),
            doc=self._doc(start),
            span=start.to(end),
        )

    def block(self, children: list[Any]) -> tuple[ast.Statement, ...]:
        return tuple(child for child in children if child is not None)

    def rounds(self, children: list[Any]) -> tuple[ast.Statement | ast.Setting, ...]:
        return tuple(child for child in children if child is not None)

    def repeat(self, children: list[Any]) -> ast.Repeat:
        start, count, name, first, inside = children
        settings = tuple(line for line in inside if isinstance(line, ast.Setting))
        body = tuple(line for line in inside if not isinstance(line, ast.Setting))
        span = self._span(start)
        return ast.Repeat(
            count, self._ident(name), first, settings, body, self._doc(span), span.to(first.span)
        )

    def until(self, children: list[Any]) -> ast.Until:
        start, test = children
        return ast.Until(test, self._span(start).to(test.span))

    def every(self, children: list[Any]) -> ast.Every:
        start, count, body = children
        return ast.Every(count, body, self._span(start).to(count.span))

    def each(self, children: list[Any]) -> ast.Each:
        start, name, values, body = children
        return ast.Each(self._ident(name), values, body, self._span(start).to(values.span))

    def if_(self, children: list[Any]) -> ast.If:
        start, test, yes, no = children
        return ast.If(test, yes, no or (), self._span(start).to(test.span))

    def check(self, children: list[Any]) -> ast.Check:
        start, test, confidence = children
        span, end = self._span(start), confidence or test
        return ast.Check(test, confidence, self._doc(span), span.to(end.span))

    def output(self, children: list[Any]) -> ast.Output:
        start, value, path = children
        return ast.Output(value, self._string_of(path), self._span(start).to(self._span(path)))

    # --- declarations -------------------------------------------------------------------------

    def edition(self, children: list[Any]) -> ast.Number:
        return self._number(children[1])

    def use(self, children: list[Any]) -> ast.Use:
        start, *names, source = children
        idents = tuple(self._ident(name) for name in names)
        return ast.Use(idents, self._string_of(source), self._span(start).to(self._span(source)))

    def type(self, children: list[Any]) -> ast.TypeName:
        return ast.TypeName(str(children[0]), False, self._span(children[0]))

    def list_type(self, children: list[Any]) -> ast.TypeName:
        first, name, last = children
        return ast.TypeName(str(name), True, self._span(first).to(self._span(last)))

    def param(self, children: list[Any]) -> ast.Param:
        name, kind, default, where = children
        end = where or default or kind
        start = self._span(name)
        return ast.Param(
            self._ident(name), kind, default, where, self._doc(start), start.to(end.span)
        )

    def params(self, children: list[Any]) -> tuple[ast.Param, ...]:
        return tuple(child for child in children if child is not None)

    def reward(self, children: list[Any]) -> ast.RewardDecl:
        start, name, params, value = children
        span = self._span(start)
        return ast.RewardDecl(
            self._ident(name), params, value, self._doc(span), span.to(value.span)
        )

    def item_(self, children: list[Any]) -> ast.RubricItem:
        start, name, weight, value = children
        span = self._span(start)
        return ast.RubricItem(
            self._ident(name), weight, value, self._doc(span), span.to(value.span)
        )

    def category(self, children: list[Any]) -> ast.RubricCategory:
        start, name, when, *items = children
        span = self._span(start)
        kept = tuple(item for item in items if item is not None)
        return ast.RubricCategory(
            self._ident(name), when, kept, self._doc(span), span.to(self._span(name))
        )

    def rubric(self, children: list[Any]) -> ast.RubricDecl:
        start, name, params, *categories = children
        span = self._span(start)
        kept = tuple(category for category in categories if category is not None)
        return ast.RubricDecl(
            self._ident(name), params, kept, self._doc(span), span.to(self._span(name))
        )

    def let(self, children: list[Any]) -> ast.Let:
        start, name, value = children
        return ast.Let(self._ident(name), value, self._span(start).to(value.span))

    def log(self, children: list[Any]) -> ast.Log:
        start, name, value = children
        return ast.Log(self._ident(name), value, self._span(start).to(value.span))

    def memory(self, children: list[Any]) -> ast.State:
        start, name, initial, following = children
        span = self._span(start).to(following.span)
        return ast.State(self._ident(name), initial, following, span)

    def objective(self, children: list[Any]) -> ast.Objective:
        goal, value = children
        return ast.Objective(
            str(goal),  # type: ignore[arg-type]
            value,
            self._span(goal).to(value.span),
        )

    def subject(self, children: list[Any]) -> ast.SubjectTo:
        start, test = children
        return ast.SubjectTo(test, self._span(start).to(test.span))

    def algorithm(self, children: list[Any]) -> ast.AlgorithmDecl:
        start, name, params, on, *body = children
        span = self._span(start)
        return ast.AlgorithmDecl(
            self._ident(name),
            params,
            self._ident(on),
            tuple(line for line in body if line is not None),
            self._doc(span),
            span.to(self._span(on)),
        )

    def pipeline(self, children: list[Any]) -> ast.PipelineDecl:
        start, name, params, body = children
        span = self._span(start)
        return ast.PipelineDecl(
            self._ident(name), params, body, self._doc(span), span.to(self._span(name))
        )
