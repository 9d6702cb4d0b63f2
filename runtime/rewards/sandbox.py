"""Runs a program that a model wrote, where it can do no harm.

`namespaces`: in namespaces of its own, with no network, no other processes, a read-only file system
of Python alone, an empty folder in memory, no rights, and limits on memory, time, processes and
files. `process`: the limits only. The program gets no environment and no open files but its own
three. This file is also the launcher: it runs itself, with Python's standard library alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PROCESSES = 32
OUTPUT = 4 * 1024**2
"""Bytes that a program may write, into each of its files."""
LATE = 124
NOT_THERE = 97
"""Exit status of the launcher where the kernel gives no namespaces."""

_NEW_NS, _NEW_USER, _NEW_PID, _NEW_NET = 0x00020000, 0x10000000, 0x20000000, 0x40000000
_NEW_IPC, _NEW_UTS = 0x08000000, 0x04000000
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_NOEXEC = 1, 2, 4, 8
_MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 32, 4096, 16384, 1 << 18
_DETACH = 2
_NO_NEW_PRIVS, _DROP_BOUNDING, _DIE_WITH_PARENT = 38, 24, 1


@dataclass(frozen=True, slots=True)
class Limits:
    """`seconds` of the whole program, `memory` bytes of address space of one process."""

    seconds: float
    memory: int


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended: `code` is its exit status, negative for a signal, None when late."""

    code: int | None
    output: str
    errors: str


class NoSandbox(Exception):
    """This system gives no namespaces; the reason in one line."""


def run_program(program: str, stdin: str, limits: Limits, mode: str) -> Ended:
    """Run Python source in a sandbox of that `mode`. Raises NoSandbox."""
    with tempfile.TemporaryDirectory(prefix="grape-sandbox-") as name:
        folder = Path(name)
        (folder / "stdin").write_text(stdin, encoding="utf-8", errors="surrogateescape")
        # Surrogates cannot be encoded: what a model wrote stays a program that fails by itself.
        (folder / "program.py").write_text(program, encoding="utf-8", errors="replace")
        (folder / "root").mkdir()
        job = {**asdict(limits), "mode": mode, "folder": name, "python": _pythons()}
        job["user"] = _somebody() if os.geteuid() == 0 else None
        (folder / "job.json").write_text(json.dumps(job), encoding="utf-8")
        code = _launch(folder, limits.seconds)
        output, errors = (_text(folder / file) for file in ("stdout", "stderr"))
    if code == NOT_THERE:
        raise NoSandbox(errors.strip() or "the kernel refuses namespaces")
    return Ended(None if code == LATE else code, output, errors)


def _somebody() -> int:
    """A user that nobody is, so that a limit on processes counts this program's alone."""
    return 1_000_000 + int.from_bytes(os.urandom(3))


def _pythons() -> list[str]:
    """Folders that Python needs: its own, and the system's libraries."""
    own = {os.path.realpath(sys.base_prefix), os.path.realpath(sys.base_exec_prefix)}
    system = ("/usr", "/lib", "/lib64", "/lib32", "/bin", "/etc/ld.so.cache")
    there = [path for path in system if os.path.exists(path)]
    return [*there, *sorted(own - set(there))]  # one below the other is mounted after it


def _launch(folder: Path, seconds: float) -> int | None:
    """The launcher's exit status; None when it had to be stopped."""
    python = os.path.realpath(sys.executable)
    command = [python, "-I", "-S", "-B", os.path.abspath(__file__), str(folder / "job.json")]
    with (
        (folder / "stdin").open("rb") as stdin,
        (folder / "stdout").open("wb") as stdout,
        (folder / "stderr").open("wb") as stderr,
    ):
        child = subprocess.Popen(
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env={},
            cwd=folder,
            start_new_session=True,
        )
        try:
            # The time to set up the namespaces is not the program's.
            return child.wait(seconds + 2.0)
        except subprocess.TimeoutExpired:
            return None
        finally:
            _stop(child)


def _stop(child: subprocess.Popen[bytes]) -> None:
    """End the launcher and all that it started: its session, and with it the first process of the
    namespace, without which the kernel ends every other one in it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _text(path: Path) -> str:
    return path.read_bytes()[:OUTPUT].decode("utf-8", errors="replace")


# --- the launcher: runs in a process of its own -----------------------------------------------

Job = dict[str, Any]


def main(argv: list[str]) -> int:
    job: Job = json.loads(Path(argv[1]).read_text(encoding="utf-8"))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    os.umask(0o022)
    read, write = os.pipe()  # closed by the program's exec, so that only we can write to it
    try:
        if job["mode"] == "process":
            status = _watch(libc, job, Path(job["folder"]), write)
        else:
            job["program"] = Path(job["folder"], "program.py").read_text(encoding="utf-8")
            _enter_namespaces(libc)
            status = _forked(lambda: _first_process(libc, job, write), write)
    except OSError as error:
        _tell(write, error)
        status = NOT_THERE
    os.close(write)
    trouble = os.read(read, 4096)
    if trouble:
        os.write(2, trouble)
        return NOT_THERE
    return 1 if status == NOT_THERE else status


def _tell(write: int, error: BaseException) -> None:
    what = f"{error.strerror} ({error.filename})" if isinstance(error, OSError) else repr(error)
    os.write(write, what.encode()[:1000])


def _forked(body: Callable[[], int], write: int) -> int:
    """The status of `body` in a child of its own."""
    child = os.fork()
    if child == 0:
        status = NOT_THERE
        try:
            status = body()
        except BaseException as error:  # a forked copy must never run on as its parent
            _tell(write, error)
        os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) & 0xFF


def _enter_namespaces(libc: ctypes.CDLL) -> None:
    """Namespaces for what this process starts. Raises OSError, named by what was refused."""
    if os.geteuid() != 0:
        user, group = os.getuid(), os.getgid()
        _check(libc.unshare(_NEW_USER), "a user namespace")
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    everything = _NEW_NS | _NEW_PID | _NEW_NET | _NEW_IPC | _NEW_UTS
    _check(libc.unshare(everything), "namespaces for mounts, processes and network")


def _check(result: int, what: str) -> None:
    if result != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error), what)


def _first_process(libc: ctypes.CDLL, job: Job, write: int) -> int:
    """The first process of the namespace: makes the file system, then waits for the program."""
    libc.prctl(_DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0)
    _new_root(libc, Path(job["folder"], "root"), job["python"])
    Path("/work/program.py").write_text(job["program"], encoding="utf-8")
    return _watch(libc, job, Path("/work"), write)


def _new_root(libc: ctypes.CDLL, root: Path, folders: list[str]) -> None:
    """A file system of Python's folders, read-only, with an empty folder in memory."""

    def mount(source: str, target: Path | str, kind: str, flags: int, data: str = "") -> None:
        words = (source.encode(), str(target).encode(), kind.encode() or None)
        _check(libc.mount(*words, flags, data.encode()), f"mounting {target}")

    safe = _MS_NOSUID | _MS_NODEV
    mount("none", "/", "", _MS_REC | _MS_PRIVATE)
    mount("tmpfs", root, "tmpfs", safe, "size=16m,mode=755")
    (root / "work").mkdir()
    mount("tmpfs", root / "work", "tmpfs", safe, "size=32m,mode=777")
    for source in [*folders, "/dev/null", "/dev/zero", "/dev/urandom"]:
        target = root / source.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if os.path.islink(source):
            target.symlink_to(os.readlink(source))
            continue
        target.mkdir(exist_ok=True) if os.path.isdir(source) else target.touch()
        limits = _MS_NOEXEC if source.startswith("/dev/") else _MS_NODEV
        mount(source, target, "", _MS_BIND)
        mount(source, target, "", _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID | limits)
    os.chdir(root)
    (root / "old").mkdir()
    _check(libc.pivot_root(b".", b"old"), "the new file system")
    os.chdir("/")
    _check(libc.umount2(b"/old", _DETACH), "leaving the old file system")
    os.rmdir("/old")
    mount("none", "/", "", _MS_REMOUNT | _MS_BIND | _MS_RDONLY | safe)


def _watch(libc: ctypes.CDLL, job: Job, place: Path, write: int) -> int:
    """Run the program and wait; its exit status, 128 + N after signal N, 124 when it is late."""
    child = os.fork()
    if child == 0:
        try:
            _become(libc, job, place)
        except BaseException as error:
            _tell(write, error)
        os._exit(NOT_THERE)
    end = time.monotonic() + job["seconds"]
    while True:
        found, status = os.waitpid(-1, os.WNOHANG)
        if found == child:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            return LATE
        if not found:
            time.sleep(0.002)


def _become(libc: ctypes.CDLL, job: Job, place: Path) -> None:
    """Turn into the program: limits, no rights, and Python with nothing but its source."""
    os.chdir(place)
    cpu = int(job["seconds"]) + 1
    for kind, most in (
        (resource.RLIMIT_AS, job["memory"]),
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_FSIZE, OUTPUT),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(kind, (most, most))
    for number in range(64):
        libc.prctl(_DROP_BOUNDING, number, 0, 0, 0)
    if job["user"] is not None and job["mode"] == "namespaces":
        os.setgroups([])
        os.setresgid(job["user"], job["user"], job["user"])
        os.setresuid(job["user"], job["user"], job["user"])
    libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_NPROC, (PROCESSES, PROCESSES))
    python = os.path.realpath(sys.executable)
    os.execve(python, [python, "-I", "-S", "-B", "program.py"], {"LANG": "C.UTF-8"})


if __name__ == "__main__":
    sys.exit(main(sys.argv))
