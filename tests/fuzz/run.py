"""Sends damaged texts through parse, check and format: `make fuzz`,
or `PYTHONPATH=tests python -m fuzz.run [COUNT] [SEED]`.

Prints every distinct failure with a shortened text and ends with 1 when there was one. 100,000
texts when no count is given; every process takes its share.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path

from fuzz.mutations import ROOT, Trial, corpus, mutations

BATCH = 1_000


def batch(seed: int, count: int) -> dict[str, str]:
    """Failures, and the shortest text that gives each."""
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        shutil.copytree(ROOT / "pipelines" / "data", folder / "data")
        trial = Trial(folder)
        for text in islice(mutations(seed, corpus()), count):
            failure = trial.survives(text)
            if failure and len(text) < len(found.get(failure, text + " ")):
                found[failure] = text
    return found


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    first = int(sys.argv[2]) if len(sys.argv) > 2 else 0
    start = time.monotonic()
    found: dict[str, str] = {}
    shares = [min(BATCH, count - done) for done in range(0, count, BATCH)]
    with ProcessPoolExecutor() as pool:
        for part in pool.map(batch, range(first, first + len(shares)), shares):
            for failure in part.keys() - found.keys():
                print(f"{failure}\n--- for\n{part[failure][:3_000]}\n", flush=True)
            found |= part
    spent = time.monotonic() - start
    print(f"{count} texts in {spent:.0f} s: {len(found)} distinct failures")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
