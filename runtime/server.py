"""The Prefect server that Grape owns: one per user, in the background, on loopback, quiet.

A server that the user names in PREFECT_API_URL wins. Prefect's own temporary server is never used.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grape.runtime.errors import StageError

START_SECONDS = 180.0


def home() -> Path:
    """Where Grape keeps what belongs to the user rather than to a project."""
    given = os.environ.get("GRAPE_HOME")
    if given:
        return Path(given)
    data = os.environ.get("XDG_DATA_HOME") or str(Path.home() / ".local" / "share")
    return Path(data) / "grape"


def ensure_server(say: Callable[[str], None] = lambda text: None) -> str:
    """The API URL of a server that answers; starts ours when it does not run.

    Raises StageError when the user's server cannot be reached or ours does not start."""
    url = os.environ.get("PREFECT_API_URL")
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
        fcntl.flock(lock, fcntl.LOCK_EX)
        state = _state(folder)
        if state is not None and _healthy(state["url"]):
            return str(state["url"])
        return _start(folder, say)


def _start(folder: Path, say: Callable[[str], None]) -> str:
    first = not (folder / "prefect.db").exists()
    say(
        "preparing the Prefect server (once, about half a minute)"
        if first
        else "starting the Prefect server"
    )
    port = _free_port()
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
    deadline = time.monotonic() + START_SECONDS
    while not _healthy(url):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise StageError(
                f"the Prefect server did not start; its log is {log}",
                hint=_last_line(log),
            )
        time.sleep(0.3)
    state = {"pid": process.pid, "port": port, "url": url}
    (folder / "server.json").write_text(json.dumps(state), encoding="utf-8")
    return url


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
    if state is None or not _healthy(state["url"]):
        return False
    os.killpg(state["pid"], signal.SIGTERM)
    deadline = time.monotonic() + 10
    while _healthy(state["url"]) and time.monotonic() < deadline:
        time.sleep(0.1)
    (folder / "server.json").unlink(missing_ok=True)
    return True


def status() -> str:
    """One line about the server that a run would use."""
    url = os.environ.get("PREFECT_API_URL")
    if url:
        return f"{url} (from PREFECT_API_URL): {'answers' if _healthy(url) else 'does not answer'}"
    state = _state(home() / "prefect")
    if state is None or not _healthy(state["url"]):
        return "no server is running; the next run starts one"
    return f"running at {state['url'].removesuffix('/api')} (process {state['pid']})"


def _state(folder: Path) -> dict[str, Any] | None:
    path = folder / "server.json"
    if not path.is_file():
        return None
    state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return state


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=3) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError, ValueError):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _last_line(log: Path) -> str | None:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return lines[-1][:200] if lines else None
