"""The store under two processes, half-deleted artifacts, dead processes and broken disks."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import time
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

import pytest

from grape.runtime.errors import StageError
from grape.runtime.store import Store, readable_errors

CONTEXT = multiprocessing.get_context("fork")
WRITERS = 4


def publish(root: Path, text: str, key: str = "k") -> Path:
    store = Store(root)
    folder = store.temporary()
    (folder / "inner").mkdir()
    for number in range(20):
        (folder / "inner" / f"{number}.txt").write_text(text)
    return store.publish(key, folder, {"by": text})


def racer(root: Path, text: str, start: Barrier) -> None:
    start.wait(20)
    publish(root, text)


def test_of_two_processes_one_artifact_stays_whole(tmp_path: Path) -> None:
    start = CONTEXT.Barrier(WRITERS)
    racers = [
        CONTEXT.Process(target=racer, args=(tmp_path, f"w{number}", start))
        for number in range(WRITERS)
    ]
    for process in racers:
        process.start()
    for process in racers:
        process.join(30)
    assert [process.exitcode for process in racers] == [0] * WRITERS
    store = Store(tmp_path)
    winner = store.manifest("k")["by"]
    assert {path.read_text() for path in store.path("k").rglob("*.txt")} == {winner}
    assert list((tmp_path / "tmp").iterdir()) == []


def holder(root: Path, held: Event, release: Event) -> None:
    with Store(root).lock("k"):
        held.set()
        release.wait(20)


def test_a_lock_waits_says_so_once_and_goes_on(tmp_path: Path) -> None:
    held, release = CONTEXT.Event(), CONTEXT.Event()
    process = CONTEXT.Process(target=holder, args=(tmp_path, held, release))
    process.start()
    assert held.wait(20)
    said: list[str] = []
    with Store(tmp_path).lock("k", lambda: said.append("waiting"), poll=release.set):
        assert release.is_set()
    process.join(20)
    assert said == ["waiting"] and process.exitcode == 0


def test_a_wait_can_be_ended(tmp_path: Path) -> None:
    held, release = CONTEXT.Event(), CONTEXT.Event()
    process = CONTEXT.Process(target=holder, args=(tmp_path, held, release))
    process.start()
    assert held.wait(20)

    def stop() -> None:
        raise StageError("stopped")

    start = time.monotonic()
    with pytest.raises(StageError, match="stopped"), Store(tmp_path).lock("k", poll=stop):
        raise AssertionError("the lock is held elsewhere")
    assert time.monotonic() - start < 5
    release.set()
    process.join(20)


def test_a_killed_holder_gives_its_lock_back(tmp_path: Path) -> None:
    held, release = CONTEXT.Event(), CONTEXT.Event()
    process = CONTEXT.Process(target=holder, args=(tmp_path, held, release))
    process.start()
    assert held.wait(20)
    process.kill()
    process.join(20)
    with Store(tmp_path).lock("k", lambda: pytest.fail("nobody holds it")):
        pass


def test_locks_of_different_keys_are_apart(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store.lock("a"), store.lock("b", lambda: pytest.fail("`b` is free")):
        pass


def test_an_artifact_without_its_manifest_is_replaced(tmp_path: Path) -> None:
    path = publish(tmp_path, "old")
    (path / "manifest.json").unlink()
    store = Store(tmp_path)
    assert not store.has("k")
    publish(tmp_path, "new")
    assert store.manifest("k") == {"by": "new"}
    assert (path / "inner" / "0.txt").read_text() == "new"


def test_nothing_is_there_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(StageError, match="the disk is full"):
        publish(tmp_path, "text")
    assert not Store(tmp_path).has("k") and not Store(tmp_path).path("k").exists()


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "may not be written"),
        (errno.EROFS, "read-only"),
    ],
)
def test_what_a_disk_says_becomes_a_sentence(tmp_path: Path, number: int, words: str) -> None:
    with pytest.raises(StageError, match=words) as caught, readable_errors(tmp_path):
        raise OSError(number, os.strerror(number))
    assert str(tmp_path) in caught.value.message and caught.value.hint


def test_other_errors_stay_what_they_are(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Bad file"), readable_errors(tmp_path):
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))


def test_sweeping_leaves_what_it_does_not_know(tmp_path: Path) -> None:
    store = Store(tmp_path)
    mine = store.temporary()
    strange = mine.parent / "not-mine"
    strange.mkdir()
    store.sweep()
    assert mine.is_dir() and strange.is_dir()
    shutil.rmtree(tmp_path / "tmp")
    store.sweep()


def test_work_is_kept_until_the_artifact_is_there(tmp_path: Path) -> None:
    store = Store(tmp_path)
    (store.scratch("k") / "checkpoint").mkdir()
    assert store.resumable("k") and store.scratch("k").is_dir()
    publish(tmp_path, "done")
    assert not store.resumable("k")
