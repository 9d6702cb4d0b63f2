"""The numbers that follow from the settings alone: completions, sequences, optimizer steps.

What only the data tells is left out. The numbers of a repeat's body are those of one round.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from grape.compiler.graph import Stage


def counts(stages: Sequence[Stage]) -> dict[str, dict[str, Any]]:
    """By stage name: what is known of it."""
    found: dict[str, dict[str, Any]] = {}
    for stage in stages:
        found[stage.name] = _count(stage, found)
    return found


def _count(stage: Stage, before: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    settings = stage.settings
    match stage.verb:
        case "sample" if settings["prompts"] is not None:
            completions = settings["prompts"] * settings["group"]
            return {
                "prompts": settings["prompts"],
                "completions": completions,
                "max_new_tokens": completions * settings["max_tokens"],
            }
        case "score":
            made = before.get(stage.inputs[0].source, {})
            return {name: made[name] for name in ("prompts", "completions") if name in made}
        case "train":
            source = next((edge.source for edge in stage.inputs if edge.port == "data"), "")
            return _updates(settings, before.get(source, {}))
        case "repeat":
            return _rounds(stage)
    return {}


def _updates(settings: Mapping[str, Any], made: Mapping[str, Any]) -> dict[str, Any]:
    """Optimizer steps on known completions; a group stays in one step, so that a step holds as
    many groups as fit."""
    if "completions" not in made or settings["overlong"] != "error":
        return {}
    group = made["completions"] // made["prompts"]
    size = settings["sequences_per_update"] or made["completions"]
    steps = math.ceil(made["prompts"] / max(1, size // group)) * settings["epochs"]
    limit = settings["updates"]
    return {
        "sequences": made["completions"],
        "updates": steps if limit is None else min(steps, limit),
    }


def _rounds(stage: Stage) -> dict[str, Any]:
    """The sums over all rounds of what is known of every stage that has the number."""
    rounds = stage.settings["rounds"]
    inside = counts(stage.body)
    total: dict[str, Any] = {"rounds": rounds}
    for verb_name, number in (("sample", "completions"), ("train", "updates")):
        of_verb = [
            inside[item.name]
            for item in stage.body
            if item.verb == verb_name and item.every is None
        ]
        if of_verb and all(number in one for one in of_verb):
            total[number] = rounds * sum(int(one[number]) for one in of_verb)
    return total
