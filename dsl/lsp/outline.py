"""The shape of a file: symbols in a tree, folding ranges, the colours of tokens, inlay hints."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from lsprotocol import types as lsp

from grape.dsl.lsp.analyser import Analysis, Occurrence
from grape.dsl.lsp.convert import Converter
from grape.dsl.lsp.scan import Frame, Scanned, Token, scan
from grape.dsl.words import words

_KINDS = {
    "pipeline": lsp.SymbolKind.Module,
    "algorithm": lsp.SymbolKind.Function,
    "reward": lsp.SymbolKind.Function,
    "rubric": lsp.SymbolKind.Class,
    "category": lsp.SymbolKind.Namespace,
    "item": lsp.SymbolKind.Field,
    "parameter": lsp.SymbolKind.TypeParameter,
    "model": lsp.SymbolKind.Object,
    "data": lsp.SymbolKind.Array,
    "stage": lsp.SymbolKind.Event,
    "variable": lsp.SymbolKind.Variable,
    "log": lsp.SymbolKind.Property,
}
_LINE = re.compile(r"[^\r\n]+")
_BLOCKS = {"pipeline", "algorithm", "rubric", "category", "repeat"}
TOKEN_TYPES = (
    "keyword",
    "comment",
    "string",
    "number",
    "operator",
    "type",
    "function",
    "parameter",
    "variable",
    "property",
    "namespace",
)
TOKEN_MODIFIERS = ("declaration", "defaultLibrary", "documentation")
_TOKENS = {
    "pipeline": "namespace",
    "algorithm": "function",
    "reward": "function",
    "rubric": "function",
    "category": "namespace",
    "item": "property",
    "parameter": "parameter",
    "log": "property",
}


def document_symbols(analysis: Analysis, convert: Converter) -> list[lsp.DocumentSymbol]:
    """Declarations with what they define inside; a repeat holds its stages."""
    text = analysis.source.text
    types = {symbol.key: shown for symbol, shown in analysis.types()}
    frames = [frame for frame in scan(text).frames if frame.word in _BLOCKS and _is_brace(frame)]
    roots: list[lsp.DocumentSymbol] = []
    open_: list[tuple[int, lsp.DocumentSymbol]] = []
    for found in analysis.occurrences:
        if not found.defines or found.symbol.kind == "parameter":
            continue
        block = _block_of(found, frames)
        line_end = text.find("\n", found.span.end)
        end = block.end if block and block.end else (line_end if line_end >= 0 else len(text))
        start = block.head[0].start if block else found.span.start
        made = lsp.DocumentSymbol(
            name=found.symbol.name,
            kind=_KINDS[found.symbol.kind],
            detail=types.get(found.symbol.key, found.symbol.kind),
            range=convert.range(text, start, end),
            selection_range=convert.range(text, found.span.start, found.span.end),
            children=[],
        )
        while open_ and open_[-1][0] <= found.span.start:
            open_.pop()
        siblings = open_[-1][1].children if open_ else roots
        assert isinstance(siblings, list)
        siblings.append(made)
        if block is not None:
            open_.append((end, made))
    return roots


def _is_brace(frame: Frame) -> bool:
    return frame.opener.text == "{"


def _block_of(found: Occurrence, frames: Sequence[Frame]) -> Frame | None:
    for frame in frames:
        if any(token.start == found.span.start for token in frame.head):
            return frame
    return None


def folding_ranges(text: str, convert: Converter) -> list[lsp.FoldingRange]:
    """Brackets over several lines, and runs of comments."""
    found = []
    scanned = scan(text)
    for frame in scanned.frames:
        first = convert.position(text, frame.opener.start).line
        last = convert.position(text, frame.end if frame.end is not None else len(text)).line
        if last - first > 1:
            found.append(lsp.FoldingRange(first, last - 1))
    lines = [
        convert.position(text, token.start).line
        for token in scanned.tokens
        if token.kind == "comment" and not text[: token.start].rpartition("\n")[2].strip()
    ]
    for first, last in _runs(lines):
        if last > first:
            found.append(lsp.FoldingRange(first, last, kind=lsp.FoldingRangeKind.Comment))
    return found


def _runs(lines: Sequence[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for line in lines:
        if runs and line == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], line)
        else:
            runs.append((line, line))
    return runs


def inlay_hints(
    analysis: Analysis, convert: Converter, start: int, end: int
) -> list[lsp.InlayHint]:
    """What each model, data and stage is, behind its name."""
    text = analysis.source.text
    return [
        lsp.InlayHint(
            position=convert.position(text, symbol.span.end),
            label=f": {shown}",
            kind=lsp.InlayHintKind.Type,
        )
        for symbol, shown in analysis.types()
        if start <= symbol.span.start <= end
    ]


def semantic_tokens(analysis: Analysis, convert: Converter) -> lsp.SemanticTokens:
    """Every token with what it is, names by what they mean."""
    text = analysis.source.text
    scanned = scan(text)
    names = {item.span.start: item for item in analysis.occurrences}
    data: list[int] = []
    line, column = 0, 0
    for token, kind, modifiers in _classified(scanned, names):
        for piece_start, piece in _lines(token):
            place = convert.position(text, piece_start)
            step = place.line - line
            data += [
                step,
                place.character - (column if step == 0 else 0),
                convert.units(piece),
                TOKEN_TYPES.index(kind),
                modifiers,
            ]
            line, column = place.line, place.character
    return lsp.SemanticTokens(data)


def _lines(token: Token) -> list[tuple[int, str]]:
    """The pieces of a token that lie on one line each."""
    return [(token.start + piece.start(), piece[0]) for piece in _LINE.finditer(token.text)]


def _classified(scanned: Scanned, names: Mapping[int, Occurrence]) -> list[tuple[Token, str, int]]:
    tokens = [token for token in scanned.tokens if token.kind != "newline"]
    found = []
    for number, token in enumerate(tokens):
        after = tokens[number + 1].text if number + 1 < len(tokens) else ""
        before = tokens[number - 1].text if number else ""
        kind, modifiers = _kind(token, before, after, names.get(token.start))
        if kind:
            found.append((token, kind, modifiers))
    return found


def _kind(token: Token, before: str, after: str, name: Occurrence | None) -> tuple[str, int]:
    if name is not None:
        return _TOKENS.get(name.symbol.kind, "variable"), int(name.defines)
    match token.kind:
        case "comment":
            return "comment", 4 if token.text.startswith("##") else 0
        case "string" | "number":
            return token.kind, 0
        case "op" if token.text not in (".", ":"):
            return "operator", 0
        case "word":
            return _word(token.text, before, after)
    return "", 0


def _word(word: str, before: str, after: str) -> tuple[str, int]:
    if before == ".":
        return "property", 0
    if word[0].isupper():
        return "type", 2
    if after == "=":
        return "property", 0
    if before == ":" or before == "per":
        return "type", 2
    if word in words().keywords:
        return "keyword", 0
    return ("function", 2) if after == "(" else ("variable", 0)
