"""Rewards that are computed while the completions of other prompts are still being drawn.

A group goes to processes of their own (or, as questions, to a served critic) as soon as it is
finished. Whoever scores the rollouts afterwards asks here first; what comes out, errors and their
order among them, is what it would have found itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from grape.compiler.plan import PlannedStage
from grape.runtime.artifacts import Completion
from grape.runtime.critics.questions import Answer, Question, ask
from grape.runtime.critics.server import Served
from grape.runtime.errors import StageError
from grape.runtime.rewards.clock import Pace
from grape.runtime.rewards.evaluation import Failure, Node, Outcome, walk

SLOW = frozenset({"python", "unit_tests", "sql", "math", "environment"})
"""Built-in rewards that take longer than a completion takes to travel."""
_HERE = frozenset({"classifier"})
"""Those that want the device of the training process."""
_FIELDS = [one.name for one in fields(Completion)]


def overlapping(
    stage: PlannedStage, project: Path, critics: Mapping[str, Any], answers: Path
) -> Overlap | None:
    """The overlap of a `score` stage; none where it is switched off or has nothing to gain."""
    reward, workers = stage.reward, stage.settings.get("workers", 0)
    if not workers or reward is None or reward["op"] == "model":
        return None
    expressions: list[Node] = [reward]
    asked: list[Node] = []
    if reward["op"] == "rubric":
        items = [item for category in reward["categories"] for item in category["items"]]
        expressions = [item["value"] for item in items if "value" in item]
        asked = [i["ask"] for i in items if "ask" in i and _served(critics, i["ask"])]
    slow = [expression for expression in expressions if _is_slow(expression)]
    if not slow and not asked:
        return None
    return Overlap(stage, project, slow, workers, critics if asked else {}, answers)


def _served(critics: Mapping[str, Any], asked: Node) -> bool:
    return isinstance(critics.get(asked["critic"]), Served)


def _is_slow(expression: Node) -> bool:
    names = {node["name"] for node in walk(expression) if node["op"] == "call"}
    return bool(names & SLOW) and not names & _HERE


@dataclass(slots=True)
class Overlap:
    """What is known, or being found out, of the completions drawn last."""

    stage: PlannedStage
    project: Path
    expressions: list[Node]
    workers: int
    critics: Mapping[str, Any]
    answers: Path
    turn: object = None
    rows: dict[int, Completion] = field(default_factory=dict)
    """By identity, which also keeps them, and so their identities, from being used again."""
    _found: dict[tuple[int, int], Future[Outcome]] = field(default_factory=dict)
    _said: dict[tuple[str, Question], Future[Answer]] = field(default_factory=dict)
    _scorers: _Scorers | None = None
    _asking: dict[str, _Asking] = field(default_factory=dict)

    def take(
        self, rows: Sequence[Completion], environment: Mapping[str, Any] | None, turn: object
    ) -> None:
        """Finished completions of a `turn`; a new one forgets what was."""
        if turn != self.turn:
            self.turn, self.rows = turn, {}
            self._found.clear()
            self._said.clear()
        for row in rows:
            self.rows[id(row)] = row
            for expression in self._of(row):
                if self._scorers is None:
                    self._scorers = _Scorers(self.stage, self.project, self.expressions)
                found = self._scorers.submit(expression, row, environment, str(turn))
                self._found[id(self.expressions[expression]), id(row)] = found
            for name, question in self._questions(row):
                if (name, question) not in self._said:
                    self._said[name, question] = self._critic(name).submit(question)

    def _items(self, row: Completion) -> list[Node]:
        """The items of a rubric that judge a completion; scoring tells what is wrong with it."""
        from grape.runtime.rubric import category_of

        assert self.stage.reward is not None
        try:
            number = category_of(self.stage.reward, row)
        except StageError:
            return []
        items: list[Node] = self.stage.reward["categories"][number]["items"]
        return items

    def _of(self, row: Completion) -> list[int]:
        """The numbers of the expressions that a completion is scored by."""
        assert self.stage.reward is not None
        if self.stage.reward["op"] != "rubric":
            return list(range(len(self.expressions)))
        own = {id(item["value"]) for item in self._items(row) if "value" in item}
        return [n for n, expression in enumerate(self.expressions) if id(expression) in own]

    def _questions(self, row: Completion) -> Iterator[tuple[str, Question]]:
        if not self.critics:
            return
        for item in self._items(row):
            if "ask" in item and _served(self.critics, item["ask"]):
                try:
                    question = ask(item["ask"]["question"], item["ask"]["scale"], row)
                except StageError:
                    continue
                yield item["ask"]["critic"], question

    def _critic(self, name: str) -> _Asking:
        if name not in self._asking:
            self._asking[name] = _Asking(self.critics[name], self.answers)
        return self._asking[name]

    def outcome(self, expression: Node, row: Completion) -> Outcome | None:
        """What a reward gave, waited for where it is not known yet; None for what was not taken.
        Raises StageError where the reward cannot be used."""
        found = self._found.get((id(expression), id(row)))
        return found.result() if found is not None and id(row) in self.rows else None

    def answer(self, critic: str, question: Question) -> Answer | None:
        """What a served critic said; None where it was not asked. Raises as asking it does."""
        said = self._said.get((critic, question))
        return said.result() if said is not None else None

    def close(self) -> None:
        for part in (self._scorers, *self._asking.values()):
            if part is not None:
                part.close()


class _Asking:
    """One served critic, asked from several threads."""

    def __init__(self, served: Served, answers: Path) -> None:
        from grape.runtime.critics.client import Client

        self.client, self.answers = Client(served), answers
        self.pool = ThreadPoolExecutor(served.max_concurrency)

    def submit(self, question: Question) -> Future[Answer]:
        from grape.runtime.critics.remote import answer_of

        return self.pool.submit(answer_of, self.client, question, self.answers)

    def close(self) -> None:
        self.pool.shutdown(cancel_futures=True)
        self.client.close()


class _Scorers:
    """Processes that score, each led by a thread."""

    def __init__(self, stage: PlannedStage, project: Path, expressions: Sequence[Node]) -> None:
        settings = stage.settings
        self.job = {
            "expressions": list(expressions),
            "project": str(project),
            "timeout": settings["timeout"],
            "retries": settings["retries"],
        }
        self.tries: int = settings["retries"] + 1
        self.paces = [Pace(settings["calls_per_minute"]) for _ in expressions]
        self.turns = threading.Lock()
        self.own = threading.local()
        self.started: list[_Process] = []
        self.closed = False
        self.pool = ThreadPoolExecutor(settings["workers"])

    def submit(
        self, number: int, row: Completion, environment: Mapping[str, Any] | None, turn: str
    ) -> Future[Outcome]:
        shown = {name: getattr(row, name) for name in _FIELDS}
        job = {"turn": turn, "expression": number, "environment": environment, "row": shown}
        return self.pool.submit(self._score, number, json.dumps(job))

    def _score(self, number: int, job: str) -> Outcome:
        with self.turns:
            self.paces[number].wait()
        why = ""
        for _ in range(self.tries):
            if self.closed:
                break
            process = self._process()
            told = process.ask(job)
            if told is not None:
                return _read(told)
            self.own.process, why = None, process.why()
        return Failure("the reward", f"ended its process ({why})"), {}

    def _process(self) -> _Process:
        """That of this thread, started anew where the last one ended."""
        process: _Process | None = getattr(self.own, "process", None)
        if process is None:
            process = self.own.process = _Process(json.dumps(self.job))
            self.started.append(process)
        return process

    def close(self) -> None:
        self.closed = True
        self.pool.shutdown(wait=False, cancel_futures=True)
        for process in list(self.started):
            process.process.kill()
        self.pool.shutdown()
        for process in self.started:
            process.close()


def _read(told: Mapping[str, Any]) -> Outcome:
    if "error" in told:
        message, hint, code = told["error"]
        raise StageError(message, hint=hint, code=code)
    if "failed" in told:
        return Failure(*told["failed"]), told["parts"]
    return told["reward"], told["parts"]


class _Process:
    """One process of `apart`. It has the group of this one, and ends with it."""

    def __init__(self, job: str) -> None:
        read, write = os.pipe()
        command = [sys.executable, "-m", "grape.runtime.rewards.apart", str(write)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(write,))
        os.close(write)
        self.outcomes = os.fdopen(read, encoding="utf-8")
        self.ask(job, answered=False)

    def ask(self, job: str, *, answered: bool = True) -> dict[str, Any] | None:
        """The outcome of a job; None where the process ended over it."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(job.encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            return None
        line = self.outcomes.readline() if answered else ""
        told: dict[str, Any] | None = json.loads(line) if line else None
        return told

    def why(self) -> str:
        code = self.process.wait()
        return f"exit code {code}" if code >= 0 else f"signal {-code}"

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.outcomes.close()
