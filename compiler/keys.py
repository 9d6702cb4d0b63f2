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

from grape.compiler.graph import Stage

KEY_VERSION = 1
NEUTRAL = frozenset({"checkpoint", "micro_tokens", "timeout"})
"""Settings that change how work is done and not what comes out."""


def digest(document: object) -> str:
    """A short digest of a JSON document, independent of the order of its keys."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class Files:
    """Digests of files, remembered by path, size and time of change."""

    def __init__(self, memory: Path | None) -> None:
        self.memory = memory
        self.known: dict[str, str] = {}
        self.changed = False
        if memory is not None and memory.is_file():
            self.known = json.loads(memory.read_text(encoding="utf-8"))

    def digest(self, path: Path) -> str:
        """Digest of a file's bytes, or of all files of a folder. ValueError when it is missing."""
        if path.is_dir():
            inside = sorted(item for item in path.rglob("*") if item.is_file())
            return digest([[str(item.relative_to(path)), self.digest(item)] for item in inside])
        try:
            facts = path.stat()
        except OSError:
            raise ValueError(f"there is no file `{path}`") from None
        name = f"{path.resolve()}|{facts.st_size}|{facts.st_mtime_ns}"
        if name not in self.known:
            with path.open("rb") as file:
                self.known[name] = hashlib.file_digest(file, "sha256").hexdigest()
            self.changed = True
        return self.known[name]

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


def key_document(
    stage: Stage, version: str, inputs: Mapping[str, str], project: Path, files: Files
) -> dict[str, Any]:
    """What the key of a stage is a digest of. `inputs` maps stage names to keys (or, in a repeat,
    to positions)."""
    document: dict[str, Any] = {
        "key": KEY_VERSION,
        "verb": stage.verb,
        "version": version,
        "settings": {k: v for k, v in stage.settings.items() if k not in NEUTRAL},
        "inputs": [
            [edge.port if stage.verb != "repeat" else "", inputs[edge.source], edge.view]
            for edge in stage.inputs
        ],
    }
    if stage.formula is not None:
        formula = stage.formula.to_json()
        del formula["name"], formula["params"]
        document["formula"] = formula
    if stage.reward is not None:
        document["reward"] = stage.reward
    contents = {name: files.digest(path) for name, path in _reads(stage, project)}
    if contents:
        document["files"] = contents
    return document


def _reads(stage: Stage, project: Path) -> Iterator[tuple[str, Path]]:
    """The files that a stage reads: data, models, the source of Python rewards."""
    settings = stage.settings
    if stage.verb in ("jsonl", "parquet", "csv"):
        yield "data", project / settings["path"]
    if stage.verb == "pretrained" and not settings["source"].startswith("hf:"):
        yield "model", model_path(settings["source"], project)
    if stage.verb == "fresh" and settings["tokenizer"] not in ("trained", "bytes"):
        yield "tokenizer", project / settings["tokenizer"]
    for call in _python_calls(stage.reward):
        name = call["params"]["source"].rpartition(":")[0]
        yield name, project / name


def model_path(source: str, project: Path) -> Path:
    """The file or folder of a model source. ValueError when its package is not installed."""
    if not source.startswith("package:"):
        return project / source
    package, _, inside = source.removeprefix("package:").partition("/")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(f"the Python package `{package}` is not installed")
    return Path(next(iter(spec.submodule_search_locations))) / inside


def _python_calls(reward: Any) -> Iterator[dict[str, Any]]:
    if isinstance(reward, dict):
        if reward.get("op") == "call" and reward.get("name") == "python":
            yield reward
        for value in reward.values():
            yield from _python_calls(value)
    elif isinstance(reward, list):
        for value in reward:
            yield from _python_calls(value)
