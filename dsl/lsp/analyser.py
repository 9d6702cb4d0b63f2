"""What the language server asks about meaning. The compiler answers (`compiler.semantics`).

Records and protocols only: the server knows nothing of passes, verbs or formulas.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from grape.dsl.findings import Finding
from grape.dsl.source import Source, Span

Kind = Literal[
    "pipeline",
    "algorithm",
    "reward",
    "rubric",
    "category",
    "item",
    "parameter",
    "model",
    "data",
    "stage",
    "variable",
    "log",
]


@dataclass(frozen=True, slots=True)
class Symbol:
    """A name that a file gives to something. `signature` is how it is declared."""

    name: str
    kind: Kind
    span: Span = field(repr=False)
    signature: str = ""
    doc: str | None = None

    @property
    def key(self) -> tuple[str, int]:
        """The same for the same declaration: its file and the place of its name."""
        return self.span.source.path, self.span.start


@dataclass(frozen=True, slots=True)
class Occurrence:
    """A place where a symbol is named; its definition is one of them."""

    span: Span
    symbol: Symbol

    @property
    def defines(self) -> bool:
        return self.symbol.key == (self.span.source.path, self.span.start)


@dataclass(frozen=True, slots=True)
class Setting:
    """A setting of a verb: its type in words, its default (None: it must be given), its meaning,
    and what it may be where that is a short list."""

    name: str
    type: str
    default: str | None
    doc: str
    values: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Callee:
    """Something that is called: a verb, a source, a reward, an algorithm. `parameters` are what
    stands in its parentheses, `settings` what stands in its braces."""

    name: str
    kind: str
    signature: str
    doc: str
    parameters: tuple[Setting, ...] = ()
    settings: tuple[Setting, ...] = ()
    makes: str = ""


class Analysis(Protocol):
    """What is known about one text of one file and everything it imports."""

    @property
    def source(self) -> Source: ...
    @property
    def damaged(self) -> bool:
        """Whether parsing had to skip something."""

    @property
    def findings(self) -> Sequence[Finding]:
        """Of this file and of its imports, in order."""

    @property
    def paths(self) -> Mapping[str, Path]:
        """The files that were read: by the path that spans show, where they are."""

    @property
    def occurrences(self) -> Sequence[Occurrence]:
        """In this file, by place."""

    @property
    def imports(self) -> Sequence[tuple[str, Span, Span]]:
        """Each `use`: its source, the place of its last name and of the source."""

    def types(self) -> Sequence[tuple[Symbol, str]]:
        """What each model, data and stage of this file is, where that is known."""

    def hover(self, symbol: Symbol) -> str:
        """All there is to say about a symbol, as Markdown."""

    def visible(self, pipeline_or_algorithm: str) -> Mapping[str, Symbol]:
        """Every symbol inside a declaration of this file, by name; for details only."""

    def callee(self, name: str) -> Callee | None:
        """What a call of that name would call: a verb, a built-in reward, or a declaration that
        this file can see."""

    def columns(self, data: str) -> Sequence[str]:
        """Columns of the file that a data statement names; none when they cannot be read."""


class Analyser(Protocol):
    """Makes analyses; keeps what it parsed."""

    def analyse(self, path: Path, texts: Mapping[Path, str]) -> Analysis:
        """The file at `path`. `texts` are open buffers: they stand before the disk."""

    def callees(self, keyword: str) -> Sequence[Callee]:
        """Verbs and sources after `model`, `data`, `stage` or `next`; `reward`: built-in ones."""

    def library(self) -> Mapping[str, str]:
        """Algorithms that ship with Grape, and what each is."""

    def meaning(self, word: str) -> str | None:
        """A function, quantity, level or type of the language, as Markdown."""

    def words_of_formulas(self) -> Sequence[tuple[str, str]]:
        """Functions and quantities, each with what it is in a few words."""

    def levels(self) -> Sequence[str]: ...
    def parameter_types(self) -> Sequence[str]: ...
