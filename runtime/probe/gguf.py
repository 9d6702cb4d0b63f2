"""The header of a GGUF file: its metadata, without a byte of its weights.

The format is described in the ggml documentation (gguf.md); versions 2 and 3 are read.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any, BinaryIO

_SCALARS = {
    0: "<B",
    1: "<b",
    2: "<H",
    3: "<h",
    4: "<I",
    5: "<i",
    6: "<f",
    7: "<?",
    10: "<Q",
    11: "<q",
    12: "<d",
}
_STRING, _ARRAY = 8, 9
_MOST = 4_000_000
"""Longest string or array that a header may hold, and more keys than any has."""


def read_header(path: Path) -> dict[str, Any]:
    """Metadata by key. Raises ValueError when the file is no GGUF or is cut off."""
    with path.open("rb") as file:
        try:
            if file.read(4) != b"GGUF":
                raise ValueError("it does not begin with GGUF")
            version, _, count = struct.unpack("<IQQ", file.read(20))
            if version not in (2, 3):
                raise ValueError(f"it is GGUF version {version}")
            found: dict[str, Any] = {}
            for _ in range(_bounded(count)):
                key = _string(file)
                found[key] = _value(file, _number(file, "<I"))
            return found
        except (struct.error, KeyError, UnicodeDecodeError, RecursionError):
            raise ValueError("its header is damaged") from None


def _number(file: BinaryIO, form: str) -> int:
    return int(struct.unpack(form, file.read(struct.calcsize(form)))[0])


def _bounded(count: int) -> int:
    if count > _MOST:
        raise ValueError("its header is damaged")
    return count


def _string(file: BinaryIO) -> str:
    return file.read(_bounded(_number(file, "<Q"))).decode("utf-8")


def _value(file: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(file)
    if kind == _ARRAY:
        inner = _number(file, "<I")
        return [_value(file, inner) for _ in range(_bounded(_number(file, "<Q")))]
    form = _SCALARS[kind]
    return struct.unpack(form, file.read(struct.calcsize(form)))[0]
