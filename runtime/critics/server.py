"""A model behind an OpenAI-compatible server, as it lies in the store: an address, never a key."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar, Self

from grape.runtime.errors import StageError

SERVED = "served.json"
"""Its presence tells a served model from a folder with weights."""


@dataclass(frozen=True, slots=True)
class Served:
    """Where to ask and how; fields as the settings of `served`."""

    kind: ClassVar[str] = "Model"
    url: str
    model: str
    api_key_env: str | None
    timeout: float
    retries: int
    requests_per_minute: int | None
    max_concurrency: int
    max_tokens: int

    def key(self) -> str | None:
        """The key, read when it is needed. Raises StageError when its variable is not set."""
        if self.api_key_env is None:
            return None
        value = os.environ.get(self.api_key_env, "")
        if not value:
            raise StageError(
                f"the key for {self.url} is to be in the environment variable "
                f"`{self.api_key_env}`, which is not set",
                hint=f"set it before the run: export {self.api_key_env}=…",
            )
        return value

    def save(self, folder: Path) -> None:
        (folder / SERVED).write_text(json.dumps(asdict(self), indent=2), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> Self:
        return cls(**json.loads((folder / SERVED).read_text(encoding="utf-8")))
