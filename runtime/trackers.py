"""Metrics of a run to experiment trackers: TensorBoard, W&B, MLflow, trackio and their like.

In come the run's events, out go its metrics, through accelerate's adapters, from a thread of its
own: training never waits for a tracker, and one that breaks is named once and left out. How a
tracker is reached (keys, folders, offline) is said as its own documentation says it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grape.compiler.plan import Plan
from grape.runtime.errors import StageError, UsageError

if TYPE_CHECKING:
    from accelerate.tracking import GeneralTracker

TRACKERS = {
    "mlflow": ("mlflow",),
    "tensorboard": ("tensorboard", "tensorboardX"),
    "trackio": ("trackio",),
    "wandb": ("wandb",),
}
"""The names of trackers and the packages, any of which serves."""

_PATIENCE = 30.0
"""Seconds after the run that trackers have for what is left."""

Take = Callable[[dict[str, Any]], None]


def available(names: Sequence[str]) -> list[str]:
    """The names, each once. Raises UsageError for one that is unknown or not installed."""
    for name in names:
        if name not in TRACKERS:
            raise UsageError(f"there is no tracker `{name}`; there are {', '.join(TRACKERS)}")
        if not any(map(importlib.util.find_spec, TRACKERS[name])):
            raise UsageError(
                f"the tracker `{name}` is not installed",
                hint=f"pip install {TRACKERS[name][0]}, or leave `--track {name}` out",
            )
    return list(dict.fromkeys(names))


@contextlib.contextmanager
def tracking(
    names: Sequence[str], plan: Plan, folder: Path, note: Callable[[str], None]
) -> Iterator[Take]:
    """A listener for events that sends metrics to the trackers until the run ends.

    `stage/value` at step n is the n-th row of metrics of the whole run; `stage/round` and
    `stage/update` stand beside it. Raises StageError when a tracker cannot begin."""
    if not names:
        yield lambda event: None
        return
    trackers = {name: _started(name, plan, folder) for name in names}
    rows: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
    thread = threading.Thread(target=_send, args=(trackers, rows, note), daemon=True)
    thread.start()
    try:
        yield lambda event: rows.put(event) if event["event"] == "metrics" else None
    finally:
        rows.put(None)
        thread.join(_PATIENCE)
        if thread.is_alive():
            note(f"a tracker has not taken all within {_PATIENCE:.0f} s; the rest is lost to it")


def configuration(plan: Plan) -> dict[str, str | int | float | bool]:
    """What a tracker shows as the run's settings: those of every stage, flat."""
    flat: dict[str, str | int | float | bool] = {"pipeline": plan.pipeline, "file": plan.file}
    inner = [stage for region in plan.stages for stage in region.body]
    for stage in [*plan.stages, *inner]:
        for name, value in stage.settings.items():
            plain = isinstance(value, str | int | float)
            flat[f"{stage.name}.{name}"] = value if plain else json.dumps(value)
    return flat


def _started(name: str, plan: Plan, folder: Path) -> GeneralTracker:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    kind = LOGGER_TYPE_TO_CLASS[name]
    title = folder.name
    arguments: dict[str, dict[str, Any]] = {
        "mlflow": {"experiment_name": plan.pipeline, "run_name": title},
        "tensorboard": {"run_name": "tensorboard", "logging_dir": folder},
        "trackio": {"run_name": plan.pipeline, "name": title},
        "wandb": {"run_name": plan.pipeline, "name": title},
    }
    try:
        tracker = kind(**arguments[name])
        tracker.start()
        tracker.store_init_configuration(configuration(plan))
    except Exception as error:  # each tracker has exceptions of its own
        raise StageError(
            f"the tracker `{name}` could not begin: {error}",
            hint=f"set it up as its documentation says, or leave `--track {name}` out; nothing ran",
        ) from error
    return tracker


def _send(
    trackers: dict[str, GeneralTracker],
    rows: queue.SimpleQueue[dict[str, Any] | None],
    note: Callable[[str], None],
) -> None:
    step = 0
    while (row := rows.get()) is not None:
        values = _values(row)
        _each(trackers, lambda tracker: tracker.log(values, step=step), note)  # noqa: B023
        step += 1
    _each(trackers, lambda tracker: tracker.finish(), note)


def _values(row: dict[str, Any]) -> dict[str, float]:
    """`stage/name` for every number of a row of metrics."""
    place = row["stage"] if row.get("region") is None else f"{row['region']}/{row['stage']}"
    return {f"{place}/{k}": v for k, v in row.items() if isinstance(v, int | float)}


def _each(
    trackers: dict[str, GeneralTracker],
    do: Callable[[GeneralTracker], None],
    note: Callable[[str], None],
) -> None:
    for name, tracker in list(trackers.items()):
        try:
            do(tracker)
        except Exception as error:  # each tracker has exceptions of its own
            del trackers[name]
            note(f"the tracker `{name}` broke and gets nothing more: {error}")
