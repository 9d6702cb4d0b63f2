"""What is known of models, sequences and stages while estimates follow the edges of a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grape.compiler.estimates import memory
from grape.compiler.estimates.devices import Device
from grape.compiler.estimates.facts import ModelFacts
from grape.compiler.estimates.headers import Counter
from grape.compiler.estimates.memory import Line
from grape.compiler.estimates.ranges import Range
from grape.compiler.estimates.texts import Texts
from grape.compiler.estimates.work import Sequences, Work
from grape.compiler.graph import Stage


@dataclass(frozen=True, slots=True)
class Model:
    """A model on an edge: its sizes, its tokenizer where it can be read, bytes of a number."""

    facts: ModelFacts
    counter: Counter | None
    width: int

    @property
    def bytes(self) -> int:
        return self.facts.parameters * self.width


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is known of a stage before it runs."""

    lines: tuple[Line, ...] = ()
    work: Work = Work()
    moved: int = 0
    """Bytes of models read from the store and written to it."""
    parameters: int | None = None
    notes: tuple[str, ...] = ()
    body: Mapping[str, Estimate] = field(default_factory=dict)

    @property
    def peak(self) -> Range:
        """Bytes of memory."""
        return memory.peak(self.lines)

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.lines:
            found["memory"] = self.peak.to_json()
            found["memory_lines"] = memory.to_json(self.lines)
        if self.parameters is not None:
            found["parameters"] = self.parameters
        if self.work.tokens.high:
            found["tokens"] = self.work.tokens.to_json()
            found["flops"] = self.work.flops.to_json()
        if self.moved:
            found["bytes_moved"] = self.moved
        if self.notes:
            found["notes"] = list(self.notes)
        return found


@dataclass(slots=True)
class Known:
    """What has been followed so far, by stage name."""

    project: Path
    device: Device
    stored: Callable[[str], Path | None]
    models: dict[str, Model] = field(default_factory=dict)
    texts: dict[str, Texts] = field(default_factory=dict)
    made: dict[str, Sequences] = field(default_factory=dict)
    inside: bool = False
    """In the body of a repeat, where the policy is in memory already."""
    policy: str = ""
    """The repeat, whose model that is."""

    def model(self, stage: Stage, port: str) -> Model | None:
        return self.models.get(source_of(stage, port))

    def sequences(self, stage: Stage, port: str) -> Sequences | None:
        return self.made.get(source_of(stage, port))


def source_of(stage: Stage, port: str) -> str:
    return next((edge.source for edge in stage.inputs if edge.port == port), "")
