"""`python -m grape.runtime.rewards.apart FD`: a process that scores completions one by one.

Jobs come as JSON lines on its standard input, outcomes go as JSON lines to the descriptor FD; what
rewards print goes where the training's own output goes. It ends when its input does. It decides
nothing: what a failing reward means is said by whoever asks.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grape.runtime.artifacts import Completion, Rollouts
from grape.runtime.errors import StageError
from grape.runtime.rewards.evaluation import Failure, Scoring, outcome_of, prepared


class Serving:
    """The rewards of one stage, loaded once a round, as they are when a stage scores them all."""

    def __init__(self, job: Mapping[str, Any]) -> None:
        self.job = job
        self.turn: object = None
        self.ready: dict[int, Scoring] = {}

    def answer(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        if asked["turn"] != self.turn:
            self.turn, self.ready = asked["turn"], {}
        number: int = asked["expression"]
        expression, row = self.job["expressions"][number], Completion(**asked["row"])
        try:
            if number not in self.ready:
                empty = Rollouts([], {}, environment=asked["environment"])
                self.ready[number] = prepared(
                    expression,
                    empty,
                    Path(self.job["project"]),
                    self.job["timeout"],
                    self.job["retries"],
                )
            found, parts = outcome_of(expression, row, self.ready[number])
        except StageError as error:
            return {"error": [error.message, error.hint, error.code]}
        if isinstance(found, Failure):
            return {"failed": [found.part, found.reason], "parts": parts}
        return {"reward": found, "parts": parts}


def main(argv: list[str]) -> int:
    jobs = os.fdopen(os.dup(0), encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)  # a reward that reads finds nothing, as it does in the stage's process
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    outcomes = os.fdopen(int(argv[1]), "w", encoding="utf-8")
    serving: Serving | None = None
    for line in jobs:
        job = json.loads(line)
        if serving is None:
            serving = Serving(job)
            continue
        outcomes.write(json.dumps(serving.answer(job)) + "\n")
        outcomes.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
