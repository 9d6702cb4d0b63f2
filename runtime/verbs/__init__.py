"""What each verb does: `run(context, inputs) -> artifact`, imported when it is first needed.

The values are module names, so that a stage that only handles text never imports torch.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any

from grape.runtime import ranks
from grape.runtime.context import Context

Run = Callable[[Context, dict[str, Any]], Any]

VERBS: dict[str, str] = {
    "pretrained": "grape.runtime.verbs.pretrained",
    "fresh": "grape.runtime.verbs.fresh",
    "served": "grape.runtime.verbs.served",
    "jsonl": "grape.runtime.verbs.data",
    "parquet": "grape.runtime.verbs.data",
    "csv": "grape.runtime.verbs.data",
    "hf": "grape.runtime.verbs.data",
    "environment": "grape.runtime.verbs.data",
    "train": "grape.runtime.verbs.train",
    "sample": "grape.runtime.verbs.sample",
    "score": "grape.runtime.verbs.score",
    "revise": "grape.runtime.verbs.revise",
    "keep": "grape.runtime.verbs.keep",
    "best": "grape.runtime.verbs.best",
    "pair": "grape.runtime.verbs.pair",
    "evaluate": "grape.runtime.verbs.evaluate",
    "merge": "grape.runtime.verbs.merge",
    "export": "grape.runtime.verbs.export",
}


def run_of(verb: str) -> Run:
    """The function of a verb; KeyError when there is none. Rows are shared out among as many of
    the processes as the stage asks for."""
    run: Run = import_module(VERBS[verb]).run

    def shared(context: Context, inputs: dict[str, Any]) -> Any:
        with ranks.among(context.stage.settings.get("processes", ranks.size())):
            return run(context, inputs)

    return shared


def ready(verbs: Iterable[str]) -> None:
    """Import what these verbs need, at the start of a process. Modules stay for good: the garbage
    collector, which would look through torch's again and again, comes in afterwards only."""
    gc.disable()
    try:
        for verb in verbs:
            run_of(verb)
    finally:
        gc.freeze()
        gc.enable()
