"""A graph as one self-contained SVG, from left to right; a repeat is a frame around its stages.

The body of a repeat is laid out first and takes part in the whole as one wide box. Colours follow
the reader's light or dark preference, and every state is a word as well as a colour. Class names
are prefixed, so that the drawing can stand inside a page.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape, unescape

from grape.compiler.draw.layout import Item, Layout, Way, arrange
from grape.compiler.draw.shape import Arrow, arrows, boxes, states, title
from grape.compiler.graph import Graph, Stage
from grape.compiler.plan import Plan

HEIGHT, GAP_X, GAP_Y, MARGIN = 50.0, 112.0, 24.0, 24.0
INNER_X, PAD, HEADER, LOOP = 118.0, 26.0, 30.0, 30.0
WORDS = {"cached": "in store", "run": "to run", "resume": "to resume", "skipped": "skipped"}
OUTCOMES = {
    "cached": "from store",
    "completed": "ran",
    "failed": "failed",
    "cancelled": "stopped",
    "waiting": "not reached",
}
"""What a stage came to in a run, and the word for it."""

LIGHT = """--paper: #ffffff;
  --box: #ffffff; --source: #f4f0fb; --line: #6b4ea0; --ink: #241a38; --soft: #6a6280;
  --edge: #9a8fb5; --frame: #f8f6fd; --rim: #c9bce6; --cached: #3f8f5b; --run: #b4690e;
  --resume: #2a6fb8; --failed: #c0392b;"""
DARK = """--paper: #17131f; --box: #231d30; --source: #2d2540; --line: #b79df0; --ink: #f2eefa;
    --soft: #b3aac8; --edge: #7d7496; --frame: #1d1828; --rim: #493d66; --cached: #6cc48b;
    --run: #e5a24a; --resume: #74b0ee;
    --failed: #f07f73;"""

_STYLE = (
    """
.gg { font-family: system-ui, -apple-system, "Segoe UI", sans-serif; LIGHT }
.gg .paper { fill: var(--paper); }
.gg .box { fill: var(--box); stroke: var(--line); stroke-width: 1.4; }
.gg .source .box { fill: var(--source); }
.gg .cached .box, .gg .completed .box { stroke: var(--cached); }
.gg .failed .box, .gg .cancelled .box { stroke: var(--failed); }
.gg .waiting .box { stroke: var(--rim); }
.gg .run .box { stroke: var(--run); }
.gg .resume .box { stroke: var(--resume); }
.gg .skipped { opacity: 0.45; }
.gg .skipped .box { stroke-dasharray: 4 3; }
.gg .name { font-size: 14px; font-weight: 600; fill: var(--ink); }
.gg .verb { font-size: 12px; fill: var(--soft); }
.gg .state { font-size: 11px; font-weight: 600; text-anchor: end; }
.gg .cached > .state, .gg .completed > .state { fill: var(--cached); }
.gg .failed > .state, .gg .cancelled > .state { fill: var(--failed); }
.gg .waiting > .state { fill: var(--soft); }
.gg .run > .state { fill: var(--run); }
.gg .resume > .state { fill: var(--resume); }
.gg .frame { fill: var(--frame); stroke: var(--rim); stroke-width: 1.2; }
.gg .head { font-size: 13px; font-weight: 600; fill: var(--line); }
.gg .edge { fill: none; stroke: var(--edge); stroke-width: 1.5; }
.gg .loop { stroke-dasharray: 5 4; }
.gg .tip { fill: var(--edge); }
.gg .label { font-size: 11px; fill: var(--soft); stroke: var(--paper); stroke-width: 4px;
  stroke-linejoin: round; paint-order: stroke; text-anchor: end; }
.gg .inside .label { stroke: var(--frame); }
@media (prefers-color-scheme: dark) {
  .gg { DARK }
}
""".strip()
    .replace("LIGHT", LIGHT)
    .replace("DARK", DARK)
)


@dataclass(frozen=True, slots=True)
class Body:
    """The inside of a repeat, laid out: the part of the frame that its boxes take."""

    stage: Stage
    layout: Layout
    lines: list[Arrow]
    entries: tuple[str, ...]

    @property
    def size(self) -> tuple[float, float]:
        return self.layout.width + 2 * PAD, self.layout.height + HEADER + LOOP + PAD / 2

    def port(self, name: str) -> float:
        """The height of an inner item, from the middle of the frame."""
        return HEADER + self.layout.places[name][1] - self.size[1] / 2


def draw(graph: Graph, plan: Plan | None) -> str:
    """SVG text. The same graph and plan give the same bytes."""
    bodies = {stage.name: _body(stage, graph) for stage in graph.stages if stage.body}
    items = [_item(stage, bodies.get(stage.name), plan) for stage in graph.stages]
    faint = {box.id: box.stage for box in boxes(graph, None) if box.state == "skipped"}
    items += [Item(name, _width(stage, True), HEIGHT) for name, stage in faint.items()]
    lines = _outer(graph, bodies)
    layout = arrange(items, [(line.source, line.target) for line in lines], GAP_X, GAP_Y)
    width, height = layout.width + 2 * MARGIN, layout.height + 2 * MARGIN
    known = states(plan)
    parts = [
        f'<svg class="gg" xmlns="http://www.w3.org/2000/svg" width="{_n(width)}" '
        f'height="{_n(height)}" viewBox="0 0 {_n(width)} {_n(height)}" role="img" '
        f'aria-label="{escape(f"The stages of {graph.pipeline}")}">',
        f"<style>\n{_STYLE}\n</style>",
        '<defs><marker id="gg-tip" viewBox="0 0 8 8" refX="7.5" refY="4" markerWidth="6.5" '
        'markerHeight="6.5" orient="auto"><path class="tip" d="M0 0.5L8 4L0 7.5z"/>'
        "</marker></defs>",
        '<rect class="paper" width="100%" height="100%" rx="10"/>',
        f'<g transform="translate({_n(MARGIN)} {_n(MARGIN)})">',
    ]
    for body in bodies.values():
        parts += _frame(body, layout.places[body.stage.name], known.get(body.stage.name))
    for line, way in zip(lines, layout.ways, strict=True):
        parts.append(_edge(way, line))
    for stage in graph.stages:
        if not stage.body:
            state = known.get(stage.name)
            parts.append(_box(stage.name, stage, layout.places[stage.name], state))
    parts += [_box(name, stage, layout.places[name], "skipped") for name, stage in faint.items()]
    return "\n".join([*parts, "</g>", "</svg>"]) + "\n"


_GROUP = re.compile(r'<g class="(node source|node|region) (\w+)" data-stage="([^"]*)">')
_WORD = re.compile(r'(<text class="state"[^>]*>)[^<]*')


def after(svg: str, outcomes: Mapping[str, str]) -> str:
    """A drawing of a plan as it was before a run, with what became of its stages: outcomes by
    stage name, `waiting` for one that has none. Stages of a branch not taken stay as they are."""
    groups = list(_GROUP.finditer(svg))
    starts = [*(group.start() for group in groups), len(svg)]
    pieces = [svg[: starts[0]]]
    for group, end in zip(groups, starts[1:], strict=True):
        kind, state, name = group[1], group[2], unescape(group[3])
        rest = svg[group.end() : end]
        if state != "skipped":
            around = [known for known in outcomes if name.startswith(f"{known}.")]
            state = outcomes.get(name) or outcomes.get(max(around, key=len, default=""), "waiting")
            rest = _WORD.sub(rf"\g<1>{OUTCOMES.get(state, state)}", rest, count=1)
        pieces.append(f'<g class="{kind} {state}" data-stage="{group[3]}">{rest}')
    return "".join(pieces)


# --- what is laid out -------------------------------------------------------------------------


def _width(stage: Stage, stated: bool = False) -> float:
    """Wide enough for the words in a box, by a mean width of letters."""
    state = 74.0 if stated else 0.0
    return max(124.0, 8.2 * len(stage.name) + 26, 6.9 * len(title(stage)) + 26 + state)


def _item(stage: Stage, body: Body | None, plan: Plan | None) -> Item:
    if body is None:
        return Item(stage.name, _width(stage, plan is not None), HEIGHT)
    width, height = body.size
    inputs = {name: body.port(f"in {name}") for name in body.entries}
    assert stage.next is not None
    return Item(stage.name, width, height, inputs, body.port(stage.next))


def _body(region: Stage, graph: Graph) -> Body:
    """The stages of a repeat, with a point on the left for each thing that comes in. The carried
    model comes in where the model does that the repeat starts with."""
    start = next(edge.source for edge in region.inputs if edge.port == "start")
    inside = f"{region.name}."
    lines = [
        Arrow(
            line.source.removeprefix(inside)
            if line.source.startswith(inside)
            else f"in {line.source}",
            line.target.removeprefix(inside),
            line.label,
        )
        for line in arrows(graph)
        if line.target.startswith(inside)
    ]
    outside = [line.source.removeprefix("in ") for line in lines if line.source.startswith("in ")]
    entries = tuple(dict.fromkeys([start, *outside]))
    items = [Item(f"in {name}", 0, 0, output=0, pinned=True) for name in entries]
    items += [Item(inner.name, _width(inner), HEIGHT) for inner in region.body]
    found: dict[tuple[str, str], Arrow] = {}
    for line in lines:
        _add(found, line)
    return Body(region, arrange(items, list(found), INNER_X, GAP_Y), [*found.values()], entries)


def _outer(graph: Graph, bodies: dict[str, Body]) -> list[Arrow]:
    """Arrows between stages; what goes into a repeat ends at its frame."""
    found: dict[tuple[str, str], Arrow] = {}
    inside = {f"{name}.{inner.name}": name for name, b in bodies.items() for inner in b.stage.body}
    for line in arrows(graph):
        if line.source in inside:
            continue
        target = inside.get(line.target, line.target)
        _add(found, Arrow(line.source, target, "" if target in bodies else line.label))
    for body in bodies.values():
        _add(found, Arrow(body.entries[0], body.stage.name, ""))
    order = {box.id: place for place, box in enumerate(boxes(graph, None))}
    return sorted(found.values(), key=lambda line: (order[line.target], order[line.source]))


def _add(found: dict[tuple[str, str], Arrow], line: Arrow) -> None:
    """One arrow for two boxes; it says everything that goes along it."""
    before = found.get((line.source, line.target))
    labels = [before.label] if before else []
    label = ", ".join(dict.fromkeys([*labels, line.label]))
    found[(line.source, line.target)] = Arrow(line.source, line.target, label)


# --- drawing ----------------------------------------------------------------------------------


def _n(value: float) -> str:
    """A coordinate: one decimal, none when it is whole."""
    return f"{value:.1f}".removesuffix(".0")


def _box(
    id: str, stage: Stage, place: tuple[float, float], state: str | None, *, inside: bool = False
) -> str:
    x, middle = place
    y = middle - HEIGHT / 2
    width = _width(stage, state is not None and not inside)
    kinds = [kind for kind in ("node", "" if stage.inputs else "source", state or "") if kind]
    word = ""
    if state is not None and not inside:
        at = _n(x + width - 11)
        word = f'<text class="state" x="{at}" y="{_n(y + 38)}">{WORDS[state]}</text>'
    return (
        f'<g class="{" ".join(kinds)}" data-stage="{escape(id)}">'
        f"<title>{escape(_settings(stage))}</title>"
        f'<rect class="box" x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(HEIGHT)}" '
        f'rx="9"/><text class="name" x="{_n(x + 13)}" y="{_n(y + 21)}">{escape(stage.name)}</text>'
        f'<text class="verb" x="{_n(x + 13)}" y="{_n(y + 38)}">{escape(title(stage))}</text>'
        f"{word}</g>"
    )


def _settings(stage: Stage) -> str:
    """What hovering shows: documentation, type and settings."""
    head = [stage.doc] if stage.doc else []
    rows = [f"{name} = {value}" for name, value in stage.settings.items()]
    return "\n".join([*head, f"{stage.name}: {stage.type}", *rows])


def _frame(body: Body, place: tuple[float, float], state: str | None) -> list[str]:
    """The frame with its header, its stages, and the way of the model to the next round."""
    stage, (x, middle) = body.stage, place
    width, height = body.size
    y = middle - height / 2
    kinds = f"region {state}" if state else "region"
    label = escape(f"{title(stage)} · {stage.name}")
    parts = [
        f'<g class="{kinds}" data-stage="{escape(stage.name)}">'
        f"<title>{escape(_settings(stage))}</title>"
        f'<rect class="frame" x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" '
        f'height="{_n(height)}" rx="14"/>'
        f'<text class="head" x="{_n(x + 16)}" y="{_n(y + 21)}">{label}</text>'
    ]
    if state:
        right = _n(x + width - 16)
        parts.append(f'<text class="state" x="{right}" y="{_n(y + 21)}">{WORDS[state]}</text>')
    parts.append("</g>")
    parts.append(f'<g class="inside" transform="translate({_n(x + PAD)} {_n(y + HEADER)})">')
    first = len(parts)
    for name in body.entries:
        height = body.layout.places[f"in {name}"][1]
        parts.append(f'<path class="edge" d="M{_n(-PAD)} {_n(height)}H0"/>')
    for line, way in zip(body.lines, body.layout.ways, strict=True):
        parts.append(_edge(way, _outside(line, body)))
    places = body.layout.places
    parts += [
        _box(f"{stage.name}.{inner.name}", inner, places[inner.name], state, inside=True)
        for inner in stage.body
    ]
    last = next(inner for inner in stage.body if inner.name == stage.next)
    left, at = body.layout.places[last.name]
    end = _n(body.layout.width + PAD)
    parts.insert(first, f'<path class="edge" d="M{_n(left + _width(last))} {_n(at)}H{end}"/>')
    return [*parts, _loop(body, last), "</g>"]


def _loop(body: Body, stage: Stage) -> str:
    """From the stage that makes the next model down and back to where the model came in."""
    x, y = body.layout.places[stage.name]
    right = x + _width(stage) / 2
    bottom = body.layout.height + LOOP / 2 + 2
    back = body.layout.places[f"in {body.entries[0]}"][1]
    return (
        f'<path class="edge loop" marker-end="url(#gg-tip)" d="M{_n(right)} {_n(y + HEIGHT / 2)}'
        f'V{_n(bottom - 10)}q0 10 -10 10H{_n(4)}q-10 0 -10 -10V{_n(back + 4)}">'
        f"<title>the model of the next round</title></path>"
    )


def _outside(line: Arrow, body: Body) -> Arrow:
    """An arrow inside a repeat with the names that its ends have in the whole drawing."""
    inside = body.stage.name
    source = line.source.removeprefix("in ") if line.source.startswith("in ") else ""
    return Arrow(source or f"{inside}.{line.source}", f"{inside}.{line.target}", line.label)


def _edge(way: Way, line: Arrow) -> str:
    x, y = way.start
    path = [f"M{_n(x)} {_n(y)}"]
    stops: Sequence[tuple[float, float, float]] = (*way.lanes, (way.end[0] - 8, *way.end))
    for left, right, height in stops:
        bend = (left - x) * 0.45
        path.append(
            f"C{_n(x + bend)} {_n(y)} {_n(left - bend)} {_n(height)} {_n(left)} {_n(height)}"
        )
        if right > left:
            path.append(f"H{_n(right)}")
        x, y = right, height
    text = ""
    if line.label:
        at, height = way.end
        shown = escape(line.label)
        text = f'<text class="label" x="{_n(at - 10)}" y="{_n(height - 4)}">{shown}</text>'
    ends = f'data-from="{escape(line.source)}" data-to="{escape(line.target)}"'
    return f'<path class="edge" {ends} d="{"".join(path)}" marker-end="url(#gg-tip)"/>{text}'
