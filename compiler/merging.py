"""What can be known of a `merge` before any weights are: its shares, and models that cannot mix.

Models built fresh tell their shape; those from elsewhere are compared when they are loaded.
"""

from __future__ import annotations

from dataclasses import replace

from grape.compiler.graph import Stage
from grape.compiler.names import refuse
from grape.compiler.regions import Found, Place
from grape.dsl import ast
from grape.dsl.findings import Label
from grape.dsl.source import Span

_SHAPE = ("architecture", "layers", "hidden", "heads", "kv_heads", "intermediate", "context")
_TOKENIZER = ("tokenizer", "vocab")


def check_merge(stage: Stage, node: ast.Node, models: list[Found], place: Place) -> Stage:
    """The stage with its shares written out. Raises `Refused`."""
    spans = {setting.name.name: setting.value.span for setting in node.settings}
    given = stage.settings["weights"]
    weights = given if given is not None else [1 / len(models)] * len(models)
    span = spans.get("weights", node.call.span)
    if len(weights) != len(models):
        message = f"{len(models)} models need {len(models)} weights, and here are {len(weights)}"
        refuse("G232", message, span)
    if abs(sum(weights) - 1) > 1e-6:
        message = f"the weights of a merge sum to 1, and these to {sum(weights):g}"
        refuse("G232", message, span)
    if stage.settings["method"] == "slerp":
        method = spans["method"]
        if len(models) != 2:
            refuse("G232", f"slerp goes between two models, not {len(models)}", method)
        if min(weights) < 0:
            refuse("G232", "slerp takes weights from 0 to 1", span)
    _check_alike([(found, _origin(found.name, place)) for found in models], node.call.span)
    return replace(stage, settings=stage.settings | {"weights": weights})


def _origin(name: str, place: Place) -> Stage | None:
    """The model source that a model descends from."""
    region = place.region
    passed = []
    while name not in region.sources:
        stage = region.stages.get(name)
        if stage is None:
            return None
        passed.append(name)
        ports = {edge.port: edge.source for edge in stage.inputs}
        above = ports.get("model") or ports.get("start") or ports.get("first")
        if above is None:
            region.sources[name] = stage
            break
        name = above
    source = region.sources[name]
    region.sources.update(dict.fromkeys(passed, source))
    return source


def _check_alike(models: list[tuple[Found, Stage | None]], span: Span) -> None:
    first, source = models[0]
    if source is None or source.verb != "fresh":
        return
    for other, origin in models[1:]:
        if origin is None or origin.verb != "fresh" or origin.name == source.name:
            continue
        for names, what in ((_SHAPE, "architecture"), (_TOKENIZER, "tokenizer")):
            for name in names:
                one, two = source.settings[name], origin.settings[name]
                if one != two:
                    message = (
                        f"`{first.name}` and `{other.name}` cannot be merged: their {what} "
                        f"differs (`{name}` is {one} and {two})"
                    )
                    labels = (Label(source.span, "one"), Label(origin.span, "the other"))
                    refuse("G232", message, span, labels=labels)
