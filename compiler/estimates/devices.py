"""A device to estimate for: its memory, and what it computes in. Detecting one is not done here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["cpu", "cuda"]
_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_DEVICE = re.compile(
    r"(?:(\d+)x(?=cuda))?(?:(cpu|cuda)(?:$|:(?=\d)))?(?:(\d+(?:\.\d+)?)(KiB|MiB|GiB|TiB))?"
)
_WIDTHS = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class Device:
    """`memory` in bytes; None when nobody could tell."""

    kind: Kind
    memory: int | None
    name: str
    count: int | None = None
    """How many there are: GPUs alike, or cores; `memory` is that of one GPU, or of all cores."""

    def number_bytes(self, settings: Mapping[str, Any]) -> int:
        """Bytes of one number of a model whose source has these settings."""
        return _WIDTHS.get(settings.get("dtype", "auto"), 2 if self.kind == "cuda" else 4)


def parse_device(text: str, detected: Device) -> Device:
    """`cpu`, `cuda:80GiB`, `4xcuda:80GiB`, `cpu:16GiB` or only a size. Raises ValueError for
    anything else."""
    match = _DEVICE.fullmatch(text)
    if match is None or not text:
        raise ValueError(
            f"`{text}` names no device; write `cpu`, `cpu:16GiB`, `cuda:80GiB`, `4xcuda:80GiB` or "
            "`24GiB`"
        )
    many, named, number, unit = match.groups()
    kind: Kind = "cuda" if "cuda" in (named or detected.kind) else "cpu"
    if number is None:
        memory = detected.memory if kind == detected.kind else None
    else:
        memory = int(float(number) * _UNITS[unit])
    here = detected.count if kind == detected.kind else None
    alone = 1 if kind == "cuda" and named else here
    return Device(kind, memory, text, int(many) if many else alone)
