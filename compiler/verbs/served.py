"""`served("http://…")`: a model behind an OpenAI-compatible server. It judges or samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from grape.compiler.types import SERVER, ArtifactType
from grape.compiler.verb import Duration, Secret, Settings, Verb

Count = Annotated[int, Field(ge=1)]


class ServedSettings(Settings):
    url: Annotated[str, Field(pattern=r"^https?://[^/@\s]+(/\S*)?$")] = Field(
        examples=["http://localhost:8000/v1"]
    )
    """The address that `/chat/completions` is added to."""
    model: str
    """The name by which the server knows the model."""
    api_key: Secret | None = None
    """`secret("NAME")`: the environment variable that holds the key."""
    timeout: Annotated[Duration, Field(gt=0)] = 60.0
    """Longest time for one answer."""
    retries: Annotated[int, Field(ge=0)] = 4
    """Tries after the first, when the server is busy, fails or does not answer."""
    requests_per_minute: Count | None = None
    """Never ask more often; none: as often as it answers."""
    max_concurrency: Count = 8
    """Questions under way at once."""
    max_tokens: Count = 512
    """Longest answer of a judge, in tokens."""
    tokens: bool = False
    """The server gives token ids and log-probs (vLLM's does), so that what it samples can be
    trained on. It must have the tokenizer of the model that is trained."""


def _type(inputs: Mapping[str, ArtifactType], settings: Mapping[str, Any]) -> ArtifactType:
    return ArtifactType("Model", served=True, engine=SERVER if settings["tokens"] else "")


VERB = Verb("served", "model", ServedSettings, _type, "1", literals=("url",))
