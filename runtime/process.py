"""A task in a process group of its own: events from it, an end to it, and why it ended.

Nothing of the group outlives the call: it is stopped by SIGTERM, a grace period and SIGKILL, and
the life line kills it when this process dies.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grape.runtime.errors import StageError

GRACE = 4.0
"""Seconds between SIGTERM and SIGKILL."""


class Cancelled(Exception):
    """The run was stopped while the task was running."""


def run_job(
    job: dict[str, Any],
    folder: Path,
    *,
    stop: threading.Event,
    emit: Callable[[dict[str, Any]], None],
) -> None:
    """Run one job to its end and pass its events on.

    Raises StageError with the reason when it failed, Cancelled when `stop` was set."""
    name = job["stage"]["name"]
    log = folder / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    events_read, events_write = os.pipe()
    life_read, life_write = os.pipe()
    path = folder / "logs" / f"{name}.job.json"
    path.write_text(json.dumps({**job, "events": events_write, "log": str(log)}), encoding="utf-8")
    command = [sys.executable, "-S", "-E", str(Path(__file__).with_name("lifeline.py"))]
    command += [str(life_read), sys.executable, "-m", "grape.runtime.worker", str(path)]
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(events_write, life_read),
            env={**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1"},
        )
    os.close(events_write)
    os.close(life_read)
    failure: dict[str, Any] | None = None
    try:
        failure = _follow(process, events_read, stop, emit)
    finally:
        _end(process)
        os.close(events_read)
        os.close(life_write)
    if stop.is_set():
        raise Cancelled
    if failure is not None:
        raise StageError(f"`{name}`: {failure['message']}", hint=failure.get("hint"))
    if process.returncode != 0:
        raise StageError(f"`{name}` {_why(process.returncode)}", hint=f"its log is {log}")


def _follow(
    process: subprocess.Popen[bytes],
    descriptor: int,
    stop: threading.Event,
    emit: Callable[[dict[str, Any]], None],
) -> dict[str, Any] | None:
    """Pass events on until the process ends or the run stops; the error it reported, if any."""
    failure = None
    pending = b""
    while not stop.is_set():
        ready, _, _ = select.select([descriptor], [], [], 0.2)
        if not ready:
            if process.poll() is not None:
                break
            continue
        chunk = os.read(descriptor, 65536)
        if not chunk:
            process.wait()
            break
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            event = json.loads(line)
            if event["event"] == "error":
                failure = event
            else:
                emit(event)
    return failure


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nothing of the group is left afterwards."""
    _signal(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    _signal(process.pid, signal.SIGKILL)
    process.wait()


def _signal(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except ProcessLookupError:
        return


def _why(code: int) -> str:
    if code == -signal.SIGKILL:
        return (
            "was killed by the system, most likely because memory ran out; lower `micro_tokens` "
            "or `sequences_per_update`, or train an adapter"
        )
    if code < 0:
        return f"was ended by signal {signal.Signals(-code).name}"
    return f"ended with code {code} and without a reason"
