"""`sample` on rollouts: what its sampler goes on from, and which settings then mean nothing.

In come the checked settings of a `sample` and the types of its inputs; out come findings, and the
number of completions of a prompt. What the samplers do is in `runtime.core`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grape.compiler.names import refuse
from grape.compiler.regions import Found
from grape.compiler.templates import parse_template
from grape.compiler.types import way_from
from grape.compiler.verbs.sample import FOLLOWING
from grape.dsl import ast
from grape.dsl.findings import Label
from grape.dsl.source import Span

_IDLE = {
    "group": "how many completions a prompt has follows from the rollouts",
    "curriculum": "a curriculum chooses among prompts, and these go on from rollouts",
    "greedy": "a greedy companion belongs to a prompt, and these go on from rollouts",
    "prompts": "all rollouts are gone on from",
}
"""Settings of `sample` that mean nothing on rollouts, and why."""


def check_following(
    settings: Mapping[str, Any],
    given: frozenset[str],
    inputs: Mapping[str, tuple[Found, ast.Arg]],
    node: ast.Node,
) -> int:
    """The completions of a prompt; that of the settings where prompts are sampled from. Raises
    `Refused` where sampler and input do not belong together."""
    (found, arg), sampler = inputs["prompts"], settings["sampler"] or {"kind": ""}
    kind, group = sampler["kind"], int(settings["group"])
    if found.type.name != "Rollouts" and kind not in FOLLOWING:
        return group
    _check_source(found, arg, kind)
    spans = {setting.name.name: setting.span for setting in node.settings}
    for name, why in _IDLE.items():
        if name in given and not (name == "prompts" and kind == "prefixes"):
            message = f"`{name}` does nothing here: {why}"
            refuse("G287", message, spans[name], hint=f"leave `{name}` out")
    model, written = inputs["model"]
    if model.type.served:
        message = f"`{model.name}` is a served model, and `{kind}` goes on from tokens"
        refuse("G250", message, written.span, labels=(Label(model.made_at, "made here"),))
    if kind == "prefixes":
        return int(sampler["count"] * sampler["width"])
    if kind == "module":
        _check_template(sampler["prompt"], spans["sampler"])
    return found.type.group


def _check_source(found: Found, arg: ast.Arg, kind: str) -> None:
    name, made = arg.value.span.text, found.type
    labels = (Label(found.made_at, f"`{found.name}` is made here"),)
    if kind not in FOLLOWING:
        message = f"`sample` needs prompts here, `{name}` is {made}"
        hint = "a sampler that goes on from rollouts: `probe(…)`, `prefixes(…)` or `module(…)`"
        refuse("G201", message, arg.span, labels=labels, hint=hint)
    wanted = "Rollouts" if kind == "module" else "scored Rollouts"
    if made.name != "Rollouts" or (wanted != "Rollouts" and not made.scored):
        what = made if made.name == "Rollouts" else "data"
        message = f"`{kind}` goes on from {wanted}, `{name}` is {what}"
        refuse("G201", message, arg.span, labels=labels, hint=way_from(made, wanted, name))
    if kind == "probe" and "step" in made.adds and not made.adds & {"tree", "set"}:
        message = f"`probe` goes on from one turn, and `{name}` has several with results between"
        refuse(
            "G201", message, arg.span, labels=labels, hint=f"sample `{found.name}` without tools"
        )
    if kind == "prefixes" and "tree" not in made.adds:
        message = f"`prefixes` goes on from nodes of trees, and `{name}` has none"
        hint = f"write `sampler = tree(…)` where `{found.name}` was sampled"
        refuse("G270", message, arg.span, labels=labels, hint=hint)


def _check_template(text: str, span: Span) -> None:
    try:
        parse_template(text)
    except ValueError as error:
        refuse("G421", f"`prompt`: {error}", span)
