"""The store: artifacts in folders named by their content key; a folder that is there is complete.

An artifact is written under `tmp/`, flushed to disk and renamed into place with its manifest, so
that a crash leaves nothing half made. Two processes may use one store.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from grape.runtime.errors import StageError

MANIFEST = "manifest.json"
COLLECTING = "collecting"
"""The lock of whoever writes down which artifacts are needed, or removes those that are not."""
_POLL_SECONDS = 0.1


@contextmanager
def readable_errors(root: Path) -> Iterator[None]:
    """Turn what a disk can do to us into one sentence."""
    try:
        yield
    except OSError as error:
        reasons = {
            errno.ENOSPC: "the disk is full",
            errno.EDQUOT: "the disk quota is used up",
            errno.EACCES: "the folder may not be written",
            errno.EPERM: "the folder may not be written",
            errno.EROFS: "the file system is read-only",
            errno.ENOTDIR: "a file is in the way",
            errno.EEXIST: "a file is in the way",
        }
        if error.errno not in reasons:
            raise
        raise StageError(
            f"the store at {root} cannot be used: {reasons[error.errno]}",
            hint="make room or permission there, and run again: finished stages are kept",
        ) from error


class Store:
    """Content-addressed folders below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, key: str) -> Path:
        return self.root / "objects" / key

    def has(self, key: str) -> bool:
        return (self.path(key) / MANIFEST).is_file()

    def manifest(self, key: str) -> dict[str, Any]:
        """What was noted when the artifact was made."""
        text = (self.path(key) / MANIFEST).read_text(encoding="utf-8")
        document: dict[str, Any] = json.loads(text)
        return document

    def scratch(self, key: str) -> Path:
        """A folder for work on an artifact; kept after a failure, so that work can go on."""
        folder = self.root / "work" / key
        with readable_errors(self.root):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def resumable(self, key: str) -> bool:
        return (self.root / "work" / key / "checkpoint").is_dir()

    def rounds_of(self, family: str, rounds: int) -> int:
        """How many rounds of a repeat are kept to go on from: fewer than `rounds`; 0 for none."""
        kept = [int(path.parent.name) for path in self._kept(family).glob("*/state.pt")]
        return max((count for count in kept if count < rounds), default=0)

    def _kept(self, family: str) -> Path:
        return self.root / "continue" / family

    def go_on(self, key: str, family: str, rounds: int) -> None:
        """Give a repeat without a checkpoint of its own the last state of a shorter one, with the
        reports of its rounds."""
        done = self.rounds_of(family, rounds)
        work = self.scratch(key)
        if not done or (work / "checkpoint").is_dir():
            return
        with readable_errors(self.root):
            kept, fresh = self._kept(family) / str(done), work / "checkpoint.new"
            shutil.rmtree(fresh, ignore_errors=True)
            shutil.rmtree(work / "reports", ignore_errors=True)
            fresh.mkdir()
            os.link(kept / "state.pt", fresh / "state.pt")
            if (kept / "reports").is_dir():
                shutil.copytree(kept / "reports", work / "reports")
            fresh.rename(work / "checkpoint")

    def keep_state(self, key: str, family: str, rounds: int) -> None:
        """Keep the last state of a finished repeat, so that a longer one goes on from it. Only
        the newest of a family is kept: it is as large as weights and optimizer together."""
        work = self.root / "work" / key
        if not (work / "checkpoint" / "state.pt").is_file():
            return
        with readable_errors(self.root):
            fresh, target = work / "kept.new", self._kept(family) / str(rounds)
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            (work / "checkpoint" / "state.pt").replace(fresh / "state.pt")
            if (work / "reports").is_dir():
                shutil.copytree(work / "reports", fresh / "reports")
            shutil.rmtree(target, ignore_errors=True)
            target.parent.mkdir(parents=True, exist_ok=True)
            fresh.rename(target)
            for other in target.parent.iterdir():
                if other != target:
                    shutil.rmtree(other, ignore_errors=True)

    def temporary(self) -> Path:
        """An empty folder to write an artifact into, for `publish`."""
        folder = self.root / "tmp" / f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
        with readable_errors(self.root):
            folder.mkdir(parents=True)
        return folder

    def publish(self, key: str, folder: Path, manifest: dict[str, Any]) -> Path:
        """Move a finished folder into place. An artifact that is already there stays."""
        with readable_errors(self.root):
            text = json.dumps(manifest, indent=2, sort_keys=True)
            (folder / MANIFEST).write_text(text, encoding="utf-8")
            for path in folder.rglob("*"):
                _flush(path)
            _flush(folder)
            target = self.path(key)
            target.parent.mkdir(parents=True, exist_ok=True)
            self._settle(key, folder)
            _flush(target.parent)
            shutil.rmtree(self.root / "work" / key, ignore_errors=True)
        return target

    def _settle(self, key: str, folder: Path) -> None:
        """Rename a finished folder into place; a whole artifact that is there already stays."""
        target = self.path(key)
        try:
            folder.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if self.has(key):
                shutil.rmtree(folder)
            else:  # somebody deleted half of it: it would never count, and never make room
                target.rename(self.temporary() / "broken")
                self._settle(key, folder)

    @contextmanager
    def lock(
        self,
        key: str,
        waiting: Callable[[], None] = lambda: None,
        *,
        poll: Callable[[], None] = lambda: None,
    ) -> Iterator[None]:
        """Hold the right to make one artifact.

        While another process has it, `waiting` is called once and `poll` again and again; what
        `poll` raises ends the wait. The kernel gives the lock back when its holder ends, however
        it ends."""
        with readable_errors(self.root):
            folder = self.root / "locks"
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder / key, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not take_lock(handle):
                waiting()
                while not take_lock(handle):
                    poll()
                    time.sleep(_POLL_SECONDS)
            yield
        finally:
            os.close(handle)

    def is_held(self, key: str) -> bool:
        """Whether some process is making this artifact now."""
        path = self.root / "locks" / key
        if not path.is_file():
            return False
        handle = os.open(path, os.O_RDWR)
        try:
            return not take_lock(handle)
        finally:
            os.close(handle)

    def sweep(self) -> None:
        """Remove what dead processes left half written. Raises StageError when the store cannot be
        written, before anything was computed for it."""
        self.temporary().rmdir()
        for folder in (self.root / "tmp").glob("*-*"):
            process = folder.name.split("-")[0]
            if process.isdecimal() and not _alive(int(process)):
                shutil.rmtree(folder, ignore_errors=True)


def take_lock(handle: int) -> bool:
    """Take the lock of an open file if nobody has it."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
