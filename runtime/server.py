"""The Prefect server that Grape owns: one per user, in the background, on loopback, quiet.

A server that the user names in PREFECT_API_URL wins. Prefect's own temporary server is never used.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from grape.runtime.errors import StageError
from grape.runtime.store import take_lock

START_SECONDS = 180.0


def home() -> Path:
    """Where Grape keeps what belongs to the user rather than to a project."""
    given = os.environ.get("GRAPE_HOME")
    if given:
        return Path(given)
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(data) / "grape"


def ensure_server(
    say: Callable[[str], None] = lambda text: None, *, poll: Callable[[], None] = lambda: None
) -> str:
    """The API URL of a server that answers; starts ours when it does not run. `poll` is called
    while it starts, and what it raises ends the wait and the server.

    Raises StageError when the user's server cannot be reached or ours does not start."""
    url = _given()
    if url:
        if not _healthy(url):
            raise StageError(
                f"the Prefect server at {url} does not answer",
                hint="start it, or unset PREFECT_API_URL to use the one that Grape starts itself",
            )
        return url
    folder = home() / "prefect"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise StageError(
            f"the folder {folder} cannot be written ({error.strerror})",
            hint="set GRAPE_HOME to a folder that can",
        ) from error
    with lock:
        while not take_lock(lock.fileno()):
            poll()
            time.sleep(0.2)
        state = _state(folder)
        if state is not None and _running(state):
            return str(state["url"])
        return _start(folder, say, poll, None if state is None else state["port"])


def _given() -> str | None:
    """The server that the user names. A run tells the processes it starts of Grape's own server
    in the same way; that one is not the user's choice."""
    url = os.environ.get("PREFECT_API_URL")
    state = _state(home() / "prefect")
    return None if state is not None and url == state["url"] else url


def _start(
    folder: Path, say: Callable[[str], None], poll: Callable[[], None], last_port: int | None
) -> str:
    first = not (folder / "prefect.db").exists()
    say(
        "preparing the Prefect server (once, about half a minute)"
        if first
        else "starting the Prefect server"
    )
    port = _free_port(last_port)
    url = f"http://127.0.0.1:{port}/api"
    log = folder / "server.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **_server_settings(folder, port, url)},
        )
    try:
        _await(process, url, log, poll)
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        raise
    state = {"pid": process.pid, "port": port, "url": url, "version": version("prefect")}
    fresh = folder / "server.json.new"
    fresh.write_text(json.dumps(state), encoding="utf-8")
    fresh.replace(folder / "server.json")
    return url


def _await(process: subprocess.Popen[bytes], url: str, log: Path, poll: Callable[[], None]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not _healthy(url):
        poll()
        if process.poll() is not None or time.monotonic() > deadline:
            late = "in time" if process.returncode is None else f"(exit code {process.returncode})"
            raise StageError(
                f"the Prefect server did not start {late}; its log is {log}",
                hint=_last_line(log),
            )
        time.sleep(0.3)


def _server_settings(folder: Path, port: int, url: str) -> dict[str, str]:
    recorder = "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER"
    persister = "PREFECT_SERVER_SERVICES_EVENT_PERSISTER"
    return {
        "PREFECT_HOME": str(folder),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_UI_API_URL": url,
        "DO_NOT_TRACK": "1",
        f"{recorder}_BATCH_SIZE": "100",
        f"{recorder}_READ_BATCH_SIZE": "100",
        f"{recorder}_FLUSH_INTERVAL": "1",
        f"{persister}_BATCH_SIZE": "200",
        f"{persister}_READ_BATCH_SIZE": "100",
    }


def stop() -> bool:
    """End our server; False when none was running."""
    folder = home() / "prefect"
    state = _state(folder)
    if state is None or not _running(state):
        return False
    os.killpg(state["pid"], signal.SIGTERM)
    deadline = time.monotonic() + 10
    while _alive(state["pid"]) and time.monotonic() < deadline:
        time.sleep(0.1)
    if _alive(state["pid"]):
        os.killpg(state["pid"], signal.SIGKILL)
    (folder / "server.json").unlink(missing_ok=True)
    return True


def status() -> str:
    """One line about the server that a run would use."""
    url = _given()
    if url:
        return f"{url} (from PREFECT_API_URL): {'answers' if _healthy(url) else 'does not answer'}"
    state = _state(home() / "prefect")
    if state is None or not _running(state):
        return "no server is running; the next run starts one"
    place = state["url"].removesuffix("/api")
    return f"running at {place} (process {state['pid']}, Prefect {state.get('version', '?')})"


def _state(folder: Path) -> dict[str, Any] | None:
    path = folder / "server.json"
    if not path.is_file():
        return None
    state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return state


def _running(state: dict[str, Any]) -> bool:
    """Whether our process is there and answers: after a restart of the machine, another program
    may have its port or its number."""
    return _alive(state["pid"]) and _healthy(state["url"])


def _alive(process: int) -> bool:
    """Whether a process runs that we may end; one that has ended but was not yet collected by
    this process counts as ended."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process, os.WNOHANG)
    try:
        os.kill(process, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _healthy(url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener = direct if _loopback(url) else urllib.request.build_opener()
        with opener.open(f"{url}/health", timeout=3) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _loopback(url: str) -> bool:
    return urllib.parse.urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def _free_port(wanted: int | None) -> int:
    """A free port, the one that the last server had when that is free: bookmarks stay good."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", wanted or 0))
        except OSError:
            probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _last_line(log: Path) -> str | None:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else None
