"""The header of a GGUF file: its metadata and the shapes of its tensors, not a byte of weights.

The format is described in the ggml documentation (gguf.md); versions 2 and 3 are read.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

_SCALARS = {
    0: "B",
    1: "b",
    2: "H",
    3: "h",
    4: "I",
    5: "i",
    6: "f",
    7: "?",
    10: "Q",
    11: "q",
    12: "d",
}
_STRING, _ARRAY = 8, 9
_MOST = 10_000_000
"""Entries of a table, or bytes of a text, above which a header is taken for damaged."""


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """Metadata by key, and the shape of every tensor by name."""

    values: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]


def read_gguf(path: Path) -> GgufHeader:
    """The header of a file, read once as long as it stays what it is. ValueError, with the reason,
    when it is no GGUF or is cut off; OSError when it cannot be read."""
    facts = path.stat()
    return _read(path, facts.st_size, facts.st_mtime_ns)


@lru_cache(maxsize=4)
def _read(path: Path, size: int, changed: int) -> GgufHeader:
    with path.open("rb") as file:
        try:
            if file.read(4) != b"GGUF":
                raise ValueError("it does not begin with GGUF")
            version, tensors, count = struct.unpack("<IQQ", file.read(20))
            if version not in (2, 3):
                raise ValueError(f"it is GGUF version {version}")
            values: dict[str, Any] = {}
            for _ in range(_bounded(count)):
                key = _text(file)
                values[key] = _value(file, _number(file, "I"))
            return GgufHeader(values, dict(_shape(file) for _ in range(_bounded(tensors))))
        except (struct.error, KeyError, UnicodeDecodeError, RecursionError, MemoryError):
            raise ValueError("its header is damaged") from None


def _shape(file: BinaryIO) -> tuple[str, tuple[int, ...]]:
    name = _text(file)
    shape = tuple(_number(file, "Q") for _ in range(_bounded(_number(file, "I"))))
    file.read(12)  # its type and its place
    return name, shape


def _number(file: BinaryIO, form: str) -> Any:
    return struct.unpack(f"<{form}", file.read(struct.calcsize(f"<{form}")))[0]


def _bounded(count: int) -> int:
    if count > _MOST:
        raise ValueError("its header is damaged")
    return count


def _text(file: BinaryIO) -> str:
    return file.read(_bounded(_number(file, "Q"))).decode("utf-8")


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _text(file)
    if kind != _ARRAY:
        return _number(file, _SCALARS[kind])
    inner, count = _number(file, "I"), _bounded(_number(file, "Q"))
    if inner in _SCALARS:
        form = f"<{count}{_SCALARS[inner]}"
        return list(struct.unpack(form, file.read(struct.calcsize(form))))
    return [_value(file, inner) for _ in range(count)]
