"""What can be typed at a place: names in scope, verbs, settings not yet given, values, columns of
the data, imports. Works on half-typed text: the place is found by scanning tokens, not by parsing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lsprotocol import types as lsp

from grape.dsl.lsp.analyser import Analyser, Analysis, Callee, Setting
from grape.dsl.lsp.convert import Converter
from grape.dsl.lsp.explain import callee_text, setting_text
from grape.dsl.lsp.project import Project
from grape.dsl.lsp.scan import Frame, Place, Token, place_at

Kind = lsp.CompletionItemKind
_KINDS = {
    "model": Kind.Class,
    "data": Kind.Struct,
    "stage": Kind.Event,
    "parameter": Kind.TypeParameter,
    "variable": Kind.Variable,
    "algorithm": Kind.Function,
    "reward": Kind.Function,
    "rubric": Kind.Function,
    "pipeline": Kind.Module,
}
_TOP = (
    ("use", 'use ${1:name} from "${2:std/algorithms}"'),
    ("reward", "reward ${1:name}() = $0"),
    ("algorithm", "algorithm ${1:name}() on ${2:Rollouts} {\n  $0\n}"),
    ("pipeline", "pipeline ${1:name}(seed: int = 7) {\n  $0\n}"),
)
_BODY = (
    ("model", 'model ${1:base} = pretrained("${2:hf:org/name}")'),
    ("data", 'data ${1:items} = jsonl("${2:data.jsonl}") {\n  $0\n}'),
    ("stage", "stage ${1:name} = $0"),
    ("repeat", "repeat ${1:rounds} with ${2:policy} = ${3:model} {\n  $0\n}"),
    ("check", "check $0"),
    ("output", 'output ${1:model} as "${2:models/name}"'),
)
_FORMULA = (
    ("let", "let ${1:name} = $0"),
    ("log", "log ${1:name} = $0"),
    ("maximize", "maximize $0"),
    ("minimize", "minimize $0"),
)
_METRICS = ("mean", "ci95_low", "ci95_high", "pass_at")
_DATA_FILES = {"jsonl": (".jsonl",), "csv": (".csv",), "parquet": (".parquet",)}
_MOST_PATHS = 200
_SOURCE = re.compile(r'from\s+"([^"\n]*)"')


@dataclass(frozen=True, slots=True)
class _Cursor:
    project: Project
    analysis: Analysis
    convert: Converter
    path: Path
    text: str
    offset: int
    place: Place

    @property
    def analyser(self) -> Analyser:
        return self.project.analyser


def complete(
    project: Project, analysis: Analysis, convert: Converter, path: Path, offset: int
) -> list[lsp.CompletionItem]:
    """Everything that fits at a place; nothing inside a comment."""
    text = analysis.source.text
    place = place_at(text, offset)
    at = _Cursor(project, analysis, convert, path, text, offset, place)
    if place.inside is not None:
        return _in_string(at, place.inside) if place.inside.kind == "string" else []
    before = place.statement[-1].text if place.statement else ""
    if before == ".":
        return _members(at)
    if before == "per":
        return [_item(level, Kind.EnumMember) for level in at.analyser.levels()]
    frame = place.frame
    if frame is None:
        return _top(at)
    if frame.opener.text == "{":
        return _in_braces(at, frame)
    if frame.opener.text == "(":
        return _in_parens(at, frame)
    return _names(at, ("parameter",))


def _item(
    label: str, kind: lsp.CompletionItemKind, detail: str = "", doc: str = "", **more: str
) -> lsp.CompletionItem:
    insert = more.get("insert")
    return lsp.CompletionItem(
        label=label,
        kind=kind,
        detail=detail or None,
        documentation=lsp.MarkupContent(lsp.MarkupKind.Markdown, doc) if doc else None,
        insert_text=insert,
        insert_text_format=lsp.InsertTextFormat.Snippet if insert else None,
        sort_text=more.get("sort"),
    )


def _snippets(rows: Iterable[tuple[str, str]]) -> list[lsp.CompletionItem]:
    return [_item(label, Kind.Keyword, insert=text) for label, text in rows]


# --- by place ---------------------------------------------------------------------------------


def _top(at: _Cursor) -> list[lsp.CompletionItem]:
    statement = [token.text for token in at.place.statement]
    if not statement:
        return _snippets(_TOP)
    if statement[0] == "use" and "from" not in statement:
        return _importable(at)
    if statement[0] == "reward" and "=" in statement:
        return [*_names(at, ("parameter",)), *_callables(at, "reward")]
    if statement[-1] == "on":
        return [_item(name, Kind.Class) for name in ("Demos", "Rollouts", "Preferences", "Ratings")]
    return []


def _importable(at: _Cursor) -> list[lsp.CompletionItem]:
    """Names for a `use`: those of the file that stands after them, else the library's."""
    source = _SOURCE.search(at.text[at.offset :].split("\n", 1)[0])
    if source is not None and not source[1].startswith("std"):
        file = (at.path.parent / source[1]).resolve()
        if not file.is_relative_to(at.path.parent) or not file.is_file():
            return []
        other = at.project.analysis(file)
        kinds = ("reward", "rubric", "algorithm")
        found = [item.symbol for item in other.occurrences if item.defines]
        return [
            _item(symbol.name, Kind.Function, symbol.signature, symbol.doc or "")
            for symbol in found
            if symbol.kind in kinds
        ]
    library = at.analyser.library().items()
    return [_item(name, Kind.Function, "std/algorithms", doc) for name, doc in library]


def _in_braces(at: _Cursor, frame: Frame) -> list[lsp.CompletionItem]:
    statement = at.place.statement
    if frame.word in ("model", "data", "stage", "next"):
        callee = at.analysis.callee(frame.callee)
        return _settings(at, frame, callee) if callee else []
    if frame.word == "algorithm":
        return _snippets(_FORMULA) if not statement else _formula(at)
    if not statement:
        extra = [
            ("next", "next ${1:policy} = train($1, $0)"),
            ("until", "until $0"),
            ("staleness", "staleness = 1"),
        ]
        return _snippets([*_BODY, *(extra if frame.word == "repeat" else ())])
    first = statement[0].text
    if first in ("model", "data", "stage", "next"):
        return _verbs(at, first) if statement[-1].text == "=" else []
    if first in ("check", "until"):
        return _names(at, ("stage", "parameter"))
    if first == "output":
        return _names(at, ("model", "stage"))
    if first == "repeat":
        return _names(at, ("model", "stage", "parameter"))
    return _names(at, ("parameter",))


def _in_parens(at: _Cursor, frame: Frame) -> list[lsp.CompletionItem]:
    if any(
        outer.opener.text == "{" and (outer.word == "algorithm" or outer.callee == "keep")
        for outer in at.place.frames
    ):
        return _formula(at)
    if len(frame.head) == 2 and frame.head[0].text in ("reward", "algorithm", "pipeline", "rubric"):
        if at.place.statement and at.place.statement[-1].text == ":":
            return [_item(name, Kind.Class) for name in at.analyser.parameter_types()]
        return []
    callee = at.analysis.callee(frame.callee)
    if callee is None:
        return _names(at, ("parameter",))
    if len(at.place.statement) >= 2 and at.place.statement[1].text == "=":
        named = [p for p in callee.parameters if p.name == at.place.statement[0].text]
        if callee.kind not in ("stage", "model", "data"):
            return [*_values(named), *_names(at, ("parameter",))]
        return _names(at, ("model", "data", "stage"))
    if callee.kind in ("stage", "model", "data"):
        found = _names(at, ("model", "data", "stage"))
        if any(parameter.name == "reward" for parameter in callee.parameters):
            found += _callables(at, "reward")
        optional = [p for p in callee.parameters if p.default is not None]
        return [*found, *_named(optional, frame, callee)]
    found = _named(callee.parameters, frame, callee)
    more = _callables(at, "reward") if callee.kind in ("reward", "rubric") else []
    return [*found, *_names(at, ("parameter",)), *more]


def _formula(at: _Cursor) -> list[lsp.CompletionItem]:
    found = _names(at, ("variable", "parameter"))
    return found + [
        _item(
            name,
            Kind.Function if detail == "function" else Kind.Variable,
            detail,
            at.analyser.meaning(name) or "",
        )
        for name, detail in at.analyser.words_of_formulas()
    ]


# --- what there is ----------------------------------------------------------------------------


def _names(at: _Cursor, kinds: Sequence[str]) -> list[lsp.CompletionItem]:
    """Names in scope of these kinds, with their types."""
    owner = at.place.frames[-1] if at.place.frames else None
    name = owner.head[1].text if owner and len(owner.head) > 1 else ""
    known = at.analysis.visible(name)
    types = {symbol.name: shown for symbol, shown in at.analysis.types()}
    found = []
    for word, kind in at.place.names.items():
        if kind in kinds or (kind == "model" and "stage" in kinds):
            symbol = known.get(word)
            detail = types.get(word) or (symbol.signature if symbol else kind)
            doc = symbol.doc if symbol and symbol.doc else ""
            found.append(_item(word, _KINDS.get(kind, Kind.Variable), detail, doc, sort=f"0{word}"))
    return found


def _verbs(at: _Cursor, keyword: str) -> list[lsp.CompletionItem]:
    found = []
    for callee in at.analyser.callees(keyword):
        needed = [p for p in callee.parameters if p.default is None]
        slots = ", ".join(f"${{{n}:{p.name}}}" for n, p in enumerate(needed, 1))
        required = [s.name for s in callee.settings if s.default is None]
        inside = ", ".join(f"{name} = ${n}" for n, name in enumerate(required, len(needed) + 1))
        insert = f"{callee.name}({slots})" + (f" {{ {inside} }}" if inside else "")
        text = callee_text(callee)
        found.append(_item(callee.name, Kind.Method, callee.makes, text, insert=insert))
    return found


def _callables(at: _Cursor, kind: str) -> list[lsp.CompletionItem]:
    found = [
        _item(c.name, Kind.Function, c.signature, callee_text(c), insert=f"{c.name}($1)")
        for c in (at.analyser.callees(kind) if kind == "reward" else ())
    ]
    for item in at.analysis.occurrences:
        symbol = item.symbol
        if symbol.kind in (kind, "rubric" if kind == "reward" else kind):
            made = _item(
                symbol.name,
                Kind.Function,
                symbol.signature,
                symbol.doc or "",
                insert=f"{symbol.name}($1)",
                sort=f"0{symbol.name}",
            )
            if all(other.label != symbol.name for other in found):
                found.append(made)
    return found


def _settings(at: _Cursor, frame: Frame, callee: Callee) -> list[lsp.CompletionItem]:
    statement = at.place.statement
    if not statement:
        left = [s for s in callee.settings if s.name not in frame.given]
        return [
            _item(
                s.name,
                Kind.Property,
                s.type if s.default is None else f"{s.type} = {s.default}",
                setting_text(s, callee.name),
                insert=f"{s.name} = $0",
                sort=f"{int(s.default is not None)}{s.name}",
            )
            for s in left
        ]
    name = statement[0].text
    chosen = [s for s in callee.settings if s.name == name]
    if name == "algorithm":
        return [*_callables(at, "algorithm"), *_unimported(at)]
    if name == "where":
        return _formula(at)
    return [*_values(chosen), *_names(at, ("parameter",))]


def _values(settings: Iterable[Setting]) -> list[lsp.CompletionItem]:
    return [
        _item(value, Kind.EnumMember, setting.doc, sort=f"0{value}")
        for setting in settings
        for value in setting.values
    ]


def _named(parameters: Iterable[Setting], frame: Frame, callee: Callee) -> list[lsp.CompletionItem]:
    return [
        _item(p.name, Kind.Property, p.type, setting_text(p, callee.name), insert=f"{p.name} = $0")
        for p in parameters
        if p.name not in frame.given
    ]


def _members(at: _Cursor) -> list[lsp.CompletionItem]:
    owner = at.place.statement[-2].text if len(at.place.statement) > 1 else ""
    types = {symbol.name: shown for symbol, shown in at.analysis.types()}
    shown, kind = types.get(owner, ""), at.place.names.get(owner)
    if shown.startswith("Data") or (not shown and kind == "data"):
        return [_item("train", Kind.Field), _item("test", Kind.Field)]
    if shown == "Report" or (not shown and kind == "stage"):
        return [_item(name, Kind.Field) for name in _METRICS]
    return []


def _unimported(at: _Cursor) -> list[lsp.CompletionItem]:
    """Algorithms of the library that the file does not import yet, with the import."""
    used = {item.symbol.name for item in at.analysis.occurrences if item.symbol.kind == "algorithm"}
    found = []
    for name, doc in at.analyser.library().items():
        if name not in used:
            made = _item(
                name, Kind.Function, "std/algorithms", doc, insert=f"{name}($1)", sort=f"1{name}"
            )
            made.additional_text_edits = [_import(at, name)]
            found.append(made)
    return found


def _import(at: _Cursor, name: str) -> lsp.TextEdit:
    for source, last, _ in at.analysis.imports:
        if source == "std/algorithms":
            end = at.convert.position(at.text, last.end)
            return lsp.TextEdit(lsp.Range(end, end), f", {name}")
    first_end = at.text.find("\n") + 1 if at.text.startswith("grape ") else 0
    place = at.convert.position(at.text, first_end)
    return lsp.TextEdit(lsp.Range(place, place), f'\nuse {name} from "std/algorithms"\n')


# --- in strings -------------------------------------------------------------------------------


def _in_string(at: _Cursor, token: Token) -> list[lsp.CompletionItem]:
    typed = token.text.lstrip("r").lstrip('"')
    statement = [item.text for item in at.place.statement]
    frame = at.place.frame
    if frame is None and statement[:1] == ["use"]:
        library = _path_item(at, typed, "std/algorithms", "the library that ships with Grape")
        return [library, *_paths(at, typed, (".grape",))]
    if frame is None:
        return []
    if frame.opener.text == "(" and frame.callee in _DATA_FILES:
        return _paths(at, typed, _DATA_FILES[frame.callee], dot=False)
    if frame.opener.text == "{" and frame.word == "data":
        opened = typed.rfind("{")
        if opened > typed.rfind("}") and not typed[:opened].endswith("{"):
            name = frame.head[1].text if len(frame.head) > 1 else ""
            return [_item(column, Kind.Field, "column") for column in at.analysis.columns(name)]
        return []
    if frame.opener.text == "{" and statement[1:2] == ["="]:
        callee = at.analysis.callee(frame.callee)
        chosen = [s for s in callee.settings if s.name == statement[0]] if callee else []
        return [
            _item(value.strip('"'), Kind.EnumMember)
            for s in chosen
            for value in s.values
            if value.startswith('"')
        ]
    return []


def _paths(
    at: _Cursor, typed: str, endings: Sequence[str], dot: bool = True
) -> list[lsp.CompletionItem]:
    """Files below the folder of the file, as the language writes them."""
    root = at.path.parent
    found = []
    for file in sorted(root.rglob("*")):
        inner = file.relative_to(root)
        hidden = any(part.startswith(".") or part == "node_modules" for part in inner.parts)
        if file.suffix in endings and file != at.path and not hidden:
            found.append(_path_item(at, typed, ("./" if dot else "") + inner.as_posix(), ""))
            if len(found) == _MOST_PATHS:
                break
    return found


def _path_item(at: _Cursor, typed: str, path: str, detail: str) -> lsp.CompletionItem:
    """An item that replaces what is typed of the path: editors take `/` and `.` for word ends."""
    made = _item(path, Kind.File, detail)
    where = at.convert.range(at.text, at.offset - len(typed), at.offset)
    made.text_edit = lsp.TextEdit(where, path)
    made.filter_text = path
    return made
