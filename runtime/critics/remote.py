"""A critic behind a server: structured answers, remembered in the store by what was asked.

A question that was answered before, by the same model to the same words, is not asked again.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from grape.compiler.keys import digest
from grape.runtime.critics.client import Client
from grape.runtime.critics.questions import Answer, Failed, Question, Verdict, in_json
from grape.runtime.critics.server import Served


def judge(
    served: Served,
    questions: Sequence[Question],
    done: Callable[[int], None],
    *,
    memory: Path,
    pause: float = 0.5,
) -> list[Answer]:
    """An answer for each question. `memory` is the folder of remembered answers. Raises StageError
    where the server cannot be used at all."""
    asked = [Asked(_body(served, question), partial(_judges, question)) for question in questions]
    texts = texts_of(served, asked, done, memory=memory, pause=pause)
    return [
        text if isinstance(text, Failed) else read_answer(question, text)
        for question, text in zip(questions, texts, strict=True)
    ]


def _judges(question: Question, text: str) -> bool:
    return read_answer(question, text).score is not None


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, and whether a text answers it: only such texts are remembered."""

    body: dict[str, Any]
    answers: Callable[[str], bool]


def texts_of(
    served: Served,
    asked: Sequence[Asked],
    done: Callable[[int], None],
    *,
    memory: Path,
    pause: float = 0.5,
) -> list[str | Failed]:
    """What the server writes, or wrote before, to each request; raises as `judge`."""
    client = Client(served, pause=pause)
    lock = threading.Lock()
    finished = 0

    def one(request: Asked) -> str | Failed:
        nonlocal finished
        text = _text(client, request, memory)
        with lock:
            finished += 1
            done(finished)
        return text

    pool = ThreadPoolExecutor(served.max_concurrency)
    try:
        return list(pool.map(one, asked))
    finally:
        pool.shutdown(cancel_futures=True)
        client.close()


def answer_of(client: Client, question: Question, memory: Path) -> Answer:
    """The remembered answer to a question, else the one that the server gives now."""
    asked = Asked(_body(client.served, question), partial(_judges, question))
    text = _text(client, asked, memory)
    return text if isinstance(text, Failed) else read_answer(question, text)


def _text(client: Client, request: Asked, memory: Path) -> str | Failed:
    place = memory / f"{digest([client.served.url, request.body])}.json"
    known = _recall(place)
    if known is not None:
        return known
    made = client.chat(request.body)
    if isinstance(made, Failed):
        return made
    text: str = made["text"]
    if request.answers(text):
        _remember(place, text)
    return text


def _body(served: Served, question: Question) -> dict[str, Any]:
    score: dict[str, Any] = {"type": "string", "enum": ["yes", "no"]}
    if question.scale is not None:
        score = {"type": "integer", "enum": list(range(1, question.scale + 1))}
    fields = {
        "reasoning": {"type": "string"},
        "score": score,
        "confidence": {"type": "number"},
    }
    return body_of(served, in_json(question), "judgement", fields)


def body_of(served: Served, text: str, name: str, fields: dict[str, Any]) -> dict[str, Any]:
    """A request for one JSON object with these fields, which have a JSON schema each."""
    schema = {
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": False,
    }
    form = {"name": name, "strict": True, "schema": schema}
    return {
        "model": served.model,
        "messages": [{"role": "user", "content": text}],
        "temperature": 0,
        "max_tokens": served.max_tokens,
        "response_format": {"type": "json_schema", "json_schema": form},
    }


def read_answer(question: Question, text: str) -> Verdict:
    """The judgement in a critic's text; its score is None where the text holds none."""
    unread = Verdict(None, 0.0, text)
    for found in objects_in(text):
        confidence = _share(found.get("confidence"))
        number = _number(question, found.get("score"))
        if number is not None and confidence is not None:
            reasons = str(found.get("reasoning", ""))
            return Verdict(question.score(number), confidence, reasons)
    return unread


def objects_in(text: str) -> list[dict[str, Any]]:
    """The JSON objects in a text, the last one first: reasons may stand before the answer."""
    decoder = json.JSONDecoder()
    found: list[dict[str, Any]] = []
    at = text.find("{")
    while at >= 0:
        try:
            made, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            end = at + 1
        else:
            if isinstance(made, dict):
                found.insert(0, made)
        at = text.find("{", end)
    return found


def _number(question: Question, score: object) -> int | None:
    """The place of an answer in `question.answers`."""
    if question.scale is None and isinstance(score, bool):
        return int(score)
    if isinstance(score, bool) or not isinstance(score, (str, int, float)):
        return None
    if isinstance(score, float) and score.is_integer():
        score = int(score)
    word = str(score).strip().strip(".").lower()
    return question.answers.index(word) if word in question.answers else None


def _share(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        return None
    return float(value)


def _recall(place: Path) -> str | None:
    """A remembered answer. One that cannot be read is asked for again."""
    try:
        return str(json.loads(place.read_text(encoding="utf-8"))["text"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(place: Path, text: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = place.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    fresh.write_text(json.dumps({"text": text}), encoding="utf-8")
    fresh.replace(place)
