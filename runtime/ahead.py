"""Rounds with `staleness = 1`: completions of the next round are drawn while this one trains.

The weights that a round begins with draw the completions of the round after it, from a copy of
their own; training goes on in a second thread. What comes out is a function of the seed alone,
never of which thread is faster.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grape.compiler.ahead import ahead_of, planned_inner
from grape.compiler.plan import PlannedStage
from grape.runtime import ranks
from grape.runtime.artifacts import TEXT_ARTIFACTS

Run = Callable[[PlannedStage, int, Mapping[str, Any]], Any]
"""Runs a stage of a round on what was made before it."""


@dataclass(slots=True)
class Ahead:
    """What is drawn for the round to come, and which weights drew it."""

    region: PlannedStage
    outside: Mapping[str, Any]
    names: list[str] = field(init=False)
    drawn: int = 0
    """Updates of the model that drew what is ready."""
    ready: dict[str, Any] = field(default_factory=dict)
    _twin: Any = None
    _apart: dict[str, Any] = field(init=False)
    """Inputs from outside as the stages that run ahead see them."""

    def __post_init__(self) -> None:
        self.names = ahead_of(planned_inner(stage) for stage in self.region.body)
        self._apart = dict(self.outside)
        for name in self._shared():
            from grape.runtime.core.models import Policy
            from grape.runtime.core.twin import beside

            if isinstance(self.outside[name], Policy):
                self._apart[name] = beside(self.outside[name])

    def _shared(self) -> set[str]:
        """Inputs from outside that are used on both sides."""
        ahead = {ref.stage for one in self._stages for ref in one.inputs.values()}
        rest = [stage for stage in self.region.body if stage.name not in self.names]
        return ahead & {ref.stage for one in rest for ref in one.inputs.values()} & {*self.outside}

    @property
    def _stages(self) -> list[PlannedStage]:
        return [stage for stage in self.region.body if stage.name in self.names]

    def round(self, number: int, last: bool, policy: Any, run: Run) -> dict[str, Any]:
        """Everything that round `number` makes, its next model too. After the `last` one nothing
        is drawn."""
        if not self.ready:
            self.ready, self.drawn = self._draw(number, policy, run), policy.updates
        made = {**self.outside, self.region.name: policy, **self.ready}
        due = [one for one in self.region.body if one.name not in self.names and one.every is None]
        *before, training = due
        assert training.name == self.region.next
        for stage in before:
            made[stage.name] = run(stage, number, made)
        if last:
            made[training.name] = run(training, number, made)
            return made
        from grape.runtime.core.twin import twin_of

        self._twin = twin_of(policy, self._twin)
        if ranks.size() > 1:  # what they tell each other has one order
            made[training.name] = run(training, number, made)
            self.ready, self.drawn = self._draw(number + 1, self._twin, run), self._twin.updates
            return made
        with ThreadPoolExecutor(1, "train") as beside:  # the main thread can interrupt rewards
            trained = beside.submit(run, training, number, dict(made))
            ready = self._draw(number + 1, self._twin, run)
        made[training.name] = trained.result()
        self.ready, self.drawn = ready, self._twin.updates
        return made

    def _draw(self, number: int, policy: Any, run: Run) -> dict[str, Any]:
        found: dict[str, Any] = {**self._apart, self.region.name: policy}
        for stage in self._stages:
            found[stage.name] = run(stage, number, found)
        return {name: found[name] for name in self.names}

    def state_dict(self, work: Path) -> dict[str, Any]:
        """What is ready, as the files that hold its artifacts, and which weights drew it."""
        return {
            "drawn": self.drawn,
            "ready": {name: (made.kind, _files(made, work)) for name, made in self.ready.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any], work: Path) -> None:
        self.drawn = state["drawn"]
        self.ready = {
            name: _loaded(kind, files, work) for name, (kind, files) in state["ready"].items()
        }


def _files(artifact: Any, work: Path) -> dict[str, str]:
    folder = work / "ready.new"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    artifact.save(folder)
    found = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.iterdir())}
    shutil.rmtree(folder)
    return found


def _loaded(kind: str, files: Mapping[str, str], work: Path) -> Any:
    folder = work / "ready.new"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    made = TEXT_ARTIFACTS[kind].load(folder)
    shutil.rmtree(folder)
    return made
