"""What a verb is to the checker: its ports, its settings, what it makes.

Each file of `verbs/` makes one `Verb`; `verbs/__init__.py` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from grape.compiler.types import ArtifactType


@dataclass(frozen=True, slots=True)
class Unit:
    """The unit that a setting must be written with: `duration`, `size` or `fraction`."""

    name: str


Duration = Annotated[float, Unit("duration")]
Size = Annotated[int, Unit("size")]


class Settings(BaseModel):
    """The braces of a statement. Field documentation stands under each field."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)
    places: ClassVar[tuple[str, ...]] = ()
    """Of a value such as `lora(…)`: what its arguments without a name are."""


class Secret(BaseModel):
    """A setting that is never printed, logged, stored or hashed by its value: only the name of the
    environment variable that holds it is."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    secret: str


@dataclass(frozen=True, slots=True)
class Port:
    """An input in parentheses. `accepts` is a word of `types.usable_as`."""

    name: str
    accepts: str
    optional: bool = False
    named: bool = False
    """Only as `NAME = value`."""
    served: bool = False
    """Whether a model behind a server will do."""


Result = Callable[[Mapping[str, ArtifactType], Mapping[str, Any]], ArtifactType]


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb or a source. `version` changes when the same settings come to mean other output."""

    name: str
    keyword: Literal["model", "data", "stage"]
    settings: type[Settings]
    result: Result
    version: str
    ports: tuple[Port, ...] = ()
    literals: tuple[str, ...] = ()
    """Settings that the file writes as positional arguments, before the ports."""
    reward: bool = False
    """Takes a reward as its last argument."""
    options: bool = False
    """Takes any `name = value` argument, collected in the setting `options`."""
    special: frozenset[str] = frozenset()
    """Settings that are no constants: `algorithm`, `where`."""
    required: frozenset[str] = frozenset()
    """Special settings that must be given."""


def makes(name: str) -> Result:
    """A result type that depends on nothing."""
    made = ArtifactType(name)
    return lambda inputs, settings: made
