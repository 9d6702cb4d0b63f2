"""A model behind an OpenAI-compatible server, as it lies in the store: an address, never a key."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Self

from grape.runtime.secrets import reveal

SERVED = "served.json"
"""Its presence tells a served model from a folder with weights."""


@dataclass(frozen=True, slots=True)
class Served:
    """Where to ask and how; fields as the settings of `served`."""

    kind: ClassVar[str] = "Model"
    url: str
    model: str
    api_key: dict[str, str] | None
    timeout: float
    retries: int
    requests_per_minute: int | None
    max_concurrency: int
    max_tokens: int
    tokens: bool = False

    def key(self) -> str | None:
        """The key, read when it is needed. Raises StageError when its variable is not set."""
        return reveal(self.api_key)

    def save(self, folder: Path) -> None:
        (folder / SERVED).write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls(**json.loads((folder / SERVED).read_text(encoding="utf-8")))
