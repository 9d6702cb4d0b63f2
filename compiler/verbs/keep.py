"""`keep(rollouts) { where = … }`: only the completions for which an expression holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grape.compiler.types import ArtifactType
from grape.compiler.verb import Port, Settings, Verb


class KeepSettings(Settings):
    """Only `where`, which is no constant and is checked as a formula."""


def _type(inputs: Mapping[str, ArtifactType], settings: Mapping[str, Any]) -> ArtifactType:
    return inputs["rollouts"]


VERB = Verb(
    "keep",
    "stage",
    KeepSettings,
    _type,
    "1",
    ports=(Port("rollouts", "Rollouts"),),
    special=frozenset({"where"}),
    required=frozenset({"where"}),
)
