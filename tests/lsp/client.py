"""A plain JSON-RPC client: starts `grape lsp` as an editor does and talks to it over its pipes."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

TIMEOUT = 90.0


class Refused(Exception):
    """The server answered with an error."""


class Client:
    """One server process. `diagnostics` holds the latest findings by address."""

    def __init__(
        self, root: Path, encodings: list[str] | None = None, code: str | None = None
    ) -> None:
        """`code` is Python that serves instead of `grape lsp`."""
        self.root = root
        command = ["-c", code] if code else ["-m", "grape", "lsp", "--log", "error"]
        self.process = subprocess.Popen(
            [sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.diagnostics: dict[str, list[dict[str, Any]]] = {}
        self._answers: queue.Queue[dict[str, Any]] = queue.Queue()
        self._published = threading.Condition()
        self._count = 0
        self._published_count: dict[str, int] = {}
        self.stderr: list[str] = []
        threading.Thread(target=self._listen, daemon=True).start()
        threading.Thread(target=self._listen_errors, daemon=True).start()
        general = {"positionEncodings": encodings} if encodings else {}
        self.capabilities = self.request(
            "initialize",
            {
                "processId": None,
                "rootUri": root.as_uri(),
                "capabilities": {"general": general},
                "workspaceFolders": [{"uri": root.as_uri(), "name": "project"}],
            },
        )["capabilities"]
        self.notify("initialized", {})

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.request("shutdown", None)
            self.notify("exit", None)
        assert self.process.wait(TIMEOUT) == 0

    def _listen(self) -> None:
        assert self.process.stdout
        while header := self.process.stdout.readline():
            length = int(header.decode().split(":")[1])
            while self.process.stdout.readline().strip():
                pass
            message = json.loads(self.process.stdout.read(length))
            if message.get("method") == "textDocument/publishDiagnostics":
                with self._published:
                    uri = message["params"]["uri"]
                    self.diagnostics[uri] = message["params"]["diagnostics"]
                    self._published_count[uri] = self._published_count.get(uri, 0) + 1
                    self._published.notify_all()
            elif "id" in message and "method" not in message:
                self._answers.put(message)

    def _listen_errors(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.stderr.append(line.decode())

    def _write(self, message: dict[str, Any]) -> None:
        assert self.process.stdin
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self.process.stdin.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self.process.stdin.flush()

    def request(self, method: str, params: Any) -> Any:
        """The result of a request. Raises `Refused` with the server's words."""
        self._count += 1
        self._write({"id": self._count, "method": method, "params": params})
        answer = self._answers.get(timeout=TIMEOUT)
        assert answer["id"] == self._count
        if "error" in answer:
            raise Refused(answer["error"]["message"])
        return answer["result"]

    def notify(self, method: str, params: Any) -> None:
        self._write({"method": method, "params": params})

    # --- what an editor does ------------------------------------------------------------------

    def uri(self, name: str) -> str:
        return (self.root / name).as_uri()

    def open(self, name: str, text: str) -> list[dict[str, Any]]:
        """Open a buffer and give its findings."""
        document = {"uri": self.uri(name), "languageId": "grape", "version": 1, "text": text}
        return self._findings(name, "textDocument/didOpen", {"textDocument": document})

    def change(self, name: str, text: str, version: int = 2) -> list[dict[str, Any]]:
        """Replace the text of a buffer and give its findings."""
        document = {"uri": self.uri(name), "version": version}
        change = {"textDocument": document, "contentChanges": [{"text": text}]}
        return self._findings(name, "textDocument/didChange", change)

    def _findings(self, name: str, method: str, params: Any) -> list[dict[str, Any]]:
        uri = self.uri(name)
        with self._published:
            before = self._published_count.get(uri, 0)
            self.notify(method, params)
            end = time.monotonic() + TIMEOUT
            while self._published_count.get(uri, 0) == before:
                assert self._published.wait(end - time.monotonic()), "no findings came"
            return self.diagnostics[uri]

    def at(self, name: str, text: str, mark: str, inside: int = 0) -> dict[str, Any]:
        """The parameters of a request about the first place of `mark` in a text."""
        offset = text.index(mark) + inside
        line = text.count("\n", 0, offset)
        before = text[text.rfind("\n", 0, offset) + 1 : offset]
        column = len(before.encode("utf-16-le")) // 2
        return {
            "textDocument": {"uri": self.uri(name)},
            "position": {"line": line, "character": column},
        }

    def ask(self, what: str, name: str, text: str, mark: str, inside: int = 0, **more: Any) -> Any:
        return self.request(f"textDocument/{what}", self.at(name, text, mark, inside) | more)

    def labels(self, name: str, text: str, mark: str, inside: int = 0) -> list[str]:
        """What completion offers."""
        found = self.ask("completion", name, text, mark, inside)
        return [item["label"] for item in found["items"]]


def applied(text: str, edits: list[dict[str, Any]]) -> str:
    """A text with the edits of the server made; columns count UTF-16 units."""

    def offset(place: dict[str, int]) -> int:
        lines = text.split("\n")
        start = sum(len(line) + 1 for line in lines[: place["line"]])
        units = lines[place["line"]].encode("utf-16-le")[: 2 * place["character"]]
        return start + len(units.decode("utf-16-le"))

    places = [(offset(e["range"]["start"]), offset(e["range"]["end"]), e["newText"]) for e in edits]
    for start, end, new in sorted(places, reverse=True):
        text = text[:start] + new + text[end:]
    return text
