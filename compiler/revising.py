"""What must hold of a `revise`: its rubric, its template, and what it may put into one group.

Refusals while the stage is built; `hygiene.revising` looks at the graph around it.
"""

from __future__ import annotations

from typing import Any

from grape.compiler.graph import Stage
from grape.compiler.names import refuse
from grape.compiler.regions import Found, Place, Region
from grape.compiler.templates import parse_template
from grape.dsl import ast
from grape.dsl.findings import Label
from grape.dsl.source import Span

_ANYWAY = {"greedy_reward", "revised"}
"""What rollouts may bring beside their reward, and a revision, which is drawn alone, too."""


def check_revise(stage: Stage, rollouts: Found, node: ast.Node) -> None:
    """Refuse a stage that can revise nothing. Raises `Refused`."""
    spans = {setting.name.name: setting.span for setting in node.settings}
    assert stage.reward is not None and isinstance(node.call, ast.Call)
    if stage.reward["op"] != "rubric":
        message = "`revise` goes by the items of a rubric, and this reward has none"
        hint = "score with a `rubric`, and name it here again"
        refuse("G258", message, node.call.args[-1].span, hint=hint)
    try:
        shown = parse_template(stage.settings["template"]).columns
    except ValueError as error:
        refuse("G202", str(error), spans["template"])
    if "critique" not in shown:
        message = "the template does not show the critique, so nothing tells what to mend"
        refuse("G202", message, spans["template"], hint="write `{critique}` into it")
    if stage.settings["gives"] == "group":
        _one_group(stage, rollouts, spans)


def _one_group(stage: Stage, rollouts: Found, spans: dict[str, Span]) -> None:
    if rollouts.type.adds - _ANYWAY:
        message = f"`{rollouts.name}` has a sampler of its own, and a revision is drawn alone"
        labels = (Label(rollouts.made_at, "made here"),)
        hint = 'take the revisions alone: `gives = "revisions"`'
        refuse("G268", message, spans["gives"], labels=labels, hint=hint)
    for name in ("temperature", "top_p"):
        if stage.settings[name] is not None:
            message = f"a group is learned from as one draw, so its revisions have no own `{name}`"
            refuse("G268", message, spans[name], hint=f"leave `{name}` out")


def combine_of(rollouts: str, place: Place, span: Span) -> dict[str, Any] | None:
    """How the scores that these rollouts carry were combined; None where nobody scored them."""
    region: Region | None = place.region
    name: str | None = rollouts
    while name is not None:
        while region is not None and name not in region.nodes:
            region = region.outer.region if region.outer else None
        if region is None:
            return None
        stage = region.stage(name, span)
        if stage.verb in ("score", "revise"):
            found: dict[str, Any] | None = stage.settings["combine"]
            return found
        name = next((edge.source for edge in stage.inputs if edge.port == "rollouts"), None)
    return None
