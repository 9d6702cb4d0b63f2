"""Where names lead: definition, references, highlights, renaming.

Renaming is proved: the changed texts are analysed again, and every name must still mean what it
meant; where one would not, the rename is refused with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from grape.dsl.lsp.analyser import Analysis, Occurrence, Symbol
from grape.dsl.lsp.project import Project
from grape.dsl.source import Span
from grape.dsl.words import words

_NAME = re.compile(r"[a-z_][a-z0-9_]*")
_FIXED = {
    "item": "its name is the label under which it is logged",
    "category": "its name is the label under which it is logged",
    "log": "its name is the label under which it is logged",
}


class CannotRename(Exception):
    """Why a name stays as it is."""


def occurrence_at(analysis: Analysis, offset: int) -> Occurrence | None:
    """The name at a place, its end included."""
    for found in analysis.occurrences:
        if found.span.start <= offset <= found.span.end:
            return found
    return None


def references(project: Project, path: Path, symbol: Symbol) -> dict[Path, list[Span]]:
    """Every place in the project that names a symbol, by file."""
    found: dict[Path, list[Span]] = {}
    for file, analysis in project.mentioning(symbol.name, path):
        spans = [item.span for item in analysis.occurrences if _same(analysis, item, symbol)]
        if spans:
            found[file] = spans
    return found


def _same(analysis: Analysis, item: Occurrence, symbol: Symbol) -> bool:
    return item.symbol.name == symbol.name and item.symbol.key == symbol.key


def renamable(analysis: Analysis, offset: int) -> Occurrence:
    """The name at a place, if it can be renamed. Raises `CannotRename`."""
    found = occurrence_at(analysis, offset)
    if found is None:
        raise CannotRename("this is a word of the language, not a name of yours")
    symbol = found.symbol
    home = analysis.paths.get(symbol.span.source.path)
    if symbol.span.source.path.startswith("std/") or home is None:
        raise CannotRename(f"`{symbol.name}` belongs to the library that ships with Grape")
    if symbol.kind in _FIXED:
        raise CannotRename(f"`{symbol.name}` cannot be renamed here: {_FIXED[symbol.kind]}")
    if symbol.kind == "parameter" and symbol.name == "seed":
        raise CannotRename("`seed` is the seed of the pipeline because of its name")
    return found


def rename(project: Project, path: Path, offset: int, name: str) -> dict[Path, list[Span]]:
    """The places where the new name has to stand, by file. Raises `CannotRename`."""
    analysis = project.analysis(path)
    symbol = renamable(analysis, offset).symbol
    if not _NAME.fullmatch(name):
        raise CannotRename(f"`{name}` is no name: small letters, digits and _, not a digit first")
    if name in words().keywords:
        raise CannotRename(f"`{name}` is a word of the language")
    home = analysis.paths[symbol.span.source.path]
    places = references(project, home, symbol)
    changed = {file: _replaced(project.text(file), spans, name) for file, spans in places.items()}
    for file in _touched(project, home, changed, symbol.name, name):
        before = project.analysis(file)
        if before.damaged:
            raise CannotRename(f"{file.name} has a syntax error; mend it first")
        if _meaning(before) != _meaning(project.snapshot(changed, file)):
            raise CannotRename(f"`{name}` means something else already where it would stand")
    return places


def _touched(
    project: Project, home: Path, changed: Mapping[Path, str], old: str, new: str
) -> list[Path]:
    """Files whose names could come to mean something else: changed ones, and their importers."""
    names = [file for word in (old, new) for file, _ in project.mentioning(word, home)]
    return list(dict.fromkeys([*changed, *names]))


def _replaced(text: str, spans: Sequence[Span], name: str) -> str:
    for span in sorted(spans, key=lambda span: span.start, reverse=True):
        text = text[: span.start] + name + text[span.end :]
    return text


def _meaning(analysis: Analysis) -> list[tuple[str, int]]:
    """What each name of a file means, by position in the order of names: the same before and
    after a change of names that changes nothing else."""
    own = [item for item in analysis.occurrences if item.defines]
    order = {item.symbol.key: number for number, item in enumerate(own)}
    meaning = []
    for item in analysis.occurrences:
        key = item.symbol.key
        if key in order:
            meaning.append(("", order[key]))
        else:
            line = item.symbol.span.line
            meaning.append((key[0], line))
    return [*meaning, ("findings", len(analysis.findings))]
