"""A Pygments lexer: Grape in documentation, in notebooks, on web pages. Its words come from the
grammar. Text that is not Grape gives error tokens, and nothing is ever left out.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pygments.lexer import RegexLexer, bygroups, include, words
from pygments.token import (
    Comment,
    Keyword,
    Name,
    Number,
    Operator,
    Punctuation,
    String,
    Whitespace,
)

from grape.dsl.build import UNITS
from grape.dsl.words import words as language

_WORDS = language()
_UNITS = "|".join(sorted((unit for unit in UNITS if unit), key=len, reverse=True))
_NUMBER = r"[0-9][0-9_]*(?:\.[0-9][0-9_]*)?(?:[eE][+-]?[0-9]+)?"


class GrapeLexer(RegexLexer):  # type: ignore[misc]
    """Tokens of a `.grape` file."""

    name = "Grape"
    aliases: ClassVar[list[str]] = ["grape"]
    filenames: ClassVar[list[str]] = ["*.grape"]
    mimetypes: ClassVar[list[str]] = ["text/x-grape"]

    tokens: ClassVar[dict[str, list[Any]]] = {
        "root": [
            (r"\s+", Whitespace),
            (r"#\s*grape:[^\n]*", Comment.Preproc),
            (r"##[^\n]*", String.Doc),
            (r"#[^\n]*", Comment.Single),
            (r'r"""(?:.|\n)*?"""', String.Other),
            (r'r"[^"\n]*"', String.Other),
            (r'"""', String.Double, "text"),
            (r'"', String.Double, "line"),
            (rf"({_NUMBER})({_UNITS})?(?![A-Za-z0-9_%])", bygroups(Number, Keyword.Type)),
            (
                rf"({'|'.join(_WORDS.declarations)})(\s+)([a-z_][a-z0-9_]*)",
                bygroups(Keyword.Declaration, Whitespace, Name.Class),
            ),
            (r"(\.)(\s*)([a-z_][a-z0-9_]*)", bygroups(Punctuation, Whitespace, Name.Attribute)),
            (r"[a-z_][a-z0-9_]*(?=\s*(=(?!=)|:))", Name.Attribute),
            (words(_WORDS.constants, prefix=r"\b", suffix=r"\b"), Keyword.Constant),
            (words(_WORDS.logic, prefix=r"\b", suffix=r"\b"), Operator.Word),
            (words(_WORDS.control, prefix=r"\b", suffix=r"\b"), Keyword),
            (r"[a-z_][a-z0-9_]*(?=\()", Name.Function),
            (r"[A-Z][A-Za-z0-9_]*", Keyword.Type),
            (r"[a-z_][a-z0-9_]*", Name),
            (r"==|!=|<=|>=|[-+*/^<>=]", Operator),
            (r"[(){}\[\],:.]", Punctuation),
        ],
        "text": [(r'"""', String.Double, "#pop"), include("inside"), (r'"|\n', String.Double)],
        "line": [
            (r'"', String.Double, "#pop"),
            (r"(?=\n)", String.Double, "#pop"),
            include("inside"),
        ],
        "inside": [
            (r"\\(u[0-9a-fA-F]{4}|.)", String.Escape),
            (r"\{\{|\}\}", String.Escape),
            (r"\{[^{}\"\n]*\}", String.Interpol),
            (r"[^\\{}\"\n]+", String.Double),
            (r"[{}\\]", String.Double),
        ],
    }
