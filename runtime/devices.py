"""The device of this machine, without loading torch: memory from the kernel, or from nvidia-smi."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from grape.compiler.estimates.devices import Device, parse_device
from grape.runtime.errors import UsageError

_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def detect() -> Device:
    """An NVIDIA GPU when there is one, else the CPU with what memory this process may use."""
    return _gpu() or Device("cpu", _memory(), "cpu", cores())


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def chosen(text: str | None) -> Device:
    """The device that `--device` names; the detected one without. Raises UsageError."""
    if text is None:
        return detect()
    try:
        return parse_device(text, detect())
    except ValueError as error:
        raise UsageError(str(error)) from None


def _memory() -> int | None:
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None
    for limit in _LIMITS:
        try:
            text = limit.read_text(encoding="ascii").strip()
        except OSError:
            continue
        if text.isdecimal():
            total = min(total, int(text))
    return total


def _gpu() -> Device | None:
    """The first GPU that the driver's own tool names, and how many this process may use."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "" or shutil.which("nvidia-smi") is None:
        return None
    query = ["nvidia-smi", "--query-gpu=memory.total,name", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True)
        found = done.stdout.splitlines()
        memory, _, name = found[0].partition(",")
        seen = os.environ.get("CUDA_VISIBLE_DEVICES")
        count = len(found) if seen is None else min(len(found), len(seen.split(",")))
        return Device("cuda", int(memory) << 20, name.strip(), count)
    except (OSError, subprocess.SubprocessError, IndexError, ValueError):
        return None
