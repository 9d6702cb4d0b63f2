"""`export(model)`: a model as a folder in Hugging Face layout. It does not change the model."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from grape.runtime.context import Context
from grape.runtime.core.models import Policy
from grape.runtime.errors import StageError


@dataclass(slots=True)
class Files:
    """A folder that was written: its path."""

    kind: ClassVar[str] = "Files"
    path: str

    def save(self, folder: Path) -> None:
        text = json.dumps({"path": self.path})
        (folder / "files.json").write_text(text, encoding="utf-8")


def run(context: Context, inputs: dict[str, object]) -> Files:
    """Write the model to `path` under the project. Raises StageError when the path leaves it."""
    model = inputs["model"]
    assert isinstance(model, Policy)
    if not context.stage.settings["merge"]:
        raise StageError(
            "`merge = false` asks for a bare adapter; models are saved merged.",
            hint="Leave `merge` out.",
        )
    project = context.project.resolve()
    target = (project / context.stage.settings["path"]).resolve()
    if not target.is_relative_to(project):
        raise StageError(f"`path` of {context.stage.name} leaves the project folder {project}.")
    replace(model, heads={}).save(target)
    return Files(context.stage.settings["path"])
