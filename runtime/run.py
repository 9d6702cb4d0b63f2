"""One run of a plan: a Prefect flow, the checks, the outputs, and a record of it all."""

from __future__ import annotations

import contextlib
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from grape.compiler.plan import Plan, PlannedStage
from grape.runtime.artifacts import Report
from grape.runtime.checking import judge
from grape.runtime.errors import StageError
from grape.runtime.outputs import publish
from grape.runtime.process import Cancelled, run_job
from grape.runtime.runs import new_run, write_record
from grape.runtime.server import ensure_server
from grape.runtime.store import Store

_HEAVY = frozenset({"pretrained", "train", "sample", "evaluate", "repeat"})

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
        self.on_event = on_event
        self.result = RunResult(folder.name, folder)
        self._lock = threading.Lock()
        self._machine = threading.Semaphore(1)
        self.keys = {stage.name: stage.key for stage in plan.stages}
        self.kinds = {stage.name: stage.type for stage in plan.stages}

    def emit(self, event: dict[str, Any]) -> None:
        """Record metrics, then tell whoever watches."""
        with self._lock:
            if event["event"] == "metrics":
                row = {name: value for name, value in event.items() if name != "event"}
                path = self.folder / "metrics" / f"{event['stage']}.jsonl"
                with path.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
            self.on_event(event)

    def run_stage(self, stage: PlannedStage) -> str:
        """Make one stage's artifact unless the store has it; its key."""
        if self.stop.is_set():
            raise Cancelled
        if self.store.has(stage.key):
            self._settle(stage, "cached", 0.0)
            return stage.key
        start = time.monotonic()

        def waiting() -> None:
            text = f"{stage.name}: another run is making this; waiting for it"
            self.emit({"event": "note", "text": text})

        try:
            with self.store.lock(stage.key, waiting):
                if not self.store.has(stage.key):
                    with self._turn(stage):
                        run_job(self._job(stage), self.folder, stop=self.stop, emit=self.emit)
        except Cancelled:
            self._settle(stage, "cancelled", time.monotonic() - start)
            raise
        except StageError as error:
            self._settle(stage, "failed", time.monotonic() - start)
            with self._lock:
                self.result.error = self.result.error or error.message
                self.result.hint = self.result.hint or error.hint
            raise
        self._settle(stage, "completed", time.monotonic() - start)
        return stage.key

    @contextlib.contextmanager
    def _turn(self, stage: PlannedStage) -> Iterator[None]:
        """Stages that run a model take turns: two at once share the same cores or the same
        accelerator, and each is then more than twice as slow."""
        heavy = stage.verb in _HEAVY
        while heavy and not self._machine.acquire(timeout=0.2):
            if self.stop.is_set():
                raise Cancelled
        try:
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
        }

    def _settle(self, stage: PlannedStage, state: str, seconds: float) -> None:
        row: dict[str, Any] = {"state": state, "key": stage.key, "seconds": round(seconds, 1)}
        if state in ("completed", "cached"):
            manifest = self.store.manifest(stage.key)
            row["made_in_seconds"] = manifest["seconds"]
            row["peak_bytes"] = manifest["peak_bytes"]
        with self._lock:
            self.result.stages[stage.name] = {**row, "reason": stage.reason}
        self.emit({"event": "settled", "stage": stage.name, **row})

    # --- after the stages ---------------------------------------------------------------------

    def conclude(self) -> None:
        """Judge the checks; publish the outputs only when all pass."""
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


def run_plan(plan: Plan, *, root: Path, on_event: OnEvent) -> RunResult:
    """Run a plan through Prefect and keep its record under `root / "runs"`.

    Events are those of `runtime.context`, and `started` and `settled` of stages. Raises StageError
    when the run cannot begin: no server, no store."""
    store = Store(root / "store")
    store.sweep()
    folder = new_run(root, plan)
    runner = Runner(plan, root, folder, on_event)
    started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    _record(runner, started, "running")
    with _signals(runner.stop):
        try:
            url = ensure_server(lambda text: runner.emit({"event": "note", "text": text}))
            from grape.runtime.flow import run_flow

            run_flow(runner, url)
            if runner.stop.is_set():
                runner.result.state = "cancelled"
            elif runner.result.error:
                runner.result.state = "failed"
            else:
                runner.conclude()
        except StageError as error:
            runner.result.state = "failed"
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


@contextlib.contextmanager
def _signals(stop: threading.Event) -> Iterator[None]:
    """Ctrl-C and SIGTERM set the stop event; every waiting place looks at it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        stop.set()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
