"""Questions to an OpenAI-compatible server: retries, time limits, a rate limit, readable failures.

One `Client` serves one stage and is used from several threads. A key is sent and never shown: it
is cut out of whatever the server says.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

from grape.runtime.critics.questions import Failed
from grape.runtime.critics.server import Served
from grape.runtime.errors import StageError

LARGEST = 8 * 1024**2
"""Bytes of one answer; a server that sends more is cut off."""
LONGEST_WAIT = 30.0
CHAT = "/chat/completions"
_OPTIONAL = ("response_format", "temperature", "seed")
"""Fields that a judge can go without where a server refuses them."""


@dataclass(slots=True)
class _Again(Exception):
    """Worth another try, after so many seconds if the server says so."""

    reason: str
    after: float | None = None


@dataclass(slots=True, eq=False)
class Client:
    """`pause` is the first wait before a retry in seconds; it doubles each time."""

    served: Served
    pause: float = 0.5
    dropped: set[str] = field(default_factory=set)
    """Fields that the server has refused."""
    requests: int = 0
    """Requests sent so far."""
    _http: httpx.Client = field(init=False)
    _key: str | None = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _next: float = 0.0

    def __post_init__(self) -> None:
        self._key = self.served.key()
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx.Limits(max_connections=self.served.max_concurrency)
        self._http = httpx.Client(headers=headers, timeout=self.served.timeout, limits=limits)

    def close(self) -> None:
        self._http.close()

    def chat(self, body: dict[str, Any]) -> dict[str, Any] | Failed:
        """The first choice of a completion, or why there is none. Raises StageError where no
        question will ever be answered: a refused key, an address or a model that is not there."""
        return self._asked(CHAT, body, self._choice)

    def drawn(self, body: dict[str, Any]) -> dict[str, Any] | Failed:
        """A completion with its token ids and log-probs, for `prompt` or `messages`. Raises
        StageError as `chat` does, and for a server that gives text alone (G922)."""
        asked = {**body, "return_token_ids": True, "include_stop_str_in_output": True}
        if "messages" in body:
            return self._asked(CHAT, {**asked, "logprobs": True}, self._tokens)
        return self._asked("/completions", {**asked, "logprobs": 1}, self._tokens)

    def _tokens(self, document: Any) -> dict[str, Any]:
        found = drawn_tokens(document)
        if isinstance(found, str):
            raise StageError(
                f"G922: {self._name} gave {found}, and text is never tokenised again",
                hint="a server that knows `return_token_ids` does (vLLM); else leave `tokens` out: "
                "its texts can be imitated or paired (`grape explain G922`)",
                code="G922",
            )
        return found

    def _asked(
        self, path: str, body: dict[str, Any], read: Callable[[Any], dict[str, Any]]
    ) -> dict[str, Any] | Failed:
        reason = "was not asked"
        attempt = 0
        while attempt <= self.served.retries:
            try:
                return read(self._send(path, body))
            except _Again as again:
                reason = again.reason
                wait = again.after or self.pause * 2**attempt  # "at once" would be too soon
                attempt += 1
                if attempt <= self.served.retries:
                    time.sleep(min(wait, LONGEST_WAIT))
            except _Dropped:
                continue
            except _Refused as refused:
                return Failed(refused.reason)
        tries = f" ({attempt} tries)" if attempt > 1 else ""
        return Failed(f"{self._name} {reason}{tries}")

    @property
    def _name(self) -> str:
        return urlsplit(self.served.url).netloc

    def _send(self, path: str, body: dict[str, Any]) -> Any:
        sent = {name: value for name, value in body.items() if name not in self.dropped}
        self._wait_turn()
        status, headers, text = self._post(path, sent)
        if status == 200:
            try:
                return json.loads(text)
            except ValueError:
                raise _Again(f"answered something that is no JSON: {self._clean(text)}") from None
        self._check_usable(status, text)
        if status in (408, 409, 425, 429) or status >= 500:
            after = headers.get("retry-after", "")
            seconds = float(after) if after.replace(".", "", 1).isdigit() else None
            raise _Again(f"answered {status}: {self._clean(text)}", seconds)
        if status in (400, 415, 422):
            self._drop(body, sent, text)
        raise _Refused(f"{self._name} answered {status}: {self._clean(text)}")

    def _post(self, path: str, body: dict[str, Any]) -> tuple[int, httpx.Headers, str]:
        """Status, headers and text. The time limit is on the whole answer, so that a server that
        sends a byte now and then is late too."""
        end = time.monotonic() + self.served.timeout
        url = self.served.url.rstrip("/") + path
        late = f"did not answer within {self.served.timeout:g} seconds"
        try:
            with self._http.stream("POST", url, json=body) as response:
                pieces = bytearray()
                for piece in response.iter_bytes():
                    pieces += piece
                    if time.monotonic() > end:
                        raise _Again(late)
                    if len(pieces) > LARGEST:
                        raise _Refused(f"{self._name} sent more than {LARGEST} bytes")
                text = pieces.decode("utf-8", errors="replace")
                return response.status_code, response.headers, text
        except httpx.TimeoutException:
            raise _Again(late) from None
        except httpx.TransportError as error:
            raise _Again(f"cannot be reached: {self._clean(str(error))}") from None
        except httpx.HTTPError as error:
            raise _Refused(f"{self._name}: {self._clean(str(error))}") from None

    def _wait_turn(self) -> None:
        with self._lock:
            self.requests += 1
            if self.served.requests_per_minute is None:
                return
            now = time.monotonic()
            turn = max(now, self._next)
            self._next = turn + 60 / self.served.requests_per_minute
        time.sleep(turn - now)

    def _check_usable(self, status: int, text: str) -> None:
        where = f"{self.served.url} answered {status}: {self._clean(text)}"
        if status in (401, 403):
            hint = 'name the variable that holds the key: `api_key = secret("NAME")`'
            if self.served.api_key:
                hint = f"check the key in `{self.served.api_key['secret']}`"
            raise StageError(where, hint=hint)
        if status == 404 or 300 <= status < 400:
            raise StageError(where, hint="check the address (it often ends in /v1) and `model`")

    def _drop(self, asked: dict[str, Any], sent: dict[str, Any], text: str) -> None:
        """Go without a field that the server does not know; a vague refusal means the form of the
        answer, which the question asks for in words too. Only for a judge: a sampler's
        temperature is what the file says, or nothing."""
        if "response_format" not in asked:
            return
        named = {name for name in _OPTIONAL if name in sent and name in text}
        if not named and "response_format" in sent:
            named = {"response_format"}
        if named:
            with self._lock:
                self.dropped |= named
            raise _Dropped

    def _choice(self, document: Any) -> dict[str, Any]:
        try:
            choice = document["choices"][0]
            message = choice["message"]
        except (KeyError, IndexError, TypeError):
            raise _Again(
                f"answered without a choice: {self._clean(json.dumps(document))}"
            ) from None
        if message.get("refusal"):
            raise _Refused(f"{self._name} refused: {self._clean(str(message['refusal']))}")
        if not isinstance(message.get("content"), str):
            raise _Again("answered without a text")
        return {"text": message["content"], "cut": choice.get("finish_reason") == "length"}

    def _clean(self, text: str) -> str:
        """One short line without the key."""
        line = " ".join(_message(text).split())
        if self._key:
            line = line.replace(self._key, "…")
        return line if len(line) <= 200 else f"{line[:200]}…"


def _message(text: str) -> str:
    """What a server says went wrong, out of the usual forms of an error in JSON."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return text
    for name in ("error", "message", "detail"):
        if isinstance(found, dict) and name in found:
            found = found[name]
    return found if isinstance(found, str) else text


def drawn_tokens(document: Any) -> dict[str, Any] | str:
    """The tokens of an answer as vLLM's server writes them: `prompt_ids`, `ids`, `logps`, `text`
    and whether it was `cut`; or what is missing."""
    try:
        choice = document["choices"][0]
        ids = choice.get("token_ids")
        prompt = choice.get("prompt_token_ids") or document.get("prompt_token_ids")
        told = choice.get("logprobs") or {}
        logps = told.get("token_logprobs")
        if logps is None:
            logps = [entry["logprob"] for entry in told.get("content") or ()]
        text = choice["text"] if "text" in choice else choice["message"]["content"]
    except (KeyError, IndexError, TypeError, AttributeError):
        return "an answer that cannot be read"
    if not _numbers(ids, int) or not _numbers(prompt, int):
        return "no token ids"
    if not _numbers(logps, (int, float)) or len(logps) != len(ids):
        return "no log-prob for each token"
    cut = choice.get("finish_reason") == "length"
    return {"prompt_ids": prompt, "ids": ids, "logps": logps, "text": text or "", "cut": cut}


def _numbers(value: object, kind: type | tuple[type, ...]) -> bool:
    return bool(value) and isinstance(value, list) and all(isinstance(x, kind) for x in value)


class _Dropped(Exception):
    """A field was dropped: ask again at once."""


@dataclass(slots=True)
class _Refused(Exception):
    """Not worth another try."""

    reason: str
