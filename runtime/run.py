"""One run of a plan: a Prefect flow, the checks, the outputs, and a record of it all."""

from __future__ import annotations

import contextlib
import json
import threading
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from grape.compiler.plan import Plan, PlannedStage
from grape.runtime.artifacts import Report
from grape.runtime.checking import judge
from grape.runtime.context import file_name
from grape.runtime.errors import StageError
from grape.runtime.outputs import publish
from grape.runtime.process import Cancelled, run_job, stopping
from grape.runtime.rehearsal import Trial
from grape.runtime.runs import new_run, write_record
from grape.runtime.secrets import names_in, reveal
from grape.runtime.server import ensure_server
from grape.runtime.store import COLLECTING, Store
from grape.runtime.trackers import tracking

_HEAVY = frozenset({"pretrained", "train", "sample", "evaluate", "merge", "repeat", "revise"})


def is_heavy(stage: PlannedStage) -> bool:
    """Whether a stage runs a model."""
    return stage.verb in _HEAVY or (stage.verb == "score" and len(stage.inputs) > 1)


OnEvent = Callable[[dict[str, Any]], None]


@dataclass(slots=True)
class RunResult:
    """How a run went. `state` is completed, check-failed, failed or cancelled."""

    id: str
    folder: Path
    state: str = "completed"
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    checks: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    error: str | None = None
    hint: str | None = None

    @property
    def report(self) -> Path:
        """The HTML report."""
        return self.folder / "report.html"


class Runner:
    """What the stages of one run share."""

    def __init__(self, plan: Plan, root: Path, folder: Path, on_event: OnEvent) -> None:
        self.plan = plan
        self.store = Store(root / "store")
        self.folder = folder
        self.stop = threading.Event()
        self.listeners = [on_event]
        self.result = RunResult(folder.name, folder)
        self._lock = threading.Lock()
        self._machine = threading.Semaphore(1)
        self.keys = {stage.name: stage.key for stage in plan.stages}
        self.kinds = {stage.name: stage.type for stage in plan.stages}
        names = [stage.name for stage in plan.stages]
        names += [inner.name for stage in plan.stages for inner in stage.body]
        self._uses = Counter(names)
        self._began: dict[str, float] = {}
        self._spent: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))

    def emit(self, event: dict[str, Any], region: str = "") -> None:
        """Record metrics and times, then tell whoever watches. `region` is the task that the event
        comes from; events of stages inside a repeat carry its name as `region`."""
        with self._lock:
            if event["event"] == "metrics":
                row = {key: value for key, value in event.items() if key != "event"}
                self._append("metrics", event["stage"], region, [row])
            elif event["event"] == "samples":
                rows = [{**row, "round": event["round"]} for row in event["rows"]]
                self._append("samples", event["stage"], region, rows)
            elif event["event"] == "timing":
                self._spent[region][event["stage"]] += event["seconds"]
            inner = region and event.get("stage", region) != region
            heard = {**event, "region": region} if inner else event
            for listener in self.listeners:
                listener(heard)

    def _append(self, kind: str, name: str, region: str, rows: list[dict[str, Any]]) -> None:
        """One file per stage; two repeats whose stages have equal names get two files."""
        place = file_name(name if self._uses[name] == 1 else f"{region}.{name}")
        folder = self.folder / kind
        folder.mkdir(exist_ok=True)
        with (folder / f"{place}.jsonl").open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)

    def run_stage(self, stage: PlannedStage) -> str:
        """Make one stage's artifact unless the store has it; its key."""
        self.go_on()
        if self.store.has(stage.key):
            self._settle(stage, "cached")
            return stage.key

        def waiting() -> None:
            text = f"{stage.name}: another run is making this; waiting for it"
            self.emit({"event": "note", "text": text})

        try:
            with self.store.lock(stage.key, waiting, poll=self.go_on):
                if not self.store.has(stage.key):
                    with self._turn(stage):
                        self._work(stage)
        except Cancelled:
            self._settle(stage, "cancelled")
            raise
        except StageError as error:
            self._failed(stage, error.message, error.hint)
            raise
        except Exception as error:  # the boundary: what nobody foresaw is one line and a log
            log = self.folder / "logs" / f"{file_name(stage.name)}.supervisor.log"
            log.parent.mkdir(exist_ok=True)
            log.write_text(traceback.format_exc(), encoding="utf-8")
            message = f"`{stage.name}`: {type(error).__name__}: {error}"
            self._failed(stage, message, f"see {log}")
            raise
        self._settle(stage, "completed")
        return stage.key

    def rehearse(self, trials: Sequence[Trial]) -> None:
        """Try the Python rewards of stages that will run. Raises StageError for one that fails:
        it is the failure of the stage that it belongs to."""
        for trial in trials:
            self.go_on()
            job = {**self._job(trial.stage), "rehearse": trial.data.model_dump(mode="json")}
            try:
                run_job(job, self.folder, stop=self.stop, emit=self.emit)
            except StageError as error:
                self._failed(trial.owner, error.message, error.hint)
                raise

    def go_on(self) -> None:
        """Raises Cancelled when the run is to stop."""
        if self.stop.is_set():
            raise Cancelled

    def _work(self, stage: PlannedStage) -> None:
        def emit(event: dict[str, Any]) -> None:
            self.emit(event, stage.name)

        run_job(self._job(stage), self.folder, stop=self.stop, emit=emit)

    def _failed(self, stage: PlannedStage, message: str, hint: str | None) -> None:
        """The first failure is the run's reason."""
        self._settle(stage, "failed")
        with self._lock:
            if self.result.error is None:
                self.result.error, self.result.hint = message, hint

    @contextlib.contextmanager
    def _turn(self, stage: PlannedStage) -> Iterator[None]:
        """Stages that run a model take turns: two at once share the same cores or the same
        accelerator, and each is then more than twice as slow."""
        heavy = is_heavy(stage)
        while heavy and not self._machine.acquire(timeout=0.2):
            self.go_on()
        try:
            self._began[stage.name] = time.monotonic()
            self.emit({"event": "started", "stage": stage.name})
            yield
        finally:
            if heavy:
                self._machine.release()

    def _job(self, stage: PlannedStage) -> dict[str, Any]:
        return {
            "stage": stage.model_dump(mode="json"),
            "store": str(self.store.root),
            "project": self.plan.project,
            "keys": self.keys,
            "kinds": self.kinds,
            "versions": self.plan.versions,
            "processes": stage.processes,
        }

    def _settle(self, stage: PlannedStage, state: str) -> None:
        began = self._began.get(stage.name)
        seconds = 0.0 if began is None else time.monotonic() - began
        row: dict[str, Any] = {"state": state, "key": stage.key, "seconds": round(seconds, 1)}
        if state in ("completed", "cached"):
            manifest = self.store.manifest(stage.key)
            row["made_in_seconds"] = manifest["seconds"]
            row["peak_bytes"] = manifest["peak_bytes"]
            row["processes"] = manifest.get("processes", 1)
        if stage.name in self._spent:
            spent = self._spent[stage.name]
            row["body_seconds"] = {name: round(total, 1) for name, total in spent.items()}
        with self._lock:
            self.result.stages[stage.name] = {**row, "reason": stage.reason}
        self.emit({"event": "settled", "stage": stage.name, **row})

    # --- after the stages ---------------------------------------------------------------------

    def conclude(self) -> None:
        """Judge the checks; publish the outputs only when all pass."""
        for stage in self.plan.stages:
            if not self.store.has(stage.key):
                raise StageError(f"`{stage.name}` was not made, and nobody said why")
        reports = {
            stage.name: Report.load(self.store.path(stage.key))
            for stage in self.plan.stages
            if stage.type == "Report"
        }
        verdicts = [judge(check, reports) for check in self.plan.checks]
        self.result.checks = [verdict.to_json() for verdict in verdicts]
        if any(verdict.verdict != "pass" for verdict in verdicts):
            self.result.state = "check-failed"
            return
        for output in self.plan.outputs:
            path = publish(self.plan, output, self.store, self.result.id)
            self.result.outputs.append(str(path))
        self.result.state = "completed"


def run_plan(
    plan: Plan, *, root: Path, on_event: OnEvent, trackers: Sequence[str] = ()
) -> RunResult:
    """Run a plan through Prefect and keep its record under `root / "runs"`.

    `trackers` get its metrics. Events are those of `runtime.context`, and `started` and `settled`
    of stages. Raises StageError when the store cannot be written; a run that fails later says so
    in its result."""
    for name in names_in(plan.stages):
        reveal({"secret": name})  # better now than after an hour of training
    store = Store(root / "store")
    store.sweep()
    started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    with store.lock(COLLECTING):  # `grape gc` must see the run, or the run what gc left
        folder = new_run(root, plan)
        runner = Runner(plan, root, folder, on_event)
        runner.result.state = "failed"  # until it is known to be something else
        _record(runner, started, "running")

    def note(text: str) -> None:
        runner.emit({"event": "note", "text": text})

    with stopping(runner.stop):
        try:
            url = ensure_server(note, poll=runner.go_on)
            from grape.runtime.flow import run_flow

            with tracking(trackers, plan, folder, note) as take:
                runner.listeners.append(take)
                run_flow(runner, url)
            if runner.stop.is_set():
                runner.result.state = "cancelled"
            elif not runner.result.error:
                runner.conclude()
        except Cancelled:
            runner.result.state = "cancelled"
        except StageError as error:
            runner.result.error, runner.result.hint = error.message, error.hint
        finally:
            _record(runner, started, runner.result.state)
    return runner.result


def _record(runner: Runner, started: str, state: str) -> None:
    result = runner.result
    write_record(
        runner.folder,
        {
            "id": result.id,
            "pipeline": runner.plan.pipeline,
            "file": runner.plan.file,
            "state": state,
            "started": started,
            "ended": None if state == "running" else time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "stages": result.stages,
            "checks": result.checks,
            "outputs": result.outputs,
            "error": result.error,
            "hint": result.hint,
        },
    )
