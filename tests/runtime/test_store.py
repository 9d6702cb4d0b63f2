"""The store under two processes, half-deleted artifacts, dead processes and broken disks."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from grape.runtime.errors import StageError
from grape.runtime.store import Store, readable_errors


def publish(root: Path, text: str, key: str = "k") -> Path:
    store = Store(root)
    folder = store.temporary()
    (folder / "a.txt").write_text(text)
    return store.publish(key, folder, {"by": text})


RACER = """
import sys
from pathlib import Path
from grape.runtime.store import Store
store = Store(Path(sys.argv[1]))
folder = store.temporary()
(folder / "inner").mkdir()
for number in range(20):
    (folder / "inner" / f"{number}.txt").write_text(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
store.publish("k", folder, {"by": sys.argv[2]})
"""
HOLDER = """
import sys
from pathlib import Path
from grape.runtime.store import Store
with Store(Path(sys.argv[1])).lock("k"):
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def other(code: str, *words: object) -> Iterator[Callable[[], None]]:
    """A process that has said it is ready; the call lets it go on. A fresh one, for a fork of a
    process with threads may hang."""
    command = [sys.executable, "-c", code, *map(str, words)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        stdin = process.stdin
        assert process.stdout.readline().strip() in ("ready", "held")
        gone = False

        def release() -> None:
            nonlocal gone
            if not gone:
                gone = True
                stdin.write("\n")
                stdin.flush()

        try:
            yield release
            release()
            assert process.wait(30) == 0
        finally:
            process.kill()


def test_of_several_processes_one_artifact_stays_whole(tmp_path: Path) -> None:
    with ExitStack() as stack:
        writers = [stack.enter_context(other(RACER, tmp_path, f"w{n}")) for n in range(3)]
        for release in writers:
            release()
    store = Store(tmp_path)
    winner = store.manifest("k")["by"]
    texts = [path.read_text() for path in store.path("k").rglob("*.txt")]
    assert texts == [winner] * 20
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_lock_waits_says_so_once_and_goes_on(tmp_path: Path) -> None:
    said: list[str] = []
    polls: list[int] = []

    with other(HOLDER, tmp_path) as release:

        def poll() -> None:
            polls.append(1)
            if len(polls) == 2:
                release()

        with Store(tmp_path).lock("k", lambda: said.append("waiting"), poll=poll):
            assert len(polls) >= 2
    assert said == ["waiting"]


def test_a_wait_can_be_ended(tmp_path: Path) -> None:
    def stop() -> None:
        raise StageError("stopped")

    with (
        other(HOLDER, tmp_path),
        pytest.raises(StageError, match="stopped"),
        Store(tmp_path).lock("k", poll=stop),
    ):
        raise AssertionError("the lock is held elsewhere")


def test_a_killed_holder_gives_its_lock_back(tmp_path: Path) -> None:
    code = HOLDER.replace("sys.stdin.readline()", "import os; os.kill(os.getpid(), 9)")
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert done.stdout == "held\n" and done.returncode == -9
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
    assert (path / "a.txt").read_text() == "new"


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
