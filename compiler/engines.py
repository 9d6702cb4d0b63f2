"""`engine = …` of `sample`: what an engine cannot do, told before anything runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from grape.compiler.names import refuse
from grape.compiler.regions import Found
from grape.compiler.types import SERVER
from grape.dsl import ast
from grape.dsl.findings import Label

OWN = "transformers"
"""Grape's own decode loop."""
_OF_THE_LOOP = ("rows", "compact", "own_layers", "keep_activations", "pack_weights")


def check_engine(
    settings: Mapping[str, Any], given: frozenset[str], model: Found, node: ast.Node
) -> None:
    """Refuse what an engine cannot honour (G242): `Refused`, at the setting that asks for it."""
    spans = {setting.name.name: setting.span for setting in node.settings}
    wrong = list(_of_server(settings, given, model) if model.type.served else _of(settings, given))
    for name, message, hint in wrong:
        labels = (Label(model.made_at, "made here"),) if model.type.served else ()
        refuse("G242", message, spans[name], labels=labels, hint=hint)


def _of_server(
    settings: Mapping[str, Any], given: frozenset[str], model: Found
) -> Iterator[tuple[str, str, str]]:
    """A served model: its server is the engine, and its log-probs are those of the model itself."""
    if "engine" in given:
        message = f"`{model.name}` is a served model: its server is the engine"
        yield "engine", message, "leave `engine` out"
    if model.type.engine != SERVER:
        return
    for name, plain in (("temperature", (0.0, 1.0)), ("top_p", (1.0,))):
        if settings[name] not in plain:
            message = (
                f"the log-probs of a server are those of the model itself, and `{name} = "
                f"{settings[name]:g}` draws from another distribution"
            )
            yield name, message, f"leave `{name}` at 1, or `tokens` of the served model out"


def _of(settings: Mapping[str, Any], given: frozenset[str]) -> Iterator[tuple[str, str, str]]:
    engine = settings["engine"]
    if engine == OWN:
        if "engine_memory" in given:
            message = f"`{OWN}` samples in the memory of the model that is there already"
            yield "engine_memory", message, "leave it out"
        return
    if settings["sampler"]:
        kind = settings["sampler"]["kind"]
        message = f"`{engine}` draws whole completions, and `{kind}(…)` goes on inside of them"
        yield "sampler", message, f'sample with `engine = "{OWN}"`'
    for name in _OF_THE_LOOP:
        if name in given:
            message = f"`{engine}` decides by itself what it decodes side by side"
            yield name, message, f"leave `{name}` out"
