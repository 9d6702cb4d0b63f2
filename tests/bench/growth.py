"""How a GRPO step grows: CPU seconds per (P + G R) tokens of a group, one size changed at a time.

A row that stays flat grows as the prompt once plus its completions, and no faster.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from ours import prepare, stepper
from workloads import Workload

BASE = Workload("grpo", "small", prompts=2, group=4, prompt=128, tokens=32)
SIZES = {
    "group": (2, 4, 8, 16),
    "prompt": (64, 256, 1024),
    "tokens": (16, 64, 256),
    "prompts": (2, 8, 32),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "grape-bench")
    folder: Path = parser.parse_args().folder
    prepare(folder)
    print(f"{'changed':<10}{'to':>6}{'seconds':>10}{'ms per token':>14}", flush=True)
    for name, values in SIZES.items():
        for value in values:
            work = replace(BASE, **{name: value})
            step = stepper(work, folder)
            step(0)
            start = time.process_time()
            step(1)
            spent = time.process_time() - start
            tokens = work.prompts * (work.prompt + work.group * work.tokens)
            print(f"{name:<10}{value:>6}{spent:>10.2f}{1000 * spent / tokens:>14.3f}", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
