"""What there is to say about the word at a place (hover) and about the call around it (signature
help). Meaning comes from the analyser; here only the place decides what is asked.
"""

from __future__ import annotations

import re

from lsprotocol import types as lsp

from grape.dsl.lsp.analyser import Analyser, Analysis, Callee, Setting
from grape.dsl.lsp.convert import Converter
from grape.dsl.lsp.names import occurrence_at
from grape.dsl.lsp.scan import Frame, Place, Token, place_at, scan

_NODES = ("model", "data", "stage", "next")


def hover(
    analyser: Analyser, analysis: Analysis, convert: Converter, offset: int
) -> lsp.Hover | None:
    """Markdown about a name, a setting, a verb, a function, a number with a unit."""
    text = analysis.source.text
    found = occurrence_at(analysis, offset)
    if found is not None:
        said: str | None = analysis.hover(found.symbol)
        return _hover(said, convert.range(text, found.span.start, found.span.end))
    token = _token_at(text, offset)
    if token is None:
        return None
    said = _word(analyser, analysis, text, token) if token.kind == "word" else _number(token.text)
    return _hover(said, convert.range(text, token.start, token.end))


def _hover(said: str | None, where: lsp.Range) -> lsp.Hover | None:
    if said is None:
        return None
    return lsp.Hover(lsp.MarkupContent(lsp.MarkupKind.Markdown, said), where)


def _token_at(text: str, offset: int) -> Token | None:
    for token in scan(text).tokens:
        if token.start <= offset <= token.end and token.kind in ("word", "number"):
            return token
    return None


def _word(analyser: Analyser, analysis: Analysis, text: str, token: Token) -> str | None:
    place = place_at(text, token.start)
    after = text[token.end :].lstrip(" \t")
    named = after.startswith("=") and not after.startswith("==")
    callee = callee_around(analysis, place)
    if callee is not None and named:
        for setting in (*callee.settings, *callee.parameters):
            if setting.name == token.text:
                return setting_text(setting, callee.name)
    if after.startswith("(") and not _in_formula(place):
        called = analysis.callee(token.text)
        if called is not None:
            return callee_text(called)
    if token.text in analyser.levels() and text[: token.start].rstrip().endswith("per"):
        meaning = analyser.meaning(token.text)
        return f"`per {token.text}`" + (f" · {meaning}" if meaning else "")
    return analyser.meaning(token.text) if _in_formula(place) else None


def _in_formula(place: Place) -> bool:
    """Inside an algorithm or the `where` of a `keep`."""
    for frame in place.frames:
        if frame.opener.text == "{" and frame.word == "algorithm":
            return True
        if frame.opener.text == "{" and frame.callee == "keep":
            return True
    return False


def callee_around(analysis: Analysis, place: Place) -> Callee | None:
    """What is called around a place: the call of the parenthesis, or the verb of the braces."""
    frame = place.frame
    if frame is None or frame.opener.text == "[":
        return None
    if frame.opener.text == "{" and frame.word not in _NODES:
        return None
    return analysis.callee(frame.callee) if frame.callee else None


def setting_text(setting: Setting, owner: str) -> str:
    """A setting or parameter as Markdown."""
    default = "must be given" if setting.default is None else f"default `{setting.default}`"
    head = f"`{setting.name}` of `{owner}` · {setting.type} · {default}"
    return f"{head}\n\n{setting.doc}" if setting.doc else head


def callee_text(callee: Callee) -> str:
    """A verb, source, reward or algorithm as Markdown, with what goes in and what comes out."""
    parts = [f"```grape\n{callee.signature}\n```"]
    if callee.makes:
        parts[0] += f"\nmakes **{callee.makes}**"
    if callee.doc:
        parts.append(callee.doc)
    if callee.kind in _NODES and callee.parameters:
        rows = [f"- `{p.name}`: {p.type}" + _optional(p) for p in callee.parameters]
        parts.append("In its parentheses:\n" + "\n".join(rows))
    return "\n\n".join(parts)


def _optional(setting: Setting) -> str:
    return "" if setting.default is None else f" (optional, {setting.default})"


def _number(text: str) -> str | None:
    """What a number with a unit comes to."""
    from grape.dsl.build import UNITS

    unit = re.sub(r"^[0-9_.]*([eE][+-]?[0-9]+)?", "", text)
    digits = text.removesuffix(unit)
    if unit not in UNITS or not unit:
        return None
    kind, scale = UNITS[unit]
    value = float(digits.replace("_", "")) * scale
    match kind:
        case "duration":
            return f"`{text}` · a duration of {value:g} seconds"
        case "size":
            return f"`{text}` · a size of {value:,.0f} bytes"
        case "fraction":
            return f"`{text}` · the fraction {value:g}"
    return f"`{text}` · {value:,.0f}"


def signature_help(analysis: Analysis, text: str, offset: int) -> lsp.SignatureHelp | None:
    """The call around a place with the parameter that is being typed."""
    place = place_at(text, offset)
    frame = place.frame
    if frame is None or frame.opener.text != "(" or place.inside:
        return None
    callee = analysis.callee(frame.callee)
    if callee is None or (
        frame.head
        and frame.head[0].text in ("reward", "algorithm", "pipeline")
        and len(frame.head) == 2
    ):
        return None
    labels = [_label(setting) for setting in callee.parameters]
    return lsp.SignatureHelp(
        signatures=[
            lsp.SignatureInformation(
                label=f"{callee.name}({', '.join(labels)})",
                documentation=lsp.MarkupContent(lsp.MarkupKind.Markdown, callee.doc),
                parameters=[
                    lsp.ParameterInformation(label, setting.doc or None)
                    for label, setting in zip(labels, callee.parameters, strict=True)
                ],
            )
        ],
        active_signature=0,
        active_parameter=_active(callee, frame, place),
    )


def _label(setting: Setting) -> str:
    kind = f"{setting.name}: {setting.type}"
    return kind if setting.default is None else f"{kind} = {setting.default}"


def _active(callee: Callee, frame: Frame, place: Place) -> int:
    names = [setting.name for setting in callee.parameters]
    if len(place.statement) > 1 and place.statement[1].text == "=":
        name = place.statement[0].text
        if name in names:
            return names.index(name)
    return min(frame.commas, max(0, len(names) - 1))
