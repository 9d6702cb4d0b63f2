"""The syntax tree of a `.grape` file: frozen records, each with its span.

Spans never take part in comparison, so two trees are equal when they say the same thing; the
formatter's proof rests on that. Expressions come first, then statements, then declarations.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from grape.dsl.source import Source, Span


def _span() -> Span:
    return field(compare=False, repr=False)  # type: ignore[no-any-return]


NumberKind = Literal["int", "float", "fraction", "size", "duration", "refused"]
"""`refused` stands where a number was refused already: what needs its value is left unchecked."""


@dataclass(frozen=True, slots=True)
class Ident:
    """A name where it is written."""

    name: str
    span: Span = _span()


# --- expressions ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Number:
    """`50k`, `2e-5`, `90%`, `24GiB` (bytes), `15min` (seconds): the value in base units."""

    value: int | float
    kind: NumberKind
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class String:
    """A string with its escapes resolved and, for a triple quoted one, dedented."""

    value: str
    raw: bool
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Bool:
    """`true` or `false`"""

    value: bool
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class List:
    """`[a, b]`"""

    items: tuple[Expr, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Name:
    """A name used as a value."""

    name: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Member:
    """`value.name`"""

    value: Expr
    name: Ident
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Index:
    """`value[key]`"""

    value: Expr
    key: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Arg:
    """One argument: positional (`name` is None) or named; `per` is the level of a reduction."""

    name: Ident | None
    value: Expr
    per: Ident | None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Call:
    """`function(args)`"""

    function: Expr
    args: tuple[Arg, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Unary:
    """`-x` or `not x`"""

    op: Literal["-", "not"]
    operand: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Binary:
    """`op` is one of `+ - * / ^ == != < <= > >= in and or`."""

    op: str
    left: Expr
    right: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Conditional:
    """`if test then yes else no`"""

    test: Expr
    yes: Expr
    no: Expr
    span: Span = _span()


Expr = Number | String | Bool | List | Name | Member | Index | Call | Unary | Binary | Conditional


def inside(node: Expr) -> tuple[Expr, ...]:
    """The expressions directly inside an expression, in the order they are written."""
    match node:
        case List():
            return node.items
        case Member():
            return (node.value,)
        case Index():
            return (node.value, node.key)
        case Call():
            return (node.function, *(arg.value for arg in node.args))
        case Unary():
            return (node.operand,)
        case Binary():
            return (node.left, node.right)
        case Conditional():
            return (node.test, node.yes, node.no)
    return ()


# --- statements of a pipeline -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setting:
    """`name = value` inside braces"""

    name: Ident
    value: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Node:
    """`model N = …`, `data N = …`, `stage N = …`, `next N = …`: one node of the graph.

    `call` is what stands right of `=`: a `Call`, or any other expression that a later phase
    refuses. `doc` is the text of the `##` lines before it.
    """

    keyword: Literal["model", "data", "stage", "next"]
    name: Ident
    call: Expr
    settings: tuple[Setting, ...]
    doc: str | None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Repeat:
    """`repeat count with name = start { settings, body }`"""

    count: Expr
    name: Ident
    start: Expr
    settings: tuple[Setting, ...]
    body: tuple[Statement, ...]
    doc: str | None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Until:
    """`until TEST`: ends a repeat early"""

    test: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Every:
    """`every COUNT { … }`: stages of some rounds only"""

    count: Expr
    body: tuple[Statement, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Each:
    """`each NAME in VALUES { … }`: one copy per value"""

    name: Ident
    values: Expr
    body: tuple[Statement, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class If:
    """`if TEST { … } else { … }`, decided when the file is compiled"""

    test: Expr
    yes: tuple[Statement, ...]
    no: tuple[Statement, ...]
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Check:
    """`check test [with confidence]`"""

    test: Expr
    confidence: Expr | None
    doc: str | None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Output:
    """`output VALUE as PATH`"""

    value: Expr
    path: String
    span: Span = _span()


Statement = Node | Repeat | Until | Every | Each | If | Check | Output


def bodies(statement: Statement) -> tuple[tuple[Statement, ...], ...]:
    """The blocks directly inside a statement, in the order they are written."""
    match statement:
        case Repeat() | Every() | Each():
            return (statement.body,)
        case If():
            return (statement.yes, statement.no)
    return ()


# --- statements of an algorithm ---------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Let:
    """`let NAME = VALUE`"""

    name: Ident
    value: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class State:
    """`state name = initial then following`: a number kept from update to update."""

    name: Ident
    initial: Expr
    following: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Log:
    """`log NAME = VALUE`"""

    name: Ident
    value: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Objective:
    """`maximize VALUE` or `minimize VALUE`"""

    goal: Literal["maximize", "minimize"]
    value: Expr
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class SubjectTo:
    """`subject to TEST`"""

    test: Expr
    span: Span = _span()


FormulaStatement = Let | State | Log | Objective | SubjectTo


# --- declarations -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TypeName:
    """`int`, `Model`, or `[float]` when `list_of` is set."""

    name: str
    list_of: bool
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter of a declaration."""

    name: Ident
    type: TypeName
    default: Expr | None
    where: Expr | None
    doc: str | None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class Use:
    """`use NAMES from SOURCE`"""

    names: tuple[Ident, ...]
    source: String
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class RewardDecl:
    """`reward NAME(params) = VALUE`"""

    name: Ident
    params: tuple[Param, ...]
    value: Expr
    doc: str | None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class RubricItem:
    """`item NAME weight WEIGHT = VALUE`"""

    name: Ident
    weight: Expr | None
    value: Expr
    doc: str | None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class RubricCategory:
    """`category NAME when WHEN { … }`"""

    name: Ident
    when: Expr | None
    items: tuple[RubricItem, ...]
    doc: str | None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class RubricDecl:
    """`rubric NAME(params) { … }`"""

    name: Ident
    params: tuple[Param, ...]
    categories: tuple[RubricCategory, ...]
    doc: str | None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class AlgorithmDecl:
    """`algorithm NAME(params) on TYPE { … }`"""

    name: Ident
    params: tuple[Param, ...]
    on: Ident
    body: tuple[FormulaStatement, ...]
    doc: str | None
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class PipelineDecl:
    """`pipeline NAME(params) { … }`"""

    name: Ident
    params: tuple[Param, ...]
    body: tuple[Statement, ...]
    doc: str | None
    span: Span = _span()


Declaration = Use | RewardDecl | RubricDecl | AlgorithmDecl | PipelineDecl


@dataclass(frozen=True, slots=True)
class Allow:
    """`# grape: allow G412: reason`, which silences one code on its line or the next."""

    code: str
    reason: str
    span: Span = _span()


@dataclass(frozen=True, slots=True)
class File:
    """A whole file. `damaged` is true when parsing had to skip something."""

    source: Source = field(compare=False, repr=False)
    edition: int | None
    declarations: tuple[Declaration, ...]
    allows: tuple[Allow, ...] = ()
    damaged: bool = field(default=False, compare=False)
