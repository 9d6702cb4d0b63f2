"""`python -m grape.runtime.worker JOB.json`: one task of a run in a process of its own.

Events go as JSON lines to the file descriptor that the job names; everything that libraries print
goes to the log. The artifact is published before the process ends, or not at all.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from grape.compiler.plan import PlannedStage, Ref
from grape.runtime.errors import StageError
from grape.runtime.execute import execute, load_artifact
from grape.runtime.secrets import names_in, scrubbed
from grape.runtime.store import Store, readable_errors
from grape.runtime.verbs import ready


class Events:
    """A pipe to the run, one JSON object per line; safe from several threads."""

    def __init__(self, descriptor: int) -> None:
        self._pipe = os.fdopen(descriptor, "w", encoding="utf-8")
        self._lock = threading.Lock()
        self.secrets: list[str] = []
        """Variables whose values no event may tell."""

    def emit(self, event: dict[str, Any]) -> None:
        with self._lock:
            self._pipe.write(json.dumps(scrubbed(event, self.secrets)) + "\n")
            self._pipe.flush()


def main(argv: list[str]) -> int:
    job = json.loads(Path(argv[1]).read_text(encoding="utf-8"))
    events = Events(job["events"])
    try:
        _run(job, events)
    except StageError as error:
        told = {"message": error.message, "hint": error.hint, "code": error.code}
        events.emit({"event": "error", **told})
        return 1
    except Exception as error:
        story = {"text": traceback.format_exc()}
        print(scrubbed(story, events.secrets)["text"], file=sys.stderr)
        events.emit({"event": "error", **_reason(error, job)})
        return 1
    return 0


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
    if stage.family:
        store.go_on(stage.key, stage.family, stage.settings["rounds"])

    def open_input(ref: Ref) -> Any:
        return load_artifact(kinds[ref.stage], store.path(keys[ref.stage]))

    artifact = execute(
        stage,
        open_input,
        project=Path(job["project"]),
        work=store.scratch(stage.key),
        emit=events.emit,
    )
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
            "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        if stage.family:
            store.keep_state(stage.key, stage.family, stage.settings["rounds"])
        store.publish(stage.key, folder, manifest)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
