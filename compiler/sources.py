"""What every data source shares: templates that map columns to the parts of an item."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from grape.compiler.types import ArtifactType
from grape.compiler.verb import Settings

PARTS = ("prompt", "completion", "chosen", "rejected", "answer", "messages", "desirable")

Split = Annotated[float, Field(gt=0, lt=1)]


class DataSettings(Settings):
    path: str
    """The file, relative to the folder of the pipeline file."""
    prompt: str | None = None
    """Template of what the model is given; `{column}` names a column, `{{` is a brace."""
    completion: str | None = None
    """Template of what the model should answer."""
    chosen: str | None = None
    """Template of the better completion."""
    rejected: str | None = None
    """Template of the worse completion."""
    answer: str | None = None
    """Template of what rewards compare with; the model never sees it."""
    messages: str | None = None
    """`{column}` of a column that holds a conversation."""
    desirable: str | None = None
    """`{column}` of a column that says whether the completion is a good one."""
    split: Split | None = None
    """Share of the items in `.train`; the rest is `.test`. none: not split."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """Use only the first so many rows."""
    seed: int = 0
    """Of the split."""


def data_type(inputs: Mapping[str, ArtifactType], settings: Mapping[str, Any]) -> ArtifactType:
    """Data with the parts that have a template."""
    columns = frozenset(part for part in PARTS if settings[part] is not None)
    return ArtifactType("Data", columns=columns, split=settings["split"] is not None)
