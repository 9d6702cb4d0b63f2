"""Content keys: equal keys, equal artifacts.

A key is a digest of a document that holds all that can change the result: the verb and its
version, the settings that matter, the keys of the inputs, the formula, the reward, and the content
of the files that are read. Names, comments, order and formatting are not in it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from grape.compiler.graders import reward_files
from grape.compiler.graph import Edge, Stage
from grape.compiler.tools import sources
from grape.compiler.verbs import VERBS, verb

KEY_VERSION = 1
WATCHED = frozenset(
    {"ratio_tolerance", "engine_tolerance", "patience", "max_truncated", "min_entropy", "max_kl"}
)
COMPUTED = frozenset(
    {"micro_tokens", "share_prompts", "packed", "fused_head", "skip_idle", "own_layers"}
)
SHARED = frozenset({"processes"})
DECODED = frozenset({"rows", "compact", "own_layers", "keep_activations", "pack_weights"})
NEUTRAL: dict[str, frozenset[str]] = {
    "train": WATCHED | COMPUTED | SHARED | {"checkpoint"},
    "sample": DECODED | SHARED | {"engine_memory"},
    "score": frozenset({"calls_per_minute", "workers"}),
    "revise": frozenset({"rows", "calls_per_minute"}),
    "evaluate": DECODED | SHARED | {"calls_per_minute"},
}
"""By verb: settings that change how work is done and not what comes out."""
ADDED: dict[str, dict[str, Any]] = {
    "pretrained": {"head": None},
    "sample": {"greedy": False, "sampler": None, "curriculum": None},
    "evaluate": {"sampler": None},
    "served": {"tokens": False},
    "repeat": {"staleness": 0},
    "score": {"cluster": None},
    "keep": {"top": None, "prompts": None, "max_tries": 10, "replay": None, "count": None},
}
"""By verb: settings that came later. Left at these values, a stage keeps the key that it had."""


def digest(document: object) -> str:
    """A short digest of a JSON document, independent of the order of its keys."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Files:
    """Digests of files, remembered by path as long as size and time of change stay."""

    def __init__(self, memory: Path | None) -> None:
        self.memory = memory
        self.known: dict[str, list[Any]] = _remembered(memory)
        self.changed = False

    def digest(self, path: Path) -> str:
        """Digest of a file's bytes, or of all files of a folder by name. ValueError when it is
        missing or cannot be read."""
        if path.is_dir():
            inside = sorted(item for item in path.rglob("*") if item.is_file())
            return digest(
                [[item.relative_to(path).as_posix(), self.digest(item)] for item in inside]
            )
        name = str(path.resolve())
        try:
            facts = path.stat()
            before = self.known.get(name)
            if before is not None and before[:2] == [facts.st_size, facts.st_mtime_ns]:
                return str(before[2])
            with path.open("rb") as file:
                made = hashlib.file_digest(file, "sha256").hexdigest()
        except (FileNotFoundError, NotADirectoryError):
            raise ValueError(f"there is no file or folder `{path}`") from None
        except OSError as error:
            raise ValueError(f"`{path}` cannot be read: {error.strerror}") from None
        self.known[name] = [facts.st_size, facts.st_mtime_ns, made]
        self.changed = True
        return made

    def save(self) -> None:
        """Write the memory back; a project that cannot be written goes without."""
        if self.memory is None or not self.changed or not self.memory.parent.is_dir():
            return
        fresh = self.memory.with_suffix(f".{os.getpid()}")
        try:
            fresh.write_text(json.dumps(self.known), encoding="utf-8")
            fresh.replace(self.memory)
        except OSError:
            return


def _remembered(memory: Path | None) -> dict[str, list[Any]]:
    """What an earlier run noted. It only saves reading files again, so a memory that cannot be
    read, or is of another make, is started anew."""
    try:
        noted = json.loads(memory.read_text(encoding="utf-8")) if memory else {}
    except (OSError, ValueError):
        return {}
    if not isinstance(noted, dict):
        return {}
    return {k: v for k, v in noted.items() if isinstance(v, list) and len(v) == 3}


def key_document(
    stage: Stage, version: str, inputs: Mapping[str, str], project: Path, files: Files
) -> dict[str, Any]:
    """What the key of a stage is a digest of. `inputs` maps stage names to keys (or, in a repeat,
    to positions). ValueError when a file that the stage reads is missing."""
    document: dict[str, Any] = {
        "key": KEY_VERSION,
        "verb": stage.verb,
        "version": version,
        "settings": _relevant(stage),
        "inputs": [
            [edge.port if stage.verb != "repeat" else "", inputs[edge.source], edge.view]
            for edge in _by_port(stage)
        ],
    }
    if stage.formula is not None:
        formula = stage.formula.to_json()
        del formula["name"], formula["params"]
        document["formula"] = formula
    if stage.reward is not None:
        document["reward"] = stage.reward
    try:
        contents = {name: files.digest(path) for name, path in reads(stage, project)}
    except ValueError as error:
        raise ValueError(f"`{stage.name}`: {error}") from None
    if contents:
        document["files"] = contents
    return document


def _relevant(stage: Stage) -> dict[str, Any]:
    """The settings that can change what comes out. A reward's `timeout` and `retries` can only
    where a failing reward gets a number; elsewhere it stops the run, and nothing comes out."""
    neutral = NEUTRAL.get(stage.verb, frozenset())
    if stage.settings.get("on_error") == "stop":
        neutral |= {"timeout", "retries"}
    if stage.settings.get("token", "") is None:
        neutral |= {"token"}  # data and models that need none keep the keys that they had
    added = ADDED.get(stage.verb, {})
    neutral |= {name for name, value in added.items() if stage.settings.get(name) == value}
    return {name: value for name, value in stage.settings.items() if name not in neutral}


def _by_port(stage: Stage) -> list[Edge]:
    """Inputs in the order of the verb's ports, then a rubric's models by name, whatever the order
    of `name = value` in the file."""
    if stage.verb not in VERBS:
        return list(stage.inputs)
    places = {port.name: place for place, port in enumerate(verb(stage.verb).ports)}
    return sorted(stage.inputs, key=lambda edge: (places.get(edge.port, len(places)), edge.port))


def reads(stage: Stage, project: Path) -> Iterator[tuple[str, Path]]:
    """The files that a stage reads: data, models, the files of rewards and tools."""
    settings = stage.settings
    if stage.verb in ("jsonl", "parquet", "csv"):
        yield "data", project / settings["path"]
    if stage.verb == "hf" and settings["path"].startswith(("./", "../")):
        yield "data", project / settings["path"]
    if stage.verb == "pretrained" and not settings["source"].startswith("hf:"):
        yield "model", model_path(settings["source"], project)
    if stage.verb == "fresh" and settings["tokenizer"] not in ("trained", "bytes"):
        yield "tokenizer", project / settings["tokenizer"]
    for call in _calls(stage.reward):
        for name in reward_files(call["name"], call["params"]):
            yield name, project / name
    for source in sources(settings):
        name = source.partition(":")[0]
        yield name, project / name


def model_path(source: str, project: Path) -> Path:
    """The file or folder of a model source. ValueError when its package is not installed.

    The package is only looked up, never imported; for that its name may have no dot."""
    if not source.startswith("package:"):
        return project / source
    package, _, inside = source.removeprefix("package:").partition("/")
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"the Python package `{package}` is not installed")
    return Path(next(iter(spec.submodule_search_locations))) / inside


def _calls(reward: Any) -> Iterator[dict[str, Any]]:
    if isinstance(reward, dict):
        if reward.get("op") == "call":
            yield reward
        for value in reward.values():
            yield from _calls(value)
    elif isinstance(reward, list):
        for value in reward:
            yield from _calls(value)
