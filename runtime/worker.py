"""`python -m grape.runtime.worker JOB.json`: one task of a run in a process of its own, or one of
the processes that make it together.

Events go as JSON lines to the pipe that the job names; everything that libraries print goes to the
log. The artifact is published before the process ends, or not at all.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shutil
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from grape.compiler.plan import PlannedStage, Ref
from grape.runtime import ranks
from grape.runtime.errors import StageError
from grape.runtime.execute import execute, load_artifact
from grape.runtime.secrets import names_in, scrubbed
from grape.runtime.store import Store, readable_errors
from grape.runtime.verbs import ready


class Events:
    """A pipe to the run, by number or by name, one JSON object per line; safe from several threads
    and processes."""

    def __init__(self, pipe: int | str) -> None:
        self._pipe = open(pipe, "w", encoding="utf-8")  # noqa: SIM115
        self._lock = threading.Lock()
        self.secrets: list[str] = []
        """Variables whose values no event may tell."""

    def emit(self, event: dict[str, Any]) -> None:
        line = json.dumps(scrubbed(event, self.secrets)) + "\n"
        with self._lock:
            fcntl.flock(self._pipe, fcntl.LOCK_EX)
            try:
                self._pipe.write(line)
                self._pipe.flush()
            finally:
                fcntl.flock(self._pipe, fcntl.LOCK_UN)

    def of_first(self, event: dict[str, Any]) -> None:
        """Of several processes the first one speaks."""
        if ranks.first():
            self.emit(event)


def main(argv: list[str]) -> int:
    job = json.loads(Path(argv[1]).read_text(encoding="utf-8"))
    told: dict[str, Any] = {"event": "error"}
    several = job.get("processes", 1) > 1
    if several:  # before the pipe is opened, which waits for a reader
        _live_with(int(os.environ[LAUNCHER]))
    events = Events(job["events"])
    if several:
        told["rank"] = int(os.environ["RANK"])
        events.emit({"event": "process", "rank": told["rank"], "pid": os.getpid()})
    try:
        _run(job, events)
    except StageError as error:
        told |= {"message": error.message, "hint": error.hint, "code": error.code}
        events.emit(told)
        return 1
    except Exception as error:
        story = {"text": traceback.format_exc()}
        print(scrubbed(story, events.secrets)["text"], file=sys.stderr)
        events.emit({**told, "lost": _lost_another(error), **_reason(error, job)})
        return 1
    return 0


def _live_with(launcher: int) -> None:
    """End when the launcher is gone: it put this process in a session of its own, which no signal
    to the run's group reaches."""

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(_GLANCE)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def _lost_another(error: Exception) -> bool:
    """Whether an error only says that another process is gone."""
    return any(words in str(error) for words in _GONE)


LAUNCHER = "GRAPE_LAUNCHER"
"""Where the launcher of several processes notes its own id."""
_GLANCE = 0.3
_GONE = ("gloo/transport", "Connection closed by peer", "Connection reset by peer", "NCCL error")
_NO_MEMORY = ("out of memory", "can't allocate memory", "Cannot allocate memory")
_NO_ROOM = ("No space left on device", "file write failed")


def _reason(error: Exception, job: dict[str, Any]) -> dict[str, str]:
    """An error that no stage foresaw, in one line. Libraries tell of a full memory or a full disk
    by errors of their own, known by their words only."""
    text = str(error)
    if isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY):
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
        return {
            "message": "G910: memory ran out; this process had used "
            f"{used:.1f} GiB of the machine's",
            "hint": "lower `micro_tokens` or `sequences_per_update`, or train an adapter "
            "(`grape explain G910`)",
            "code": "G910",
        }
    if any(words in text for words in _NO_ROOM):
        return {
            "message": f"the disk that holds {job['store']} is full",
            "hint": "make room there, and run again: finished stages are kept",
        }
    first = (text.splitlines() or [""])[0]
    return {
        "message": f"{type(error).__name__}: {first}",
        "hint": f"the whole story is in {job['log']}",
    }


def _run(job: dict[str, Any], events: Events) -> None:
    stage = PlannedStage.model_validate(job["stage"])
    events.secrets = names_in([stage])
    store = Store(Path(job["store"]))
    kinds: dict[str, str] = job["kinds"]
    keys: dict[str, str] = job["keys"]
    start = time.monotonic()
    if "rehearse" in job:
        _rehearse(job, stage, store, events)
        return
    ready(inner.verb for inner in stage.body or [stage])
    processes = job.get("processes", 1)
    if processes > 1:
        ranks.join(processes)
    if stage.family and ranks.first():
        store.go_on(stage.key, stage.family, stage.settings["rounds"])
    ranks.meet()

    def open_input(ref: Ref) -> Any:
        return load_artifact(kinds[ref.stage], store.path(keys[ref.stage]))

    artifact = execute(
        stage,
        open_input,
        project=Path(job["project"]),
        work=store.scratch(stage.key),
        emit=events.of_first,
    )
    peaks = ranks.gathered(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    if not ranks.first():
        return ranks.leave()
    folder = store.temporary()
    try:
        with readable_errors(store.root):
            artifact.save(folder)
        manifest = {
            "key": stage.key,
            "verb": stage.verb,
            "type": stage.type,
            "settings": stage.settings,
            "inputs": {port: keys[ref.stage] for port, ref in stage.inputs.items()},
            "seconds": round(time.monotonic() - start, 1),
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "versions": job.get("versions", {}),
            "peak_bytes": _peak(peaks),
            "processes": processes,
        }
        if stage.family:
            store.keep_state(stage.key, stage.family, stage.settings["rounds"])
        store.publish(stage.key, folder, manifest)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    ranks.leave()


def _peak(others: list[int]) -> int:
    """Bytes that all processes of the stage held at most, this one to its end."""
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return (own + sum(others[1:])) * 1024


def _rehearse(job: dict[str, Any], stage: PlannedStage, store: Store, events: Events) -> None:
    """Try the stage's rewards; nothing is made."""
    from grape.runtime.rehearsal import rehearse

    ref = Ref.model_validate(job["rehearse"])
    data = load_artifact("Data", store.path(job["keys"][ref.stage]))
    rehearse(
        stage,
        data,
        ref.view,
        project=Path(job["project"]),
        work=Path(job["log"]).parent,
        emit=events.emit,
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv))
