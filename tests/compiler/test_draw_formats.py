"""Drawings: whole, valid, escaped, stable; boxes of the SVG never overlap."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grape.compiler.draw import FORMATS
from grape.compiler.draw.layout import Item, arrange
from grape.compiler.draw.svg import OUTCOMES, after
from grape.compiler.graph import Graph
from grape.compiler.plan import Plan
from grape.compiler.planning import make_plan
from grape.compiler.program import load

TINY = Path(__file__).parents[2] / "pipelines" / "tiny"
FILES = sorted(TINY.glob("*.grape"))
SVG = "{http://www.w3.org/2000/svg}"


def graph_of(file: Path) -> Graph:
    return load(file).graph()


def plan_of(graph: Graph, file: Path) -> Plan:
    """A plan with every state: cached, resume, then run."""
    states: list[Literal["cached", "run", "resume"]] = ["cached", "cached", "resume"]
    asked: list[str] = []

    def state_of(key: str) -> Literal["cached", "run", "resume"]:
        asked.append(key)
        return states[len(asked) - 1] if len(asked) <= len(states) else "run"

    return make_plan(graph, project=file.parent, file=str(file), state_of=state_of, previous=None)


def hostile(graph: Graph) -> Graph:
    """The graph with a name that every format has to quote."""
    name = 'a"<b>&#;]\\["1e-5"]'
    stages = []
    for stage in graph.stages:
        inputs = [replace(e, source=name) if e.source == "base" else e for e in stage.inputs]
        own = name if stage.name == "base" else stage.name
        stages.append(replace(stage, name=own, inputs=tuple(inputs)))
    return replace(graph, stages=tuple(stages))


@pytest.mark.parametrize("format", sorted(FORMATS))
@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_the_same_graph_gives_the_same_bytes(file: Path, format: str) -> None:
    graph = graph_of(file)
    plan = plan_of(graph, file)
    for state in (None, plan):
        assert FORMATS[format](graph, state) == FORMATS[format](graph_of(file), state)


def test_mermaid_names_are_plain_and_labels_are_quoted() -> None:
    graph = hostile(graph_of(TINY / "quickstart.grape"))
    text = FORMATS["mermaid"](graph, None)
    name = r"n_\w+"
    forms = [
        "flowchart LR",
        rf"  (  )?{name}\[\"[^\"]*\"\]",
        rf"  subgraph {name}\[\"[^\"]*\"\]",
        "  end",
        rf"  {name} -- \"[^\"]*\" --> {name}",
    ]
    for line in text.splitlines():
        assert any(re.fullmatch(form, line) for form in forms), line
    assert "#quot;" in text and "#lt;b#gt;" in text


def test_mermaid_ids_of_different_stages_differ() -> None:
    graph = graph_of(TINY / "quickstart.grape")
    names = ("policy_rollouts", "policy__rollouts", "policy_2e_rollouts")
    twins = [replace(graph.stages[0], name=name) for name in names]
    text = FORMATS["mermaid"](replace(graph, stages=(*graph.stages, *twins)), None)
    ids = re.findall(r"^ +(?:subgraph )?(n_\w+)\[", text, re.MULTILINE)
    assert len(ids) == len(set(ids)) and len(ids) >= 9


def test_states_are_classes_and_colours() -> None:
    file = TINY / "quickstart.grape"
    graph = graph_of(file)
    plan = plan_of(graph, file)
    mermaid, dot = FORMATS["mermaid"](graph, plan), FORMATS["dot"](graph, plan)
    for state in ("cached", "resume", "run"):
        assert re.search(rf"^  class \S+ {state}$", mermaid, re.MULTILINE)
        assert f'tooltip="{state}"' in dot
    assert "classDef" not in FORMATS["mermaid"](graph, None)


@pytest.mark.skipif(shutil.which("dot") is None, reason="Graphviz is not installed")
@pytest.mark.parametrize("named_badly", [False, True])
def test_graphviz_reads_the_dot(named_badly: bool) -> None:
    graph = graph_of(TINY / "quickstart.grape")
    text = FORMATS["dot"](hostile(graph) if named_badly else graph, None)
    done = subprocess.run(["dot", "-Tjson"], input=text, capture_output=True, text=True, check=True)
    drawn = json.loads(done.stdout)
    edges = {(drawn["objects"][e["tail"]]["name"], e["label"]) for e in drawn["edges"]}
    assert ("policy.next", "Model") in edges and ("sums", "Data .test") in edges
    assert done.stderr == ""


def test_json_tells_every_node_and_edge() -> None:
    graph = graph_of(TINY / "quickstart.grape")
    drawn = json.loads(FORMATS["json"](graph, None))
    ids = {node["id"] for node in drawn["nodes"]}
    assert {"policy", "policy.rollouts", "policy.next"} <= ids
    assert all({edge["source"], edge["target"]} <= ids for edge in drawn["edges"])
    labels = {(edge["source"], edge["target"]): edge["label"] for edge in drawn["edges"]}
    assert labels["policy.scored", "policy.next"] == "scored Rollouts"


# --- SVG --------------------------------------------------------------------------------------

Box = tuple[float, float, float, float]


def svg_of(graph: Graph, plan: Plan | None = None) -> ET.Element:
    return ET.fromstring(FORMATS["svg"](graph, plan))


def corners(rect: ET.Element, by: tuple[float, float] = (0, 0)) -> Box:
    x, y, w, h = (float(rect.attrib[name]) for name in ("x", "y", "width", "height"))
    return x + by[0], y + by[1], x + by[0] + w, y + by[1] + h


def overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.stem)
def test_boxes_and_frames_never_overlap(file: Path) -> None:
    graph = graph_of(file)
    root = svg_of(graph, plan_of(graph, file))
    whole = root.find(f"{SVG}g")
    assert whole is not None
    outer = [
        corners(rect)
        for group in whole.findall(f"{SVG}g")
        for rect in group.findall(f"{SVG}rect")
        if rect.attrib["class"] in ("box", "frame")
    ]
    assert len(outer) == len(graph.stages) + len(graph.skipped)
    assert not any(overlap(a, b) for a, b in itertools.combinations(outer, 2))
    frames = [r for r in root.iter(f"{SVG}rect") if r.attrib["class"] == "frame"]
    insides = [g for g in root.iter(f"{SVG}g") if g.attrib.get("class") == "inside"]
    for frame, inside in zip(frames, insides, strict=True):
        numbers = re.findall(r"[\d.]+", inside.attrib["transform"])
        by = (float(numbers[0]), float(numbers[1]))
        boxes = [corners(r, by) for r in inside.iter(f"{SVG}rect")]
        assert not any(overlap(a, b) for a, b in itertools.combinations(boxes, 2))
        left, top, right, bottom = corners(frame)
        assert all(left < a and top < b and c < right and d < bottom for a, b, c, d in boxes)


def test_the_svg_says_settings_types_states_and_the_repeat() -> None:
    file = TINY / "quickstart.grape"
    graph = graph_of(file)
    root = svg_of(graph, plan_of(graph, file))
    texts = [text.text for text in root.iter(f"{SVG}text")]
    rounds = next(stage for stage in graph.stages if stage.body).settings["rounds"]
    assert f"repeat {rounds} · policy" in texts
    assert {"in store", "to run", "to resume", "Data .train", "scored Rollouts"} <= set(texts)
    titles = [title.text or "" for title in root.iter(f"{SVG}title")]
    assert any("lr = 0.0001" in title for title in titles)


def test_a_drawing_tells_what_became_of_each_stage() -> None:
    file = TINY / "sweep.grape"
    graph = graph_of(file)
    plan = plan_of(graph, file)
    before = FORMATS["svg"](graph, plan)
    names = [stage.name for stage in plan.stages]
    given = dict(zip(names, itertools.cycle(("cached", "completed", "failed")), strict=False))
    del given[names[-1]]
    root = ET.fromstring(after(before, given))
    boxes = {g.attrib["data-stage"]: g for g in root.iter(f"{SVG}g") if "data-stage" in g.attrib}
    for name, box in boxes.items():
        words = [t.text for t in box.findall(f"{SVG}text") if t.attrib["class"] == "state"]
        region = next((known for known in names if name.startswith(f"{known}.")), None)
        if "(skipped" in name:
            assert words == ["skipped"] and box.attrib["class"].endswith("skipped")
            continue
        state = given.get(region or name, "waiting")
        assert box.attrib["class"].split()[-1] == state
        assert words == ([] if region else [OUTCOMES[state]])
    assert any("(skipped" in name for name in boxes)
    assert {box.attrib["class"].split()[-1] for box in boxes.values()} >= set(given.values())


def test_the_svg_escapes_and_needs_nothing_from_outside() -> None:
    text = FORMATS["svg"](hostile(graph_of(TINY / "quickstart.grape")), None)
    names = [item.text for item in ET.fromstring(text).iter(f"{SVG}text")]
    assert 'a"<b>&#;]\\["1e-5"]' in names
    assert re.findall(r"https?://[^\"]+", text) == ["http://www.w3.org/2000/svg"]
    assert "prefers-color-scheme: dark" in text


def test_an_empty_pipeline_is_drawn() -> None:
    graph = replace(graph_of(TINY / "quickstart.grape"), stages=(), checks=(), outputs=())
    for draw in FORMATS.values():
        assert draw(graph, None)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.sets(st.tuples(st.integers(0, 11), st.integers(0, 11))))
def test_any_graph_gets_a_place_for_every_box(count: int, pairs: set[tuple[int, int]]) -> None:
    items = [Item(f"n{number}", 80 + 5 * number, 30 + 7 * (number % 4)) for number in range(count)]
    edges = [(f"n{a}", f"n{b}") for a, b in sorted(pairs) if a < b < count]
    layout = arrange(items, edges, 40, 12)
    boxes = {
        item.id: (
            layout.places[item.id][0],
            layout.places[item.id][1] - item.height / 2,
            layout.places[item.id][0] + item.width,
            layout.places[item.id][1] + item.height / 2,
        )
        for item in items
    }
    assert not any(overlap(a, b) for a, b in itertools.combinations(boxes.values(), 2))
    slack = 1e-6
    for left, top, right, bottom in boxes.values():
        assert left >= -slack and top >= -slack
        assert right <= layout.width + slack and bottom <= layout.height + slack
    for (source, target), way in zip(edges, layout.ways, strict=True):
        assert way.start[0] == boxes[source][2] and way.end[0] == boxes[target][0]
        assert boxes[source][0] < boxes[target][0]
        for left, right, height in way.lanes:
            lane = (left, height, right, height)
            assert not any(overlap(lane, box) for box in boxes.values())
