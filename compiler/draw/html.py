"""A graph as one self-contained HTML page: the SVG drawing to pan and zoom, and a panel with all
that is known about the chosen stage. It loads nothing, and its policy forbids it to.
"""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Any

from grape.compiler.draw import svg
from grape.compiler.draw.shape import Box, boxes, title
from grape.compiler.graph import Graph, Stage
from grape.compiler.plan import Plan, PlannedStage
from grape.compiler.verb import Unit
from grape.compiler.verbs import VERBS, verb

_PAGE = Path(__file__).with_name("page.html")


def draw(graph: Graph, plan: Plan | None) -> str:
    """HTML text. The same graph and plan give the same bytes."""
    known = {stage.name: stage for stage in plan.stages} if plan else {}
    types = {box.id: str(box.stage.type) for box in boxes(graph, plan)}
    data = {
        "pipeline": graph.pipeline,
        "params": [
            [name, _shown(value), graph.layers.get(name, "")]
            for name, value in graph.params.items()
        ],
        "checks": [check.text for check in graph.checks],
        "outputs": [[output.source, output.path] for output in graph.outputs],
        "stages": [_stage(box, known, types) for box in boxes(graph, plan)],
        "words": svg.WORDS,
        "planned": plan is not None,
    }
    page = _PAGE.read_text(encoding="utf-8")
    blob = json.dumps(data, ensure_ascii=False, indent=1)
    for letter, code in (("<", "\\u003c"), (">", "\\u003e"), ("&", "\\u0026")):
        blob = blob.replace(letter, code)
    filled = {
        "TITLE": escape(graph.pipeline),
        "LIGHT": svg.LIGHT,
        "DARK": svg.DARK,
        "SVG": svg.draw(graph, plan),
        "DATA": blob,
    }
    before, *pieces = page.split("@@")
    parts = [before]
    for name, text in zip(pieces[::2], pieces[1::2], strict=True):
        parts += [filled[name], text]
    return "".join(parts)


def _stage(box: Box, known: dict[str, PlannedStage], types: dict[str, str]) -> dict[str, Any]:
    stage = box.stage
    planned = _planned(box, known)
    region = f"{box.region}." if box.region else ""
    inputs = []
    for edge in stage.inputs:
        inner = f"{region}{edge.source}"
        source = inner if inner in types else edge.source
        inputs.append([edge.port, source, edge.view or "", types.get(source, "")])
    return {
        "id": box.id,
        "name": stage.name,
        "title": title(stage),
        "type": _type(stage),
        "doc": stage.doc or "",
        "region": box.region,
        "inputs": inputs,
        "settings": [
            [name, _with_unit(stage, name, value), name in stage.given]
            for name, value in stage.settings.items()
        ],
        "algorithm": [[name, _shown(value)] for name, value in stage.formula.params]
        if stage.formula
        else [],
        "needs": sorted(stage.formula.needs) if stage.formula else [],
        "file": stage.span.source.path,
        "line": stage.span.line,
        "source": _lines(stage),
        "state": box.state or "",
        "reason": planned.reason if planned else "",
        "key": planned.key if planned else "",
        "estimate": [[name, _shown(value)] for name, value in planned.estimate.items()]
        if planned
        else [],
    }


def _planned(box: Box, known: dict[str, PlannedStage]) -> PlannedStage | None:
    if box.region is None:
        return known.get(box.id)
    region = known.get(box.region)
    inner = region.body if region else ()
    return next((stage for stage in inner if stage.name == box.stage.name), None)


def _type(stage: Stage) -> str:
    parts = sorted(stage.type.columns) if stage.type.name == "Data" else []
    text = str(stage.type) + (f" ({', '.join(parts)})" if parts else "")
    return text + (", split into .train and .test" if stage.type.split else "")


def _lines(stage: Stage) -> list[str]:
    """The lines of the file that say the stage, without their common indentation."""
    source, first = stage.span.source, stage.span.line
    last = stage.span.end_position[0]
    lines = [source.line_text(number) for number in range(first, last + 1)]
    indent = min((len(x) - len(x.lstrip()) for x in lines if x.strip()), default=0)
    return [line[indent:] for line in lines]


def _with_unit(stage: Stage, name: str, value: Any) -> str:
    """A setting as the file would say it: durations with their unit."""
    fields = verb(stage.verb).settings.model_fields if stage.verb in VERBS else {}
    metadata = fields[name].metadata if name in fields else []
    if Unit("duration") in metadata and isinstance(value, int | float):
        return f"{value / 60:g}min" if value >= 60 else f"{value:g}s"
    return _shown(value)


def _shown(value: Any) -> str:
    """A setting as a person reads it; a nested one as `lora(rank = 8)`."""
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case int():
            return f"{value:,}".replace(",", "\u2009") if abs(value) >= 10000 else str(value)
        case float():
            return f"{value:g}"
        case str():
            return value
        case list() | tuple():
            return f"[{', '.join(_shown(item) for item in value)}]"
        case dict():
            kind = str(value.get("kind", ""))
            inner = [f"{name} = {_shown(item)}" for name, item in value.items() if name != "kind"]
            return f"{kind}({', '.join(inner)})"
    return str(value)
