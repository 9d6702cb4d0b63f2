"""CPU time of the commands that run nothing, each in a fresh process.

Run as `python tests/bench/cold_lint.py [N]`.

Prints the least of N runs (20 when not given) of user + system time, after one run that compiles
the bytecode. Load on the machine makes the figures larger, never smaller.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FILE = str(ROOT / "pipelines" / "quickstart.grape")
COMMANDS = (
    ("lint", FILE),
    ("fmt", "--check", FILE),
    ("graph", FILE),
    ("plan", FILE),
    ("--help",),
    ("--version",),
)


def cpu_seconds(words: tuple[str, ...]) -> float:
    """User and system time of `python -m grape WORDS`; SystemExit when it fails."""
    null = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-m", "grape", *words]
    process = os.posix_spawn(sys.executable, command, environment, file_actions=null)
    _, status, usage = os.wait4(process, 0)
    if status:
        raise SystemExit(f"grape {' '.join(words)} ended with {os.waitstatus_to_exitcode(status)}")
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    for words in COMMANDS:
        cpu_seconds(words)
        least = min(cpu_seconds(words) for _ in range(runs))
        print(f"{least:.3f} s  grape {' '.join(words).replace(FILE, Path(FILE).name)}")


if __name__ == "__main__":
    main()
