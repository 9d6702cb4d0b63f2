"""`pretrained("SOURCE")`: a model that exists: a hub name, a folder, a `.gguf`, a package file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from grape.compiler.types import ArtifactType
from grape.compiler.verb import Secret, Settings, Verb


class PretrainedSettings(Settings):
    source: str
    """`hf:org/name[@revision]`, a folder, a `.gguf` file or `package:PKG/PATH`."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the weights; `auto` takes what the processor is fast at."""
    trust_remote_code: bool = False
    """Whether Python code that comes with the model may run."""
    head: Literal["score"] | None = None
    """`"score"`: a sequence classifier with one output, such as a reward model that Grape has
    published: it stands where a reward does."""
    token: Secret | None = None
    """`secret("NAME")` for a model of the hub that is not public."""


def _type(inputs: Mapping[str, ArtifactType], settings: Mapping[str, Any]) -> ArtifactType:
    return ArtifactType("Model", judges=settings["head"] == "score")


VERB = Verb("pretrained", "model", PretrainedSettings, _type, "1", literals=("source",))
