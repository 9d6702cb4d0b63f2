"""A task in a process group of its own: events from it, an end to it, and why it ended.

Nothing of the group outlives the call: it is stopped by SIGTERM, a grace period and SIGKILL, and
the life line kills it when this process dies. Where several processes make a task, torch's launcher
stands between, and the first thing that went wrong in any of them is the reason.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from grape.runtime.context import Emit, file_name
from grape.runtime.devices import cores
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
    life_read, life_write = os.pipe()
    heard = Heard(emit, name, job.get("processes", 1))
    with _pipe(heard.processes) as (events_read, events_write, known_as):
        try:
            try:
                process = _start({**job, "events": known_as}, log, events_write, life_read)
            finally:
                os.close(events_write)
                os.close(life_read)
            try:
                _follow(process, events_read, stop, heard)
            finally:
                _end(process, heard.pids)
        finally:
            os.close(life_write)
    if stop.is_set():
        raise Cancelled
    reason = heard.reason(process.returncode, log)
    if reason is not None:
        raise reason


@contextlib.contextmanager
def _pipe(processes: int) -> Iterator[tuple[int, int, int | str]]:
    """Both ends of a pipe for events, and what a worker opens it by: its number, or a name where
    a launcher comes between, which hands on no descriptors. The reader closes at the end."""
    with contextlib.ExitStack() as stack:
        if processes == 1:
            read, write = os.pipe()
            known_as: int | str = write
        else:
            place = stack.enter_context(tempfile.TemporaryDirectory(prefix="grape-"))
            known_as = f"{place}/events"
            os.mkfifo(known_as, 0o600)
            read = os.open(known_as, os.O_RDONLY | os.O_NONBLOCK)
            write = os.open(known_as, os.O_WRONLY)
            os.set_blocking(read, True)
        stack.callback(os.close, read)
        yield read, write, known_as


def _start(job: dict[str, Any], log: Path, events: int, life: int) -> subprocess.Popen[bytes]:
    path = log.with_suffix(".job.json")
    path.write_text(json.dumps({**job, "log": str(log)}), encoding="utf-8")
    several = job.get("processes", 1) > 1
    module = "grape.runtime.launcher" if several else "grape.runtime.worker"
    command = [sys.executable, "-S", "-E", str(Path(__file__).with_name("lifeline.py"))]
    command += [str(life), sys.executable, "-m", module, str(path)]
    threads = {"OMP_NUM_THREADS": str(max(1, cores() // job["processes"]))} if several else {}
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(events, life),
            env={**_ENVIRONMENT, **threads, **os.environ},
        )


class Heard:
    """What a job said so far: where it was, the errors that it ended with, and its processes."""

    def __init__(self, emit: Callable[[dict[str, Any]], None], name: str, processes: int) -> None:
        self.emit, self.name, self.processes = emit, name, processes
        self.failures: list[dict[str, Any]] = []
        self.codes: dict[int, int] = {}
        """How the processes that failed ended, as their launcher tells."""
        self.pids: list[int] = []
        self.place = ""

    def take(self, line: bytes) -> None:
        event = json.loads(line)
        match event["event"]:
            case "error":
                self.failures.append(event)
            case "process":
                self.pids.append(event["pid"])
            case "ended":
                self.codes = dict(event["codes"])
            case _:
                if event["event"] == "progress":
                    self.place = f" after {event['done']} of {event['total']} {event['unit']}"
                self.emit(event)

    def reason(self, code: int, log: Path) -> StageError | None:
        """Why the job failed; none when it did not. An error that only says that another process
        is gone gives way to how that one ended."""
        told = [failure for failure in self.failures if not failure.get("lost")]
        if told:
            return self._told(told)
        killed = {
            rank: end for rank, end in self.codes.items() if end < 0 and end != -signal.SIGTERM
        }
        for rank, end in sorted(killed.items()):
            return StageError(
                f"G915: {self._of(rank)} of `{self.name}` {_why(end, self.place)}",
                hint="each process holds the whole model and its optimizer; the log is "
                f"{log} (`grape explain G915`)",
                code="G915",
            )
        if self.failures:
            return self._told(self.failures)
        if code != 0:
            return StageError(f"`{self.name}` {_why(code, self.place)}", hint=f"its log is {log}")
        return None

    def _told(self, failures: list[dict[str, Any]]) -> StageError:
        """The first error, and whose it is unless all say the same."""
        first = failures[0]
        alike = {failure.get("rank") for failure in failures if _same(failure, first)}
        whose = f" {self._of(first['rank'])}{self.place}:" if len(alike) < self.processes else ""
        message = f"`{self.name}`:{whose} {first['message']}"
        return StageError(message, hint=first.get("hint"), code=first.get("code"))

    def _of(self, rank: int) -> str:
        return f"process {rank + 1} of {self.processes}"


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    return bool(one["message"] == other["message"])


def _follow(
    process: subprocess.Popen[bytes], descriptor: int, stop: threading.Event, heard: Heard
) -> None:
    """Pass events on until the process ends or the run stops."""
    pending = b""
    while not stop.is_set():
        ended = process.poll() is not None  # asked before, so that its last words are read
        ready, _, _ = select.select([descriptor], [], [], 0.2)
        if not ready:
            if ended:
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


def _end(process: subprocess.Popen[bytes], others: Iterable[int] = ()) -> None:
    """Nothing of the group is left afterwards; `others` have groups of their own."""
    _signal(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    _signal(process.pid, signal.SIGKILL)
    process.wait()
    if process.returncode == 0:
        return
    for group in others:
        _signal(group, signal.SIGKILL)
    deadline = time.monotonic() + GRACE
    while any(map(_lives, others)) and time.monotonic() < deadline:
        time.sleep(0.02)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


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
