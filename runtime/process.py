"""A task in a process group of its own: events from it, an end to it, and why it ended.

Nothing of the group outlives the call: it is stopped by SIGTERM, a grace period and SIGKILL, and
the life line kills it when this process dies.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from grape.runtime.context import Emit, file_name
from grape.runtime.errors import StageError

GRACE = 4.0
"""Seconds between SIGTERM and SIGKILL."""


_ENVIRONMENT = {
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""Of every worker, where the user sets nothing else. glibc keeps what tensors give back instead of
asking the system for new pages at each step; threads that wait for each other sleep instead of
spinning, which on a machine with other work made every operation many times slower."""


class Cancelled(Exception):
    """The run was stopped while the task was running."""


@contextlib.contextmanager
def stopping(stop: threading.Event) -> Iterator[None]:
    """Ctrl-C and SIGTERM set the event; every waiting place looks at it. Outside the main thread,
    where signals cannot be caught, nothing changes."""
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


def run_job(
    job: dict[str, Any],
    folder: Path,
    *,
    stop: threading.Event,
    emit: Emit,
) -> None:
    """Run one job to its end and pass its events on.

    Raises StageError with the reason when it failed, Cancelled when `stop` was set."""
    name = job["stage"]["name"]
    log = folder / "logs" / f"{file_name(name)}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    events_read, events_write = os.pipe()
    life_read, life_write = os.pipe()
    heard = _Heard(emit)
    try:
        try:
            process = _start(job, log, events_write, life_read)
        finally:
            os.close(events_write)
            os.close(life_read)
        try:
            _follow(process, events_read, stop, heard)
        finally:
            _end(process)
    finally:
        os.close(events_read)
        os.close(life_write)
    if stop.is_set():
        raise Cancelled
    if heard.failure is not None:
        raise StageError(
            f"`{name}`: {heard.failure['message']}",
            hint=heard.failure.get("hint"),
            code=heard.failure.get("code"),
        )
    if process.returncode != 0:
        why = _why(process.returncode, heard.place)
        raise StageError(f"`{name}` {why}", hint=f"its log is {log}")


def _start(job: dict[str, Any], log: Path, events: int, life: int) -> subprocess.Popen[bytes]:
    path = log.with_suffix(".job.json")
    path.write_text(json.dumps({**job, "events": events, "log": str(log)}), encoding="utf-8")
    command = [sys.executable, "-S", "-E", str(Path(__file__).with_name("lifeline.py"))]
    command += [str(life), sys.executable, "-m", "grape.runtime.worker", str(path)]
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(events, life),
            env={**_ENVIRONMENT, **os.environ},
        )


class _Heard:
    """What a job said so far: where it was, and the error that it ended with."""

    def __init__(self, emit: Callable[[dict[str, Any]], None]) -> None:
        self.emit = emit
        self.failure: dict[str, Any] | None = None
        self.place = ""

    def take(self, line: bytes) -> None:
        event = json.loads(line)
        if event["event"] == "error":
            self.failure = event
            return
        if event["event"] == "progress":
            self.place = f" after {event['done']} of {event['total']} {event['unit']}"
        self.emit(event)


def _follow(
    process: subprocess.Popen[bytes], descriptor: int, stop: threading.Event, heard: _Heard
) -> None:
    """Pass events on until the process ends or the run stops."""
    pending = b""
    while not stop.is_set():
        ready, _, _ = select.select([descriptor], [], [], 0.2)
        if not ready:
            if process.poll() is not None:
                break
            continue
        chunk = os.read(descriptor, 65536)
        if not chunk:
            _wait(process, stop)
            break
        *lines, pending = (pending + chunk).split(b"\n")
        for line in lines:
            heard.take(line)


def _wait(process: subprocess.Popen[bytes], stop: threading.Event) -> None:
    """Until a process that has nothing more to say ends, or the run stops."""
    while process.poll() is None and not stop.wait(0.05):
        pass


def _end(process: subprocess.Popen[bytes]) -> None:
    """Nothing of the group is left afterwards."""
    _signal(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    _signal(process.pid, signal.SIGKILL)
    process.wait()


def _signal(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _why(code: int, place: str) -> str:
    if code == -signal.SIGKILL:
        return (
            f"was killed by the system{place}, most likely because memory ran out; lower "
            "`micro_tokens` or `sequences_per_update`, or train an adapter"
        )
    if code < 0:
        return f"was ended by signal {signal.Signals(-code).name}{place}"
    return f"ended with code {code}{place} and without a reason"
