"""`pretrained("SOURCE")`: a model that exists: a hub name, a folder, a `.gguf`, a package file."""

from __future__ import annotations

from typing import Literal

from grape.compiler.verb import Secret, Settings, Verb, makes


class PretrainedSettings(Settings):
    source: str
    """`hf:org/name[@revision]`, a folder, a `.gguf` file or `package:PKG/PATH`."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the weights; `auto` takes what the processor is fast at."""
    trust_remote_code: bool = False
    """Whether Python code that comes with the model may run."""
    token: Secret | None = None
    """`secret("NAME")` for a model of the hub that is not public."""


VERB = Verb("pretrained", "model", PretrainedSettings, makes("Model"), "1", literals=("source",))
