"""Prints how long a keystroke takes until its findings arrive, on a file of 300 lines.

Run it as `python tests/lsp/bench.py`; the delay that the server waits for more keystrokes counts.
"""

from __future__ import annotations

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
            times = []
            for number in range(ROUNDS):
                start = time.perf_counter()
                client.change("long.grape", text + "#" * (number + 1), version=number + 2)
                times.append(1000 * (time.perf_counter() - start))
    lines = text.count("\n")
    print(
        f"{lines} lines, {ROUNDS} keystrokes: median {statistics.median(times):.0f} ms, "
        f"slowest {max(times):.0f} ms"
    )


if __name__ == "__main__":
    main()
