"""`make bench`: Grape beside TRL on the same models, step by step in turn; medians and ratios.

Writes a table to stdout and everything measured to a JSON file. Times are CPU seconds of one
thread, so that other work on the machine changes little; `--wall` takes wall-clock seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from workloads import WORKLOADS

HERE = Path(__file__).parent
MALLOC = {"MALLOC_TRIM_THRESHOLD_": str(1 << 32), "MALLOC_MMAP_THRESHOLD_": str(1 << 25)}
"""As `runtime/process.py` starts a worker."""


class Side:
    """One library in a process of its own, that does a step when it is told to."""

    def __init__(self, python: str, script: str, name: str, folder: Path, more: dict[str, str]):
        self.process = subprocess.Popen(
            [python, str(HERE / script), name, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **more, "TOKENIZERS_PARALLELISM": "false"},
        )
        self.costs: list[dict[str, float]] = []
        self.ready = self._read()["ready"]

    def _read(self) -> dict[str, float]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{") and line.rstrip().endswith("}"):
                found = json.loads(line)
                if "cpu" in found or "ready" in found:
                    return dict(found)
        raise SystemExit(f"{self.process.args!r} ended early")

    def step(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.costs.append(self._read())

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.terminate()
        self.process.wait()


def measured(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One workload: both sides take turns; the first step of each is not counted."""
    ours = Side(sys.executable, "ours.py", name, args.folder, MALLOC)
    theirs = Side(args.trl, "theirs.py", name, args.folder, {})
    try:
        for _ in range(args.steps + 1):
            ours.step()
            theirs.step()
    finally:
        ours.close()
        theirs.close()
    clock = "wall" if args.wall else "cpu"
    found: dict[str, Any] = {"workload": name, "clock": clock}
    for side, seen in (("grape", ours), ("trl", theirs)):
        kept = seen.costs[1:]
        found[side] = {
            "seconds": median(cost[clock] for cost in kept),
            "tokens": median(cost["tokens"] for cost in kept),
            "peak_mb": max(cost["peak_mb"] for cost in seen.costs),
            "first_step_cpu": seen.costs[0]["since_start"],
            "steps": kept,
        }
    grape, trl = found["grape"], found["trl"]
    per_token = WORKLOADS[name].kind in ("sft", "rollout")
    scale = trl["tokens"] / grape["tokens"] if per_token and grape["tokens"] else 1.0
    found["time_ratio"] = grape["seconds"] * scale / trl["seconds"]
    found["memory_ratio"] = grape["peak_mb"] / trl["peak_mb"]
    found["start_ratio"] = grape["first_step_cpu"] / trl["first_step_cpu"]
    found["target"] = WORKLOADS[name].target
    return found


def versions(python: str) -> dict[str, str]:
    names = ("torch", "transformers", "trl", "accelerate")
    script = (
        "import json\nfrom importlib.metadata import version, PackageNotFoundError\nf = {}\n"
        f"for n in {names!r}:\n  try: f[n] = version(n)\n  except PackageNotFoundError: pass\n"
        "print(json.dumps(f))"
    )
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def row(found: dict[str, Any]) -> str:
    grape, trl = found["grape"], found["trl"]
    return (
        f"{found['workload']:<18}{grape['seconds']:>9.2f}{trl['seconds']:>9.2f}"
        f"{found['time_ratio']:>8.2f}{found['target']:>8.2f}"
        f"{grape['peak_mb']:>9.0f}{trl['peak_mb']:>9.0f}{found['memory_ratio']:>8.2f}"
        f"{found['start_ratio']:>8.2f}"
    )


HEAD = (
    f"{'workload':<18}{'grape s':>9}{'TRL s':>9}{'ratio':>8}{'target':>8}"
    f"{'grape MB':>9}{'TRL MB':>9}{'ratio':>8}{'start':>8}"
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workloads", nargs="*", default=list(WORKLOADS))
    parser.add_argument("--trl", required=True, help="the Python of an environment that has TRL")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "grape-bench")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--wall", action="store_true")
    parser.add_argument("--out", type=Path, default=Path("bench.json"))
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    prepare = [sys.executable, str(HERE / "ours.py"), "prepare", str(args.folder)]
    subprocess.run(prepare, check=True)
    document: dict[str, Any] = {
        "versions": {"grape": versions(sys.executable), "trl": versions(args.trl)},
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "results": [],
    }
    print(HEAD, flush=True)
    for name in args.workloads:
        found = measured(name, args)
        document["results"].append(found)
        print(row(found), flush=True)
        args.out.write_text(json.dumps(document, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
