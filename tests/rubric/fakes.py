"""An OpenAI-compatible server on this machine that answers as a test says."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from grape.runtime.critics.server import Served

Reply = tuple[int, dict[str, str], bytes]
Manners = Callable[[int, dict[str, Any]], Reply]
"""The number of the request and its body, to a reply."""


@dataclass
class Fake:
    """What was asked of the server, in order."""

    url: str
    asked: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)


def says(text: str, **message: Any) -> Reply:
    choice = {"message": {"content": text, **message}, "finish_reason": "stop"}
    return 200, {}, json.dumps({"choices": [choice]}).encode()


def judges(score: object, confidence: object = 0.8) -> Reply:
    return says(json.dumps({"reasoning": "so", "score": score, "confidence": confidence}))


def fails(status: int, text: str = "", **headers: str) -> Reply:
    return status, headers, json.dumps({"error": {"message": text}}).encode()


def hangs(seconds: float) -> Reply:
    time.sleep(seconds)
    return fails(500)


@contextmanager
def serving(manners: Manners) -> Iterator[Fake]:
    lock = threading.Lock()
    fake = Fake("")

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(fake.asked)
                fake.asked.append(body)
                fake.headers.append(dict(self.headers))
            status, headers, text = manners(number, body)
            try:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
            except OSError:
                return  # the client did not wait

        def log_message(self, *args: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    fake.url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()


def served(fake: Fake, **settings: Any) -> Served:
    plain = Served(fake.url, "big", None, 2.0, 2, None, 4, 64)
    return replace(plain, **settings)
