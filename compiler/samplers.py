"""`sampler = …` of a stage: does it fit the model, the group and the project."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grape.compiler.names import refuse
from grape.compiler.regions import Found
from grape.compiler.tools import check_turns
from grape.compiler.verbs.sample import Tree, Vine
from grape.dsl import ast
from grape.dsl.findings import Label

_GOES_ON = {
    "tree": "a tree goes on from tokens inside",
    "vine": "a vine goes on from tokens inside",
    "turns": "turns put the tokens of results between those of the model",
}


def check_sampler(
    settings: dict[str, Any],
    given: frozenset[str],
    inputs: Mapping[str, Found],
    node: ast.Node,
    project: Path,
) -> None:
    """Check the sampler of a stage. Where it decides how many completions a prompt has, that
    becomes the `group` of the settings. Raises `Refused`."""
    kind = settings["sampler"]["kind"]
    model = inputs["model"]
    spans = {setting.name.name: setting.span for setting in node.settings}
    if model.type.served:
        message = f"`{model.name}` is a served model, and {_GOES_ON[kind]}"
        labels = (Label(model.made_at, "made here"),)
        refuse("G250", message, spans["sampler"], labels=labels)
    if kind == "turns":
        check_turns(settings, spans, project)
        return
    sampler = (Tree if kind == "tree" else Vine)(**settings["sampler"])
    if "group" in given:
        message = f"the {kind} says how many completions a prompt has: {sampler.leaves}"
        rule = {"tree": "roots × (1 + rounds × expand × width)", "vine": "roots × states × width"}
        refuse("G273", message, spans["group"], hint=f"leave `group` out: {rule[kind]}")
    if isinstance(sampler, Vine) and sampler.width % sampler.set_size:
        message = f"{sampler.width} continuations make no whole sets of {sampler.set_size}"
        hint = "`width` is a multiple of `set_size`"
        refuse("G279", message, spans["sampler"], hint=hint)
    settings["group"] = sampler.leaves
