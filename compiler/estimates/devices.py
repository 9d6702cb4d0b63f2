"""A device to estimate for: its memory, and what it computes in. Detecting one is not done here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["cpu", "cuda"]
_UNITS = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_DEVICE = re.compile(r"(?:(cpu|cuda)(?:$|:(?=\d)))?(?:(\d+(?:\.\d+)?)(KiB|MiB|GiB|TiB))?")
_WIDTHS = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True, slots=True)
class Device:
    """`memory` in bytes; None when nobody could tell."""

    kind: Kind
    memory: int | None
    name: str

    def number_bytes(self, settings: Mapping[str, Any]) -> int:
        """Bytes of one number of a model whose source has these settings."""
        return _WIDTHS.get(settings.get("dtype", "auto"), 2 if self.kind == "cuda" else 4)


def parse_device(text: str, detected: Device) -> Device:
    """`cpu`, `cuda:80GiB`, `cpu:16GiB` or only a size. Raises ValueError for anything else."""
    match = _DEVICE.fullmatch(text)
    if match is None or not text:
        raise ValueError(
            f"`{text}` names no device; write `cpu`, `cpu:16GiB`, `cuda:80GiB` or `24GiB`"
        )
    kind: Kind = "cuda" if "cuda" in (match[1] or detected.kind) else "cpu"
    if match[2] is None:
        memory = detected.memory if kind == detected.kind else None
    else:
        memory = int(float(match[2]) * _UNITS[match[3]])
    return Device(kind, memory, text)
