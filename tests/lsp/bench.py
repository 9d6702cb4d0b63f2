"""Prints how long a keystroke takes until its findings arrive, on a file of 300 lines.

Run it as `python tests/lsp/bench.py`. The time is on the clock, the server's wait for more
keystrokes included; on a busy machine the CPU time of the server says more (Linux only).
"""

from __future__ import annotations

import os
import runpy
import statistics
import tempfile
import time
from pathlib import Path

ROUNDS = 30


def main() -> None:
    tests = runpy.run_path(str(Path(__file__).with_name("test_language_server.py")))
    with tempfile.TemporaryDirectory() as folder:
        root = tests["write_project"](Path(folder).resolve())
        text = tests["long_file"]()
        with tests["Client"](root) as client:
            client.open("long.grape", text)
            client.change("long.grape", text + "\n")
            times = []
            before = cpu_seconds(client.process.pid)
            for number in range(ROUNDS):
                start = time.perf_counter()
                client.change("long.grape", text + "#" * (number + 1), version=number + 3)
                times.append(1000 * (time.perf_counter() - start))
            used = 1000 * (cpu_seconds(client.process.pid) - before) / ROUNDS
    lines = len(text.splitlines())
    print(
        f"{lines} lines, {ROUNDS} keystrokes: median {statistics.median(times):.0f} ms, "
        f"slowest {max(times):.0f} ms, server CPU {used:.0f} ms each"
    )


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far; 0 where there is no /proc."""
    stat = Path(f"/proc/{pid}/stat")
    if not stat.exists():
        return 0.0
    fields = stat.read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
