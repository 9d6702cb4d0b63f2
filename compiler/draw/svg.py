"""A graph as one self-contained SVG: layers from left to right, a repeat as a frame.

Layers are longest paths from the sources; within a layer boxes are ordered by the mean place of
what they come from. Colours follow the reader's light or dark preference.
"""

from __future__ import annotations

from html import escape

from grape.compiler.draw.shape import Arrow, Box, arrows, boxes, title
from grape.compiler.graph import Graph
from grape.compiler.plan import Plan

WIDTH, HEIGHT, GAP_X, GAP_Y, MARGIN = 150, 46, 88, 34, 34

_STYLE = """
  svg { font-family: system-ui, sans-serif; }
  .box { fill: #ffffff; stroke: #6b4ea0; stroke-width: 1.4; }
  .cached .box { stroke-dasharray: 5 3; }
  .source .box { fill: #f3effa; }
  .name { font-size: 13px; font-weight: 600; fill: #241a38; }
  .verb { font-size: 11px; fill: #6a6280; }
  .frame { fill: #6b4ea0; fill-opacity: 0.06; stroke: #6b4ea0; stroke-opacity: 0.5; }
  .edge { fill: none; stroke: #9a8fb5; stroke-width: 1.3; }
  .label { font-size: 10px; fill: #7d7496; }
  @media (prefers-color-scheme: dark) {
    .box { fill: #231d30; stroke: #b79df0; }
    .source .box { fill: #2d2540; }
    .name { fill: #f2eefa; } .verb, .label { fill: #b3aac8; }
    .edge { stroke: #7d7496; }
  }
""".strip()


def draw(graph: Graph, plan: Plan | None) -> str:
    """SVG text. The same graph gives the same bytes."""
    every = [box for box in boxes(graph, plan) if not box.stage.body]
    frames = [box for box in boxes(graph, plan) if box.stage.body]
    lines = _resolved(arrows(graph), every)
    place = _places(every, lines)
    width = max((x for x, _ in place.values()), default=0) + WIDTH + MARGIN
    height = max((y for _, y in place.values()), default=0) + HEIGHT + MARGIN
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" role="img" aria-label="{escape(graph.pipeline)}">',
        f"<style>{_STYLE}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#9a8fb5"/></marker></defs>',
    ]
    parts += [_frame(frame, every, place) for frame in frames]
    parts += [_edge(line, place) for line in lines]
    parts += [_box(box, place[box.id]) for box in every]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _resolved(lines: list[Arrow], every: list[Box]) -> list[Arrow]:
    """Arrows between drawn boxes: what leaves a repeat starts at its last stage."""
    last = {box.region: box.id for box in every if box.region is not None}
    merged: dict[tuple[str, str], Arrow] = {}
    for line in lines:
        source = last.get(line.source, line.source)
        merged.setdefault((source, line.target), Arrow(source, line.target, line.label))
    return list(merged.values())


def _places(every: list[Box], lines: list[Arrow]) -> dict[str, tuple[int, int]]:
    """The upper left corner of each box."""
    layer: dict[str, int] = {}
    for box in every:
        before = [layer[line.source] for line in lines if line.target == box.id]
        layer[box.id] = max(before, default=-1) + 1
    columns: dict[int, list[str]] = {}
    for box in every:
        columns.setdefault(layer[box.id], []).append(box.id)
    rank: dict[str, float] = {}
    for column in sorted(columns):
        names = columns[column]
        names.sort(key=lambda name: _wish(name, lines, rank))
        for number, name in enumerate(names):
            rank[name] = max(float(number), _wish(name, lines, rank)) if number == 0 else number
        taken = -1.0
        for name in names:
            taken = max(taken + 1, round(_wish(name, lines, rank)) if column else rank[name])
            rank[name] = taken
    return {
        name: (
            MARGIN + column * (WIDTH + GAP_X),
            MARGIN + 14 + int(rank[name] * (HEIGHT + GAP_Y)),
        )
        for column, names in columns.items()
        for name in names
    }


def _wish(name: str, lines: list[Arrow], rank: dict[str, float]) -> float:
    """The mean place of what a box comes from."""
    before = [rank[line.source] for line in lines if line.target == name and line.source in rank]
    return sum(before) / len(before) if before else 0.0


def _box(box: Box, place: tuple[int, int]) -> str:
    x, y = place
    kinds = " ".join(["stage", "" if box.stage.inputs else "source", box.state or ""]).split()
    settings = "\n".join(f"{name} = {value}" for name, value in box.stage.settings.items())
    return (
        f'<g class="{" ".join(kinds)}"><title>{escape(settings)}</title>'
        f'<rect class="box" x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="8"/>'
        f'<text class="name" x="{x + 12}" y="{y + 20}">{escape(box.stage.name)}</text>'
        f'<text class="verb" x="{x + 12}" y="{y + 36}">{escape(title(box.stage))}</text></g>'
    )


def _frame(frame: Box, every: list[Box], place: dict[str, tuple[int, int]]) -> str:
    inside = [place[box.id] for box in every if box.region == frame.id]
    left, top = min(x for x, _ in inside) - 16, min(y for _, y in inside) - 28
    right = max(x for x, _ in inside) + WIDTH + 16
    bottom = max(y for _, y in inside) + HEIGHT + 14
    label = escape(f"{title(frame.stage)} · {frame.stage.name}")
    return (
        f'<rect class="frame" x="{left}" y="{top}" width="{right - left}" '
        f'height="{bottom - top}" rx="12"/>'
        f'<text class="verb" x="{left + 12}" y="{top + 17}">{label}</text>'
    )


def _edge(line: Arrow, place: dict[str, tuple[int, int]]) -> str:
    (x1, y1), (x2, y2) = place[line.source], place[line.target]
    x1, y1, y2 = x1 + WIDTH, y1 + HEIGHT // 2, y2 + HEIGHT // 2
    bend = max(30, (x2 - x1) // 2)
    path = f"M{x1} {y1}C{x1 + bend} {y1} {x2 - bend} {y2} {x2} {y2}"
    label = ""
    if x2 - x1 <= GAP_X:
        label = (
            f'<text class="label" text-anchor="middle" x="{(x1 + x2) // 2}" '
            f'y="{(y1 + y2) // 2 - 6}">{escape(line.label)}</text>'
        )
    return f'<path class="edge" d="{path}" marker-end="url(#tip)"/>{label}'
