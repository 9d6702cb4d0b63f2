"""What files tell without weights: the first rows of data, tokenizers, context lengths.

Everything is read once and only below the project, an installed package or the local hub cache.
A file that cannot be read is a `Trouble`, told once; what nobody can know yet is None.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from grape.compiler.gguf import read_gguf
from grape.compiler.graph import Stage
from grape.compiler.hygiene.walk import Local, input_of
from grape.compiler.keys import model_path
from grape.runtime.artifacts import Data, Item
from grape.runtime.errors import StageError
from grape.runtime.probe.tokens import Light, from_folder, from_gguf
from grape.runtime.rows import READERS

ROWS = 64
"""Rows of each data source that are looked at."""
TRAINED_ON = 5_000
"""Rows on which a fresh tokenizer is trained while probing."""
LONGEST_LINE = 16 * 2**20
TASKS = 16
FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)


class Trouble(Exception):
    """A file that cannot be used: the code, one sentence, the part of the data it is about."""

    def __init__(
        self, code: str, message: str, *, part: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.part, self.hint = code, message, part, hint


@dataclass(slots=True)
class Model:
    """What is known of a model: its tokenizer, context in tokens, architecture."""

    tokenizer: Light | None = None
    context: int | None = None
    architecture: str | None = None
    identity: str | None = None
    """Names the tokenizer; equal for models that share it."""
    outputs: int | None = None
    """Of a sequence classifier: how many numbers it gives. None for any other model."""


@dataclass(slots=True)
class Facts:
    """Files read so far, by stage."""

    project: Path
    rows: dict[str, list[Item] | Trouble] = field(default_factory=dict)
    models: dict[str, Model | Trouble] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)
    """Models of which nothing can be known here."""

    def items(self, stage: Stage) -> list[Item]:
        """The first items of a data source. Raises Trouble."""
        if stage.name not in self.rows:
            try:
                self.rows[stage.name] = first_items(stage, self.project, ROWS)
            except Trouble as trouble:
                self.rows[stage.name] = trouble
        found = self.rows[stage.name]
        if isinstance(found, Trouble):
            raise found
        return found

    def model(self, stage: Stage, local: Local) -> Model:
        """What is known of a model source. Raises Trouble."""
        if stage.name not in self.models:
            try:
                self.models[stage.name] = self._read(stage, local)
            except Trouble as trouble:
                self.models[stage.name] = trouble
        found = self.models[stage.name]
        if isinstance(found, Trouble):
            raise found
        return found

    def _read(self, stage: Stage, local: Local) -> Model:
        if stage.verb == "fresh":
            return self._fresh(stage, local)
        source: str = stage.settings["source"]
        try:
            if source.startswith("hf:"):
                files = _cached(source)
                if not files:
                    self.unknown.append(source)
                return _described(files)
            path = model_path(source, self.project)
            if path.is_file():
                return _gguf(read_gguf(path).values)
            root = path if source.startswith("package:") else self.project
            return _described(_files(path, root))
        except (ValueError, KeyError, TypeError, OSError) as error:
            reason = str(error.args[0]) if error.args else type(error).__name__
            raise Trouble("G435", f"`{source}` cannot be read: {reason}") from None

    def _fresh(self, stage: Stage, local: Local) -> Model:
        settings = stage.settings
        known = Model(context=settings["context"], architecture=settings["architecture"])
        if settings["tokenizer"] not in ("trained", "bytes"):
            folder = self.project / settings["tokenizer"]
            try:
                known.tokenizer = from_folder(_files(folder, self.project))
            except ValueError as error:
                raise Trouble("G435", f"the tokenizer cannot be read: {error}") from None
        else:
            known.tokenizer = self._trained(stage, local)
        known.identity = known.tokenizer.identity() if known.tokenizer else None
        return known

    def _trained(self, stage: Stage, local: Local) -> Light | None:
        """The tokenizer that `fresh` will train, on up to `TRAINED_ON` rows."""
        from grape.runtime.core.tokenizer import END, PAD, texts_of, train_core

        texts: list[str] = []
        if stage.settings["tokenizer"] == "trained":
            edge = input_of(stage, "data")
            source = local.get(edge.source) if edge is not None else None
            if source is None or source.type.name != "Data" or source.verb == "hf":
                return None
            if source.verb == "environment":
                items = self.items(source)
            else:
                items = first_items(source, self.project, TRAINED_ON)
            texts = list(texts_of(Data(items, {})))
        return Light(train_core(texts, stage.settings["vocab"]), END, None, PAD)


def first_items(stage: Stage, project: Path, count: int) -> list[Item]:
    """The first items of a data source, templates filled. Raises Trouble: G420 for a column that
    is not there, G432 for a package, G434 for rows that cannot be read."""
    from grape.runtime.verbs import data

    settings = stage.settings
    try:
        if stage.verb == "environment":
            size = min(settings["size"], TASKS)
            some = {**settings, "size": size, "split": None}
            return data.run_environment(some).items
        path = project / settings["path"]
        _check_lines(path, stage.verb, settings["path"])
        reader = READERS[stage.verb](path, settings["path"])
        rows = list(islice(reader, min(count, settings["limit"] or count)))
    except StageError as error:
        raise Trouble("G434", error.message, hint=error.hint) from None
    if not rows:
        raise Trouble("G434", f'"{settings["path"]}" has no rows')
    _check_columns(rows[0][1], settings)
    try:
        return data.items_of(iter(rows), settings, settings["path"])
    except StageError as error:
        raise Trouble("G434", error.message, hint=error.hint) from None


def _check_lines(path: Path, verb: str, shown: str) -> None:
    """A line without end would be read into memory whole."""
    if verb == "parquet" or path.stat().st_size <= LONGEST_LINE:
        return
    with path.open("rb") as file:
        if b"\n" not in file.read(LONGEST_LINE):
            raise Trouble("G434", f'the first line of "{shown}" is longer than 16 MiB')


def _check_columns(row: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    from grape.compiler.sources import PARTS
    from grape.compiler.templates import parse_template
    from grape.dsl.nearest import did_you_mean

    for part in PARTS:
        text = settings.get(part)
        for column in parse_template(text).columns if text is not None else ():
            if column not in row:
                raise Trouble(
                    "G420",
                    f"the template of `{part}` names the column `{column}`, and the first row of "
                    f'"{settings["path"]}" has none{did_you_mean(column, row)}',
                    part=part,
                    hint=f"its columns are {', '.join(row)}" if row else None,
                )


def _files(folder: Path, root: Path) -> dict[str, Path]:
    """The files of a model folder that lie inside `root`, links followed."""
    found = {}
    for name in FILES:
        path = folder / name
        if path.is_file() and path.resolve().is_relative_to(root.resolve()):
            found[name] = path
    return found


def _cached(source: str) -> dict[str, Path]:
    """Files of a hub model that were downloaded before."""
    from huggingface_hub import try_to_load_from_cache

    name, _, revision = source.removeprefix("hf:").partition("@")
    found = {}
    for file in FILES:
        place = try_to_load_from_cache(name, file, revision=revision or None)
        if isinstance(place, str):
            found[file] = Path(place)
    return found


def _described(files: Mapping[str, Path]) -> Model:
    config: dict[str, Any] = {}
    if "config.json" in files:
        config = json.loads(files["config.json"].read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise ValueError("its config.json is no object")
    config = {**config, **config.get("text_config", {})}
    context = config.get("max_position_embeddings") or config.get("n_positions")
    tokenizer = from_folder(files)
    return Model(
        tokenizer,
        context if isinstance(context, int) else None,
        config.get("model_type"),
        tokenizer.identity() if tokenizer else None,
        _outputs(config),
    )


def _outputs(config: Mapping[str, Any]) -> int | None:
    classes = config.get("architectures") or ()
    if not any(str(name).endswith("ForSequenceClassification") for name in classes):
        return None
    return len(config.get("id2label") or "ab")  # transformers leaves two labels unsaid


def _gguf(header: Mapping[str, Any]) -> Model:
    architecture = header.get("general.architecture")
    tokenizer = from_gguf(header)
    return Model(
        tokenizer,
        header.get(f"{architecture}.context_length"),
        architecture,
        tokenizer.identity() if tokenizer else None,
    )
