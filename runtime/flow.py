"""The Prefect flow of a run: one flow run, one task per stage, futures as edges.

Prefect schedules, records and shows; what a stage does and whether it must be done at all is
decided below it. Its settings are read when it is imported, so this module sets them first.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from grape.compiler.plan import PlannedStage
from grape.runtime.errors import StageError
from grape.runtime.process import Cancelled, stopping
from grape.runtime.rehearsal import Trial, trials_of
from grape.runtime.run import is_heavy
from grape.runtime.server import home

if TYPE_CHECKING:
    from grape.runtime.run import Runner

POLL_SECONDS = 2.0
REHEARSAL = "rewards tried"
"""The task before all that run a model; no stage can be called so."""


def _settings(url: str) -> None:
    os.environ["PREFECT_API_URL"] = url
    os.environ.setdefault("PREFECT_HOME", str(home() / "prefect"))
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "false")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_LOGGING_INTERNAL_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_TASKS_DEFAULT_NO_CACHE", "true")
    os.environ.setdefault("PREFECT_RESULTS_PERSIST_BY_DEFAULT", "false")
    direct = ("127.0.0.1", "localhost", os.environ.get("NO_PROXY") or os.environ.get("no_proxy"))
    os.environ["NO_PROXY"] = ",".join(part for part in direct if part)


def run_flow(runner: Runner, url: str) -> None:
    """Run every stage of the plan; how it went is in `runner.result`.

    Raises StageError when Prefect cannot begin the run. A server that is lost later is noted and
    changes nothing: the artifacts are in the store."""
    _settings(url)
    import httpx
    from prefect import flow
    from prefect.exceptions import PrefectException, TerminationSignal
    from prefect.settings import PREFECT_API_URL, temporary_settings

    for name in ("EventsWorker", "prefect", "prefect.events", "prefect._internal"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    begun = threading.Event()

    def body() -> Any:
        begun.set()
        return _body(runner)

    made: Any = flow(name=f"grape {runner.plan.pipeline}", flow_run_name=runner.result.id)(body)
    try:
        with temporary_settings(updates={PREFECT_API_URL: url}):
            made(return_state=True)
    except TerminationSignal:  # SIGTERM before or after the body, where Prefect's handler stands
        runner.stop.set()
    except (PrefectException, httpx.HTTPError, RuntimeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if not begun.is_set():
            raise StageError(
                f"the Prefect server at {url} does not take the run: {reason}",
                hint="`grape server stop` ends the one that Grape owns, and the next run starts it "
                "anew; a server of your own is named by PREFECT_API_URL",
            ) from error
        if len(runner.result.stages) < len(runner.plan.stages) and not runner.stop.is_set():
            raise StageError(
                f"the Prefect server at {url} was lost before every stage had begun: {reason}",
                hint="run again: finished stages are kept",
            ) from error
        runner.emit({"event": "note", "text": f"Prefect did not record the end: {reason}"})


def _body(runner: Runner) -> Any:
    """Submit the stages, wait for them all, and tell Prefect how it went."""
    from prefect.context import FlowRunContext
    from prefect.futures import wait
    from prefect.states import Cancelled as CancelledState
    from prefect.states import Completed, Failed

    from grape.runtime.reporter import Reporter

    context = FlowRunContext.get()
    assert context is not None and context.flow_run is not None
    reporter = Reporter(context.flow_run.id)
    runner.listeners.append(reporter.take)
    watcher = threading.Thread(target=_watch, args=(runner, context.flow_run.id), daemon=True)
    futures: dict[str, Any] = {}
    with stopping(runner.stop):  # Prefect's own SIGTERM handler would not reach the stages
        watcher.start()
        _submit(runner, reporter, futures)
        wait(list(futures.values()))
    reporter.close()
    if runner.stop.is_set():
        return CancelledState(message="stopped by the user")
    if runner.result.error:
        return Failed(message=runner.result.error)
    return Completed(message="every stage is in the store")


def _submit(runner: Runner, reporter: Any, futures: dict[str, Any]) -> None:
    """Begin every stage as soon as its inputs are made; stages that run a model wait, too, until
    the Python rewards that will be asked have been tried on their data."""
    trials = trials_of(runner.plan, runner.store.has)
    tried = {trial.data.stage for trial in trials}
    stages = runner.plan.stages
    for stage in (stage for stage in stages if stage.name in tried):
        futures[stage.name] = _task(runner, stage, reporter).submit({})
    if trials:
        data = {name: futures[name] for name in sorted(tried)}
        futures[REHEARSAL] = _rehearsal(runner, trials).submit(data)
    for stage in (stage for stage in stages if stage.name not in tried):
        inputs = {port: futures[ref.stage] for port, ref in stage.inputs.items()}
        if trials and is_heavy(stage):
            inputs[REHEARSAL] = futures[REHEARSAL]
        futures[stage.name] = _task(runner, stage, reporter).submit(inputs)


def _rehearsal(runner: Runner, trials: Sequence[Trial]) -> Any:
    from prefect import task
    from prefect.states import Cancelled as CancelledState

    def rehearse(inputs: dict[str, str]) -> Any:
        try:
            runner.rehearse(trials)
        except Cancelled:
            return CancelledState(message="stopped by the user")
        return REHEARSAL

    return task(
        name="rehearse", task_run_name=REHEARSAL, tags=["grape", "rehearse"], persist_result=False
    )(rehearse)


def _task(runner: Runner, stage: PlannedStage, reporter: Any) -> Any:
    from prefect import task
    from prefect.context import TaskRunContext
    from prefect.states import Cancelled as CancelledState

    def supervise(inputs: dict[str, str]) -> Any:
        context = TaskRunContext.get()
        assert context is not None
        reporter.began(stage.name, context.task_run.id)
        try:
            return runner.run_stage(stage)
        except Cancelled:
            return CancelledState(message="stopped by the user")

    return task(
        name=stage.verb,
        task_run_name=stage.name.replace("{", "{{").replace("}", "}}"),
        tags=["grape", stage.verb],
        persist_result=False,
    )(supervise)


def _watch(runner: Runner, flow_run: Any) -> None:
    """Set the stop event when the flow run is cancelled from Prefect's side. A server that does
    not answer is no reason to stop training."""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectException

    while not runner.stop.wait(POLL_SECONDS):
        try:
            with get_client(sync_client=True) as client:
                state = client.read_flow_run(flow_run).state
        except (PrefectException, httpx.HTTPError, OSError, RuntimeError):
            continue
        if state is not None and state.type.value in ("CANCELLING", "CANCELLED"):
            runner.stop.set()
        if state is not None and state.is_final():
            return
