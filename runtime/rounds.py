"""The rounds of a repeat: its stages in order, evaluations of `every`, and `until` that ends it.

Model, optimizer and every stage's state stay resident; nothing is written but metrics, checkpoints
and the reports that the rounds make, which become part of the repeat's artifact. A repeat that was
cut off goes on from its checkpoint and ends with the same bytes.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar

from grape.compiler.plan import PlannedStage, PlannedUntil, Ref
from grape.runtime import ranks
from grape.runtime.ahead import Ahead
from grape.runtime.artifacts import Completion, Report, Rollouts
from grape.runtime.checking import Unknown, report_metric, value_of
from grape.runtime.context import Context, Emit, Finished, answers_of, file_name
from grape.runtime.curriculum import measure
from grape.runtime.rewards.overlap import Overlap, overlapping
from grape.runtime.store import readable_errors
from grape.runtime.verbs import run_of
from grape.runtime.verbs.sample import rates_of

Open = Callable[[Ref], Any]
More = Callable[[int], Rollouts]
REPORTS = "reports"
"""The folder of a repeat's artifact with the reports of its rounds: `STAGE/ROUND/`."""
ENDED = "ended.json"
"""In that folder: how many rounds there were, and which `until` ended them."""
_SECONDS = 300.0


@dataclass(slots=True)
class Carried:
    """The last model of a repeat, and the folder with the reports that its rounds made."""

    kind: ClassVar[str] = "Model"
    policy: Any
    reports: Path

    def save(self, folder: Path) -> None:
        self.policy.save(folder)
        if self.reports.is_dir():
            shutil.copytree(self.reports, folder / REPORTS)


@dataclass(slots=True)
class _Rounds:
    """One repeat while it runs."""

    region: PlannedStage
    project: Path
    work: Path
    emit: Emit
    outside: dict[str, Any]
    states: dict[str, dict[str, Any]] = field(default_factory=dict)
    reports: dict[str, Report] = field(default_factory=dict)
    """The newest report of each stage that makes one."""
    logged: dict[str, dict[str, Any]] = field(default_factory=dict)
    """The last metrics that each stage told in this round."""
    last: dict[str, Any] = field(default_factory=dict)
    """What the round has made, by stage."""
    ahead: Ahead | None = None
    """With `staleness = 1`: what is drawn for the next round."""

    overlaps: dict[str, Overlap] = field(default_factory=dict)
    """By stages that score: what does so while completions are still being drawn."""

    def __post_init__(self) -> None:
        if self.region.settings.get("staleness"):
            self.ahead = Ahead(self.region, self.outside)
        for stage in self.region.body:
            alone = ranks.size() == 1  # else no process has all completions of a round
            if stage.verb == "score" and stage.every is None and alone:
                critics = {port: self.outside.get(ref.stage) for port, ref in stage.inputs.items()}
                answers = answers_of(self.work)
                overlap = overlapping(stage, self.project, critics, answers)
                if overlap is not None:
                    self.overlaps[stage.name] = overlap

    def round(self, number: int, policy: Any) -> Any:
        """Run one round and give the next model."""
        self.logged.clear()
        if self.ahead is not None:
            last = number + 1 == self.region.settings["rounds"]
            made = self.ahead.round(number, last, policy, self._run)
        else:
            made = {**self.outside, self.region.name: policy}
            for stage in self.region.body:
                if stage.every is None:
                    made[stage.name] = self._run(stage, number, made)
        assert self.region.next is not None
        made[self.region.name] = made[self.region.next]
        for stage in self.region.body:
            if stage.every is not None and (number + 1) % stage.every == 0:
                made[stage.name] = self._run(stage, number, made)
        self.last = made
        return made[self.region.name]

    def _context(self, stage: PlannedStage, number: int) -> Context:
        return Context(
            stage,
            self.project,
            self.work,
            self._hear(stage),
            round=number,
            rounds=self.region.settings["rounds"],
            state=self.states.setdefault(stage.name, {}),
            finished=self._hearers(stage),
            apart=self.overlaps.get(stage.name),
            drawn=self.ahead.drawn if self.ahead is not None else None,
        )

    def _hearers(self, sampler: PlannedStage) -> Finished | None:
        """For a sampler: those that score its completions as they come."""
        found = [
            self.overlaps[stage.name]
            for stage in self.region.body
            if stage.name in self.overlaps and stage.inputs["rollouts"].stage == sampler.name
        ]
        if not found:
            return None

        def finished(rows: Sequence[Completion], environment: Any, turn: object) -> None:
            for overlap in found:
                overlap.take(rows, environment, turn)

        return finished

    def _more(self, stage: PlannedStage, number: int, made: Mapping[str, Any]) -> More:
        """For a selection: its samplers and what follows them once more, with other prompts. The
        metrics of a round are those of its first attempt."""
        body = {inner.name: inner for inner in self.region.body}
        chain: list[PlannedStage] = []
        source = body.get(stage.inputs["rollouts"].stage)
        while source is not None:
            chain.append(source)
            above = source.inputs.get("rollouts")
            source = body.get(above.stage) if above is not None else None

        def more(attempt: int) -> Rollouts:
            again = dict(made)
            for inner in reversed(chain):
                context = replace(self._context(inner, number), attempt=attempt)
                context.emit = _only_notes(context.emit)
                inputs = {port: again[ref.stage] for port, ref in inner.inputs.items()}
                again[inner.name] = run_of(inner.verb)(context, inputs)
                self._measure(inner, again[inner.name])
            found: Rollouts = again[chain[0].name]
            return found

        return more

    def _measure(self, stage: PlannedStage, made: Any) -> None:
        """What a reward says about prompts that their sampler chooses by it."""
        if stage.verb != "score" or stage.every is not None:
            return
        body = {inner.name: inner for inner in self.region.body}
        source = body.get(stage.inputs["rollouts"].stage)
        how = source.settings.get("curriculum") if source is not None else None
        if source is not None and how is not None and how["kind"] == "by_rate":
            measure(rates_of(self._context(source, 0)), how, made.rows)

    def _run(self, stage: PlannedStage, number: int, made: Mapping[str, Any]) -> Any:
        context = self._context(stage, number)
        if stage.verb == "keep":
            context.more = self._more(stage, number, made)
        start = time.monotonic()
        artifact = run_of(stage.verb)(
            context, {port: made[ref.stage] for port, ref in stage.inputs.items()}
        )
        self._measure(stage, artifact)
        seconds = round(time.monotonic() - start, 3)
        self.emit({"event": "timing", "stage": stage.name, "round": number, "seconds": seconds})
        if isinstance(artifact, Report):
            self.reports[stage.name] = artifact
            self._keep(stage.name, number, artifact)
        return artifact

    def _hear(self, stage: PlannedStage) -> Emit:
        def emit(event: dict[str, Any]) -> None:
            told = {"stage": stage.name, **event}
            if told["event"] == "metrics":
                self.logged[stage.name] = {**self.logged.get(stage.name, {}), **told}
            self.emit(told)

        return emit

    def _keep(self, name: str, number: int, report: Report) -> None:
        """Write a report of a round, whole or not at all."""
        if not ranks.first():
            return
        fresh = self.work / "report.new"
        target = self.work / REPORTS / file_name(name) / f"{number + 1:06d}"
        with readable_errors(self.work):
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            report.save(fresh)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(target, ignore_errors=True)
            fresh.replace(target)

    def take_back(self, done: int) -> None:
        """Of the reports that an earlier attempt kept, those of the rounds that count."""
        for stage in self.region.body:
            folder = self.work / REPORTS / file_name(stage.name)
            for kept in sorted(folder.glob("*")):
                if int(kept.name) <= done:
                    self.reports[stage.name] = Report.load(kept)
                elif ranks.first():
                    shutil.rmtree(kept)

    def ended_by(self) -> PlannedUntil | None:
        """The first `until` that holds. What no round has made yet ends nothing."""
        for until in self.region.until:
            try:
                if value_of(until.test, self._metric):
                    return until
            except (Unknown, ZeroDivisionError):
                continue
        return None

    def _metric(self, test: dict[str, Any]) -> float:
        name = test["stage"]
        if name in self.reports:
            return report_metric(test, self.reports[name])
        made = self.last.get(name)
        if isinstance(made, Rollouts):
            return _of_rollouts(test, made)
        value = self.logged.get(name, {}).get(test["name"])
        if not isinstance(value, int | float):
            raise Unknown
        return float(value)


def _only_notes(emit: Emit) -> Emit:
    def told(event: dict[str, Any]) -> None:
        if event["event"] in ("note", "progress"):
            emit(event)

    return told


def _of_rollouts(test: dict[str, Any], rollouts: Rollouts) -> float:
    rows = rollouts.rows
    if not rows:
        raise Unknown
    match test["name"]:
        case "part":
            return fmean(row.parts[test["args"][0]] for row in rows)
        case "length":
            return fmean(row.drawn for row in rows)
        case "truncated":
            return fmean(row.truncated for row in rows)
    return fmean(row.reward for row in rows if row.reward is not None)


def run_rounds(
    region: PlannedStage, open_input: Open, *, project: Path, work: Path, emit: Emit
) -> Carried:
    """Run a repeat to its end or to its `until`."""
    rounds = region.settings["rounds"]
    own = {region.name, *(inner.name for inner in region.body)}
    outside = {  # the carried model is trained in place, so a reference has weights of its own
        ref.stage: open_input(Ref(stage=ref.stage))
        for stage in region.body
        for ref in stage.inputs.values()
        if ref.stage not in own
    }
    policy = open_input(region.inputs["start"])
    running = _Rounds(region, project, work, emit, outside)
    running.states = {stage.name: {} for stage in region.body}
    first = _restore(work, policy, running.states, rounds, running.ahead)
    running.take_back(first)
    try:
        policy, number, ended = _go(running, policy, first)
    finally:
        for overlap in running.overlaps.values():
            overlap.close()
    if region.family:  # what a longer repeat goes on from
        _save(work, policy, running.states, number, rounds, running.ahead)
    _conclude(running, number, ended)
    return Carried(policy, work / REPORTS)


def _go(running: _Rounds, policy: Any, number: int) -> tuple[Any, int, PlannedUntil | None]:
    """The rounds from `number` on: the last model, how many there were, and what ended them."""
    region, rounds = running.region, running.region.settings["rounds"]
    every = min(
        (stage.settings["checkpoint"] for stage in region.body if stage.verb == "train"),
        default=_SECONDS,
    )
    saved = time.monotonic()
    ended = None
    while number < rounds and ended is None:
        policy = running.round(number, policy)
        number += 1
        progress = {"stage": region.name, "done": number, "total": rounds, "unit": "rounds"}
        running.emit({"event": "progress", **progress})
        ended = running.ended_by()
        if ended is None and time.monotonic() - saved > every and number < rounds:
            _save(running.work, policy, running.states, number, rounds, running.ahead)
            saved = time.monotonic()
    return policy, number, ended


def _conclude(running: _Rounds, number: int, ended: PlannedUntil | None) -> None:
    """Note how the rounds ended where anything could end them or was measured."""
    region = running.region
    if ended is not None:
        total = region.settings["rounds"]
        text = f"`{region.name}` ended after {number} of {total} rounds: {ended.text}"
        running.emit({"event": "note", "text": text})
    if ranks.first() and (region.until or running.reports):
        folder = running.work / REPORTS
        folder.mkdir(exist_ok=True)
        how = {"rounds": number, "until": ended.text if ended else None}
        (folder / ENDED).write_text(json.dumps(how), encoding="utf-8")


def _save(
    work: Path,
    policy: Any,
    states: dict[str, dict[str, Any]],
    done: int,
    rounds: int,
    ahead: Ahead | None = None,
) -> None:
    """A checkpoint between two rounds, whole or not at all: the last one stays until then. Of
    several processes the first one writes."""
    if not ranks.first():
        return
    import torch

    target = work / "checkpoint"
    fresh = work / "state.pt.new"
    trainers = {
        name: state["trainer"].state_dict() for name, state in states.items() if "trainer" in state
    }
    with readable_errors(work), fresh.open("wb") as file:
        torch.save(
            {
                **policy.state_dict(),
                "adapter": policy.adapter,
                "trainers": trainers,
                "memories": {name: state.get("memory") for name, state in states.items()},
                "ahead": ahead.state_dict(work) if ahead is not None else None,
                "done": done,
                "rounds": rounds,
            },
            file,
        )
        file.flush()
        os.fsync(file.fileno())
    target.mkdir(exist_ok=True)
    fresh.replace(target / "state.pt")


def _restore(
    work: Path,
    policy: Any,
    states: dict[str, dict[str, Any]],
    rounds: int,
    ahead: Ahead | None = None,
) -> int:
    """Put the last checkpoint back; the round to go on with. One of a shorter repeat counts the
    updates of fewer rounds in all."""
    path = work / "checkpoint" / "state.pt"
    if not path.is_file():
        return 0
    import torch

    saved = torch.load(path, weights_only=True, map_location=policy.device)
    if saved["adapter"]:
        wrapped = policy.with_adapter(saved["adapter"])
        policy.model, policy.adapter = wrapped.model, wrapped.adapter
    policy.load_state_dict(saved)
    for name, state in saved["trainers"].items():
        total = state["total"] // saved["rounds"] * rounds
        states[name]["resume"] = {**state, "total": total}
    for name, memory in saved.get("memories", {}).items():
        if memory is not None:
            states[name]["memory"] = memory
    if ahead is not None:
        ahead.load_state_dict(saved["ahead"], work)
    return int(saved["done"])
