"""Secrets: from the name of an environment variable to what it holds, at the moment of use.

A plan, a store and a log hold names only. What a library says in an error might repeat a value, so
whatever leaves a worker is `scrubbed` first.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from grape.compiler.plan import PlannedStage
from grape.runtime.errors import StageError


def reveal(setting: Mapping[str, str] | None) -> str | None:
    """What a secret setting holds; None for one that is not set. Raises StageError when the
    variable is missing."""
    if setting is None:
        return None
    name = setting["secret"]
    value = os.environ.get(name)
    if not value:
        raise StageError(
            f"the environment variable `{name}`, which a secret names, is not set",
            hint=f"set it where you run Grape: `export {name}=…`",
        )
    return value


def names_in(stages: Iterable[PlannedStage]) -> list[str]:
    """The variables that the settings of stages name as secrets, in order."""
    found: dict[str, None] = {}
    for stage in stages:
        for value in stage.settings.values():
            if _is_secret(value):
                found[value["secret"]] = None
        found |= dict.fromkeys(names_in(stage.body))
    return list(found)


def _is_secret(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"secret"}


def scrubbed(event: dict[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """An event without the values of these secrets in its texts."""
    held = {os.environ[name]: name for name in names if os.environ.get(name)}

    def clean(value: Any) -> Any:
        if isinstance(value, dict):
            return {clean(key): clean(item) for key, item in value.items()}
        if isinstance(value, list):
            return [clean(item) for item in value]
        if not isinstance(value, str):
            return value
        for secret, name in held.items():
            value = value.replace(secret, f"<{name}>")
        return value

    cleaned: dict[str, Any] = clean(event) if held else event
    return cleaned
