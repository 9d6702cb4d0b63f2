"""Places for boxes in columns: a layered layout, the same for the same input.

Boxes with sizes and edges come in, places and the ways of the edges go out. Columns are longest
paths; an edge over several columns gets a free lane in each; the order within a column is the
barycentre heuristic (Sugiyama et al., 1981); heights come from isotonic regression, which moves
boxes as near to their neighbours as the order allows. It knows nothing about drawing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

SWEEPS = 12
LANE = 10.0


@dataclass(frozen=True, slots=True)
class Item:
    """A box. `inputs` gives heights of ports, from its middle, by the name of what comes in, and
    `output` the one height of all that goes out; other ports are spread over the side. A `pinned`
    item stays in the first column."""

    id: str
    width: float
    height: float
    inputs: Mapping[str, float] = field(default_factory=dict)
    output: float | None = None
    pinned: bool = False


@dataclass(frozen=True, slots=True)
class Way:
    """An edge: where it leaves, the lanes it runs through (left, right, height), where it ends."""

    start: tuple[float, float]
    lanes: tuple[tuple[float, float, float], ...]
    end: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Layout:
    """`places` are left edge and middle height; the whole spans 0 to `width`, 0 to `height`."""

    places: dict[str, tuple[float, float]]
    ways: list[Way]
    width: float
    height: float


def arrange(
    items: Sequence[Item], edges: Sequence[tuple[str, str]], gap_x: float, gap_y: float
) -> Layout:
    """Lay out a directed graph without cycles; `items` stand in an order of which inputs come
    first."""
    known = {item.id: item for item in items}
    layers = _layers(items, edges)
    chains = [_chain(number, edge, layers) for number, edge in enumerate(edges)]
    for chain in chains:
        first = layers[chain[0]]
        for place, name in enumerate(chain[1:-1], 1):
            known[name] = Item(name, 0, LANE)
            layers[name] = first + place
    links = [pair for chain in chains for pair in pairwise(chain)]
    columns = _ordered(known, layers, links)
    spread = _ports(known, links, columns)
    heights = _heights(known, columns, links, spread, gap_y)
    lefts, widths = _lefts(known, columns, gap_x)
    top = min((heights[n] - known[n].height / 2 for n in known), default=0.0)
    bottom = max((heights[n] + known[n].height / 2 for n in known), default=0.0)
    y = {name: height - top for name, height in heights.items()}
    column = {name: number for number, names in enumerate(columns) for name in names}
    ways = []
    for chain in chains:
        source, target = chain[0], chain[-1]
        out, into = spread[source, chain[1]][0], spread[chain[-2], target][1]
        ways.append(
            Way(
                (lefts[column[source]] + known[source].width, y[source] + out),
                tuple(
                    (lefts[column[n]], lefts[column[n]] + widths[column[n]], y[n])
                    for n in chain[1:-1]
                ),
                (lefts[column[target]], y[target] + into),
            )
        )
    places = {item.id: (lefts[column[item.id]], y[item.id]) for item in items}
    total = lefts[-1] + widths[-1] if lefts else 0.0
    return Layout(places, ways, total, bottom - top)


def _layers(items: Sequence[Item], edges: Sequence[tuple[str, str]]) -> dict[str, int]:
    """Longest path from the sources; a source itself stands just before what first uses it."""
    found: dict[str, int] = {}
    for item in items:
        before = [found[source] for source, target in edges if target == item.id]
        found[item.id] = max(before, default=-1) + 1
    for item in items:
        after = [found[target] for source, target in edges if source == item.id]
        if not item.pinned and after and all(target != item.id for _, target in edges):
            found[item.id] = min(after) - 1
    return found


def _chain(number: int, edge: tuple[str, str], layers: Mapping[str, int]) -> list[str]:
    """The ends of an edge with the names of the lanes between them."""
    source, target = edge
    lanes = range(layers[source] + 1, layers[target])
    return [source, *(f"{source}→{target}#{number}@{layer}" for layer in lanes), target]


def _ordered(
    known: Mapping[str, Item], layers: Mapping[str, int], links: Sequence[tuple[str, str]]
) -> list[list[str]]:
    """Columns in the order with the fewest crossings that the sweeps come by."""
    columns: list[list[str]] = [[] for _ in range(max(layers.values(), default=-1) + 1)]
    for name in known:
        columns[layers[name]].append(name)
    best, fewest = [list(names) for names in columns], _crossings(columns, links, known)
    for sweep in range(SWEEPS):
        forward = sweep % 2 == 0
        for names in columns if forward else reversed(columns):
            rank = _ranks(columns)
            wish = {name: _wish(name, links, known, rank, forward) for name in names}
            names.sort(key=wish.__getitem__)
        crossings = _crossings(columns, links, known)
        if crossings < fewest:
            best, fewest = [list(names) for names in columns], crossings
    return best


def _ranks(columns: Sequence[Sequence[str]]) -> dict[str, float]:
    return {name: float(place) for names in columns for place, name in enumerate(names)}


def _end(name: str, other: str, known: Mapping[str, Item], rank: Mapping[str, float]) -> float:
    """The rank of an end of a link, its port taken into account."""
    item = known[name]
    offset = item.inputs.get(_far(other), 0.0)
    return rank[name] + (0.8 * offset / item.height if item.height else 0.0)


def _far(name: str) -> str:
    """The box that a link or lane comes from."""
    return name.split("→")[0]


def _wish(
    name: str,
    links: Sequence[tuple[str, str]],
    known: Mapping[str, Item],
    rank: Mapping[str, float],
    forward: bool,
) -> float:
    if forward:
        near = [_end(a, name, known, rank) for a, b in links if b == name]
    else:
        near = [_end(b, name, known, rank) for a, b in links if a == name]
    return sum(near) / len(near) if near else rank[name]


def _crossings(
    columns: Sequence[Sequence[str]], links: Sequence[tuple[str, str]], known: Mapping[str, Item]
) -> int:
    rank = _ranks(columns)
    column = {name: number for number, names in enumerate(columns) for name in names}
    lines = [(column[a], _end(a, b, known, rank), _end(b, a, known, rank)) for a, b in links]
    return sum(
        one[0] == two[0] and (one[1] - two[1]) * (one[2] - two[2]) < 0
        for place, one in enumerate(lines)
        for two in lines[:place]
    )


def _ports(
    known: Mapping[str, Item], links: Sequence[tuple[str, str]], columns: Sequence[Sequence[str]]
) -> dict[tuple[str, str], tuple[float, float]]:
    """By link: the height, from the middle, at which it leaves its source and enters its target."""
    rank = _ranks(columns)
    leaving: dict[tuple[str, str], float] = {}
    entering: dict[tuple[str, str], float] = {}
    for name, item in known.items():
        out = sorted((b for a, b in links if a == name), key=lambda b: _end(b, name, known, rank))
        into = sorted((a for a, b in links if b == name), key=lambda a: _end(a, name, known, rank))
        for other, offset in zip(out, _spread(len(out), item.height), strict=True):
            leaving[(name, other)] = offset if item.output is None else item.output
        for other, offset in zip(into, _spread(len(into), item.height), strict=True):
            entering[(other, name)] = item.inputs.get(_far(other), offset)
    return {link: (leaving[link], entering[link]) for link in links}


def _spread(count: int, height: float) -> list[float]:
    step = min(16.0, 0.72 * height / max(1, count))
    return [(place - (count - 1) / 2) * step for place in range(count)]


def _heights(
    known: Mapping[str, Item],
    columns: Sequence[Sequence[str]],
    links: Sequence[tuple[str, str]],
    spread: Mapping[tuple[str, str], tuple[float, float]],
    gap: float,
) -> dict[str, float]:
    y: dict[str, float] = {}
    for names in columns:
        y |= dict(zip(names, _stacked([0.0] * len(names), names, known, gap), strict=True))
    for sweep in range(2 * SWEEPS):
        forward = sweep % 2 == 0
        for names in columns if forward else reversed(columns):
            wanted = []
            for name in names:
                if forward:
                    links_in = [(a, b) for a, b in links if b == name]
                    near = [y[a] + spread[a, b][0] - spread[a, b][1] for a, b in links_in]
                else:
                    links_out = [(a, b) for a, b in links if a == name]
                    near = [y[b] + spread[a, b][1] - spread[a, b][0] for a, b in links_out]
                wanted.append(sum(near) / len(near) if near else y[name])
            y |= dict(zip(names, _stacked(wanted, names, known, gap), strict=True))
    return y


def _stacked(
    wanted: Sequence[float], names: Sequence[str], known: Mapping[str, Item], gap: float
) -> list[float]:
    """The middles nearest to `wanted`, in order and without overlap: isotonic regression by
    pooling neighbours that stand in each other's way."""
    offsets, at = [], 0.0
    for place, name in enumerate(names):
        half = known[name].height / 2
        at += half + (gap if place else 0.0)
        offsets.append(at)
        at += half
    pools: list[tuple[float, int]] = []
    for value, offset in zip(wanted, offsets, strict=True):
        pools.append((value - offset, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (one, many), (other, more) = pools[-2:]
            pools[-2:] = [((one * many + other * more) / (many + more), many + more)]
    level = [mean for mean, many in pools for _ in range(many)]
    return [one + offset for one, offset in zip(level, offsets, strict=True)]


def _lefts(
    known: Mapping[str, Item], columns: Iterable[Sequence[str]], gap: float
) -> tuple[list[float], list[float]]:
    """The left edge and the width of every column."""
    widths = [max((known[name].width for name in names), default=0.0) for names in columns]
    lefts, at = [], 0.0
    for width in widths:
        lefts.append(at)
        at += width + gap
    return lefts, widths
