"""The Prefect flow of a run: one flow run, one task per stage, futures as edges.

Prefect schedules, records and shows; what a stage does and whether it must be done at all is
decided below it. Its settings are read when it is imported, so this module sets them first.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING, Any

from grape.runtime.errors import StageError
from grape.runtime.process import Cancelled
from grape.runtime.server import home

if TYPE_CHECKING:
    from grape.runtime.run import Runner

POLL_SECONDS = 2.0


def _settings(url: str) -> None:
    os.environ["PREFECT_API_URL"] = url
    os.environ.setdefault("PREFECT_HOME", str(home() / "prefect"))
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_SERVER_ALLOW_EPHEMERAL_MODE", "false")
    os.environ.setdefault("PREFECT_LOGGING_LEVEL", "CRITICAL")
    os.environ.setdefault("PREFECT_TASKS_DEFAULT_NO_CACHE", "true")
    os.environ.setdefault("PREFECT_RESULTS_PERSIST_BY_DEFAULT", "false")


def run_flow(runner: Runner, url: str) -> None:
    """Run every stage of the plan; how it went is in `runner.result`."""
    _settings(url)
    from prefect import flow, task
    from prefect.futures import wait
    from prefect.states import Cancelled as CancelledState
    from prefect.states import Completed, Failed

    for name in ("EventsWorker", "prefect", "prefect.events", "prefect._internal"):
        logging.getLogger(name).setLevel(logging.CRITICAL)

    def body() -> Any:
        futures: dict[str, Any] = {}
        for stage in runner.plan.stages:
            made = task(
                name=stage.verb,
                task_run_name=stage.name,
                tags=["grape", stage.verb],
                persist_result=False,
            )(lambda inputs, stage=stage: runner.run_stage(stage))
            inputs = {port: futures[ref.stage] for port, ref in stage.inputs.items()}
            futures[stage.name] = made.submit(inputs)
        watcher = threading.Thread(target=_watch, args=(runner,), daemon=True)
        watcher.start()
        wait(list(futures.values()))
        if runner.stop.is_set():
            return CancelledState(message="stopped by the user")
        if runner.result.error:
            return Failed(message=runner.result.error)
        return Completed(message="every stage is in the store")

    made: Any = flow(name=f"grape {runner.plan.pipeline}", flow_run_name=runner.result.id)(body)
    try:
        state = made(return_state=True)
    except (Cancelled, StageError):
        return
    if not (state.is_completed() or runner.stop.is_set() or runner.result.error):
        raise StageError(
            f"Prefect ended the run as {state.name}: {state.message or 'no reason given'}",
            hint="`grape server status` shows the server; its log is beside its database",
        )


def _watch(runner: Runner) -> None:
    """Set the stop event when the flow run is cancelled from Prefect's side. A server that does
    not answer is no reason to stop training."""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectException

    name = runner.result.id
    while not runner.stop.wait(POLL_SECONDS):
        try:
            with get_client(sync_client=True) as client:
                from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName

                runs = client.read_flow_runs(
                    flow_run_filter=FlowRunFilter(name=FlowRunFilterName(any_=[name]))
                )
        except (PrefectException, httpx.HTTPError, OSError):
            continue
        if (
            runs
            and runs[0].state is not None
            and runs[0].state.type.value in ("CANCELLING", "CANCELLED")
        ):
            runner.stop.set()
        if runs and runs[0].state is not None and runs[0].state.is_final():
            return
