"""Model headers: sizes and tokenizer of a model that lies on disk, read without its weights.

A folder with a `config.json`, a hub name that is in the cache, or a GGUF file goes in; facts, and
a function that counts the tokens of a text, come out. Nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

from grape.compiler.estimates.facts import ModelFacts, facts_of
from grape.compiler.gguf import read_gguf
from grape.compiler.keys import model_path

Counter = Callable[[str], int]
"""Counts the tokens of a text."""


@dataclass(frozen=True, slots=True)
class Header:
    facts: ModelFacts
    tokens: Counter | None
    """None when the tokenizer is of a kind that is not read here."""
    stored: int
    """Bytes on disk."""


def read_header(source: str, project: Path) -> Header:
    """The header of a model source. Raises ValueError, with one sentence, when there is none."""
    if source.startswith("hf:"):
        return folder_header(_cached(source))
    path = model_path(source, project)
    return gguf_header(path) if path.suffix == ".gguf" else folder_header(path)


def _cached(source: str) -> Path:
    """The newest snapshot of a hub model in the local cache."""
    name, _, revision = source.removeprefix("hf:").partition("@")
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    folder = cache / f"models--{name.replace('/', '--')}"
    pointer = folder / "refs" / (revision or "main")
    try:
        commit = pointer.read_text(encoding="utf-8").strip() if pointer.is_file() else revision
    except OSError:
        commit = ""
    snapshot = folder / "snapshots" / (commit or "main")
    if not (snapshot / "config.json").is_file():
        raise ValueError(f"`{source}` is not in the local cache, so its size is not known yet")
    return snapshot


def folder_header(folder: Path) -> Header:
    """From `config.json`, the headers of the safetensors files and `tokenizer.json`."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise ValueError(f"`{folder}` has no config.json that can be read") from None
    if not isinstance(config, dict):
        raise ValueError(f"the config.json of `{folder}` is no table")
    facts = facts_of(config, "config.json")
    weights = sorted(folder.glob("*.safetensors"))
    stored = sum(path.stat().st_size for path in weights)
    counts = [_safetensors_parameters(path) for path in weights]
    if counts and all(counts):
        facts = replace(facts, parameters=sum(counts), origin="config.json and safetensors headers")
    return Header(facts, _tokenizer(folder / "tokenizer.json"), stored)


_LONGEST_HEADER = 100_000_000


def _safetensors_parameters(path: Path) -> int:
    """Parameters that a safetensors file says it holds; 0 when it cannot be read."""
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > _LONGEST_HEADER:
                return 0
            header = json.loads(file.read(length))
        return sum(prod(row["shape"]) for name, row in header.items() if name != "__metadata__")
    except (OSError, ValueError, struct.error, KeyError, TypeError):
        return 0


def _tokenizer(path: Path) -> Counter | None:
    if not path.is_file():
        return None
    from tokenizers import Tokenizer

    try:
        core = Tokenizer.from_file(str(path))
    except Exception:  # the library raises plain Exception for a file that it cannot read
        return None
    return lambda text: len(core.encode(text, add_special_tokens=False).ids)


# --- GGUF -------------------------------------------------------------------------------------


def gguf_header(path: Path) -> Header:
    """From the key-value part and the tensor list of a GGUF file."""
    try:
        header = read_gguf(path)
    except (OSError, ValueError):
        raise ValueError(f"`{path.name}` has no GGUF header that can be read") from None
    values, shapes = header.values, header.shapes
    parameters = sum(
        prod(shape) for name, shape in shapes.items() if not name.startswith("rope_freqs")
    )
    family = values.get("general.architecture", "")

    def value(name: str) -> Any:
        return values.get(f"{family}.{name}")

    tokens = values.get("tokenizer.ggml.tokens") or []
    config = {
        "model_type": family,
        "num_hidden_layers": value("block_count"),
        "hidden_size": value("embedding_length"),
        "num_attention_heads": value("attention.head_count"),
        "num_key_value_heads": value("attention.head_count_kv"),
        "head_dim": value("attention.key_length"),
        "intermediate_size": value("feed_forward_length"),
        "vocab_size": len(tokens) or value("vocab_size"),
        "max_position_embeddings": value("context_length"),
        "tie_word_embeddings": "output.weight" not in shapes,
    }
    facts = replace(facts_of(config, "the GGUF header"), parameters=parameters)
    return Header(facts, _gguf_tokenizer(values), path.stat().st_size)


def _gguf_tokenizer(values: dict[str, Any]) -> Counter | None:
    """Byte-level BPE, the kind of most GGUF files; the splitting before it is taken as GPT-2's."""
    tokens, merges = values.get("tokenizer.ggml.tokens"), values.get("tokenizer.ggml.merges")
    if values.get("tokenizer.ggml.model") != "gpt2" or not tokens or not merges:
        return None
    from tokenizers import Tokenizer, models, pre_tokenizers

    pairs = [tuple(merge.split(" ")) for merge in merges if merge.count(" ") == 1]
    core = Tokenizer(models.BPE({token: place for place, token in enumerate(tokens)}, pairs))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return lambda text: len(core.encode(text, add_special_tokens=False).ids)
