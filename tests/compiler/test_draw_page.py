"""The HTML page of a graph: whole by itself, safe against hostile names, and alive in a browser.

The browser tests need `chromium` on the PATH and are skipped, saying so, where there is none.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grape.compiler.draw import FORMATS
from grape.compiler.graph import Graph
from grape.compiler.plan import Plan
from grape.compiler.planning import make_plan
from grape.compiler.program import load

FILE = Path(__file__).parents[2] / "pipelines" / "tiny" / "quickstart.grape"
CHROMIUM = shutil.which("chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--virtual-time-budget=2000",
]
HOSTILE = '</script><img src=x onerror="document.title=1"> @@DATA@@ &amp; "q"'
browser = pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium on the PATH")


def graph() -> Graph:
    return load(FILE).graph()


def plan(of: Graph) -> Plan:
    states = iter(["cached", "resume"])

    def state_of(key: str) -> Any:
        return next(states, "run")

    return make_plan(of, project=FILE.parent, file=str(FILE), state_of=state_of, previous=None)


def embedded(page: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    data = json.loads(found[1])
    assert isinstance(data, dict)
    return data


def test_the_page_holds_every_stage_with_all_its_settings() -> None:
    made = graph()
    data = embedded(FORMATS["html"](made, plan(made)))
    stages = {stage["id"]: stage for stage in data["stages"]}
    assert {"sums", "base", "warm", "policy", "policy.rollouts", "policy.next"} <= set(stages)
    for stage in made.stages:
        shown = {row[0]: row[2] for row in stages[stage.name]["settings"]}
        assert {name for name, given in shown.items() if given} == stage.given & set(stage.settings)
    warm = stages["warm"]
    assert warm["source"][0].startswith("stage warm = train(") and warm["line"] > 1
    assert warm["state"] == "run" and warm["key"] and warm["reason"]
    assert ["checkpoint", "5min", False] in warm["settings"]
    assert ["data", "sums", "train", "Data"] in warm["inputs"]
    inner = stages["policy.next"]["inputs"]
    assert ["data", "policy.scored", "", "scored Rollouts"] in inner


def test_the_page_loads_nothing_and_says_so() -> None:
    page = FORMATS["html"](graph(), None)
    assert "default-src 'none'" in page
    assert not re.findall(r'(?:src|href)\s*=\s*"(?!#)', page)
    assert set(re.findall(r"https?://[^\"'\s<]+", page)) == {"http://www.w3.org/2000/svg"}
    assert "@@" not in page


def hostile(made: Graph) -> Graph:
    stages = [replace(s, doc=HOSTILE) if s.name == "warm" else s for s in made.stages]
    return replace(made, pipeline=HOSTILE, stages=tuple(stages))


def test_names_and_comments_cannot_break_out() -> None:
    page = FORMATS["html"](hostile(graph()), None)
    assert "<img" not in page and page.count("</script>") == 2
    data = embedded(page)
    assert data["pipeline"] == HOSTILE
    assert next(s for s in data["stages"] if s["id"] == "warm")["doc"] == HOSTILE


def test_a_stage_that_is_left_out_has_a_box_of_its_own(tmp_path: Path) -> None:
    file = tmp_path / "a.grape"
    file.write_text(
        "grape 1\n\npipeline p(big: bool = true) {\n"
        '  data d = environment("reasoning_gym:chain_sum") { size = 8 }\n'
        "  if big {\n"
        '    model m = fresh("llama", d) { hidden = 128 }\n'
        "  } else {\n"
        '    model m = fresh("llama", d)\n'
        '  }\n  output m as "models/m"\n}\n'
    )
    page = FORMATS["html"](load(file).graph(), None)
    ids = [stage["id"] for stage in embedded(page)["stages"]]
    assert len(ids) == 3 and len(set(ids)) == 3
    assert sorted(re.findall(r'data-stage="([^"]*)"', page)) == sorted(ids)


# --- in a browser -------------------------------------------------------------------------------


def dom(tmp_path: Path, page: str, fragment: str = "", script: str = "") -> str:
    """The page's elements after its scripts, and one more, have run."""
    assert CHROMIUM
    file = tmp_path / "graph.html"
    file.write_text(page.replace("</body>", f"<script>{{{script}}}</script></body>"))
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"]
    done = subprocess.run(
        [*command, file.as_uri() + fragment], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def panel(text: str) -> str:
    """What the panel says, as one line."""
    found = re.search(r"<aside.*?</aside>", text, re.DOTALL)
    assert found
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", found[0])).split())


@browser
def test_a_link_to_a_stage_opens_its_panel(tmp_path: Path) -> None:
    made = graph()
    said = panel(dom(tmp_path, FORMATS["html"](made, plan(made)), "#stage=policy.rollouts"))
    assert said.startswith("rollouts sample · in repeat policy")
    assert "temperature 1 default" in said and "Rollouts" in said
    assert "quickstart.grape:" in said and "stage rollouts = sample(" in said


@browser
def test_clicks_keys_and_wheel_work(tmp_path: Path) -> None:
    page = FORMATS["html"](hostile(graph()), None)
    script = """
      const log = document.createElement("output"), say = what => { log.textContent += what + ";" };
      log.id = "log"; document.body.append(log);
      const view = document.getElementById("view"), svg = view.querySelector("svg");
      const open = () => (document.querySelector("aside h2") || {}).textContent;
      const key = (target, name) =>
        target.dispatchEvent(new KeyboardEvent("keydown", {key: name, bubbles: true}));
      const warm = svg.querySelector(`[data-stage="warm"] text`);
      warm.dispatchEvent(new MouseEvent("click", {bubbles: true}));
      say(open()); say(location.hash); say(document.querySelectorAll(".edge.near").length > 1);
      key(document.body, "Escape"); say(location.hash === "" && open() !== "warm");
      key(svg.querySelector('[data-stage="policy.scored"]'), "Enter"); say(open());
      key(document.body, "0");
      const before = svg.style.transform;
      const wheel = {deltaY: -300, clientX: 200, clientY: 300, cancelable: true, bubbles: true};
      view.dispatchEvent(new WheelEvent("wheel", wheel));
      say(svg.style.transform !== before);
      key(document.body, "0"); say(svg.style.transform === before);
      const links = [...document.querySelectorAll("aside a")];
      const link = links.find(a => a.textContent === "policy.rollouts");
      link.click();
      setTimeout(() => { say(open()); say(document.querySelectorAll("img").length); }, 100);
      document.getElementById("theme").click(); say(document.documentElement.dataset.theme);
    """
    found = re.search(r'<output id="log">(.*?)</output>', dom(tmp_path, page, "", script))
    assert found
    said = found[1].split(";")
    assert said == [
        "warm",
        "#stage=warm",
        "true",
        "true",
        "scored",
        "true",
        "true",
        "dark",
        "rollouts",
        "0",
        "",
    ]
