"""The reward `environment()`: the verifier that comes with generated tasks.

The tasks are rebuilt from their name, options, size and seed, so that a verifier sees the very
entry that the prompt was made from, not a copy that went through JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from grape.runtime.artifacts import Completion
from grape.runtime.environments import build_tasks
from grape.runtime.errors import StageError
from grape.runtime.rewards.text import Scorer


def verifier(environment: Mapping[str, Any] | None) -> Scorer:
    """A function from a completion to the verifier's score, 0 … 1.

    Raises StageError when the rollouts do not come from `environment(…)` data.
    """
    if environment is None:
        raise StageError(
            "`environment()` is the verifier of generated tasks, and these prompts come from a "
            "file",
            hint='use `data N = environment("reasoning_gym:…")`, or another reward',
        )
    tasks = build_tasks(environment)

    def scorer(row: Completion) -> float:
        entry = tasks[row.columns["index"]]
        if entry["question"] != row.columns["question"]:
            raise StageError(
                f"task {row.columns['index']} of `{environment['name']}` is another one than when "
                "its prompt was made",
                hint="the installed reasoning-gym has changed; run the data source again",
            )
        return float(tasks.score_answer(row.text.strip(), entry))

    return scorer
