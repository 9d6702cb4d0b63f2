"""Every source and verb, by name. A module is imported when its verb is first used."""

from __future__ import annotations

from importlib import import_module

from grape.compiler.verb import Verb

VERBS: dict[str, str] = {
    "pretrained": "grape.compiler.verbs.pretrained",
    "fresh": "grape.compiler.verbs.fresh",
    "served": "grape.compiler.verbs.served",
    "jsonl": "grape.compiler.verbs.jsonl",
    "parquet": "grape.compiler.verbs.parquet",
    "csv": "grape.compiler.verbs.csv",
    "hf": "grape.compiler.verbs.hf",
    "environment": "grape.compiler.verbs.environment",
    "train": "grape.compiler.verbs.train",
    "sample": "grape.compiler.verbs.sample",
    "score": "grape.compiler.verbs.score",
    "revise": "grape.compiler.verbs.revise",
    "keep": "grape.compiler.verbs.keep",
    "best": "grape.compiler.verbs.best",
    "pair": "grape.compiler.verbs.pair",
    "evaluate": "grape.compiler.verbs.evaluate",
    "merge": "grape.compiler.verbs.merge",
    "export": "grape.compiler.verbs.export",
}

KEYWORDS: dict[str, tuple[str, ...]] = {
    "model": ("pretrained", "fresh", "served"),
    "data": ("jsonl", "parquet", "csv", "hf", "environment"),
    "stage": (
        *("train", "sample", "score", "revise", "keep", "best", "pair"),
        *("evaluate", "merge", "export"),
    ),
}


def verb(name: str) -> Verb:
    """The verb of that name; KeyError when there is none."""
    made = import_module(VERBS[name]).VERB
    assert isinstance(made, Verb)
    return made
