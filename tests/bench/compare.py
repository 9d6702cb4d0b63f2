"""`make bench`: Grape beside TRL on the same models, step by step in turn; medians and ratios.

Writes a table to stdout and everything measured to a JSON file, and with `--write` the page
`docs/performance.md`. Ratios are of CPU seconds of one thread, so that other work on the machine
changes little; wall-clock seconds are kept beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from report import GROWTH, HEAD, growth_row, page, row
from workloads import WORKLOADS, Workload

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "performance.md"
WORKER = {
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""As `runtime/process.py` starts a worker."""


class Side:
    """One library in a process of its own, that does a step when it is told to."""

    def __init__(self, python: str, script: str, name: str, folder: Path, more: dict[str, str]):
        self.began = time.perf_counter()
        self.process = subprocess.Popen(
            [python, str(HERE / script), name, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, **more, "TOKENIZERS_PARALLELISM": "false"},
        )
        self.costs: list[dict[str, Any]] = []
        self._read()

    def _read(self) -> dict[str, Any]:
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
        self.costs[-1]["wall_since_start"] = time.perf_counter() - self.began

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.terminate()
        self.process.wait()


def sides(name: str, args: argparse.Namespace) -> tuple[Side, Side]:
    return (
        Side(sys.executable, "ours.py", name, args.folder, WORKER),
        Side(args.trl, "theirs.py", name, args.folder, {}),
    )


def steps(name: str, args: argparse.Namespace) -> list[list[dict[str, Any]]]:
    """Costs of both sides, which take turns."""
    work = WORKLOADS[name]
    if work.start:
        return started(name, args)
    both = sides(name, args)
    try:
        for _ in range(work.warm + (args.steps or work.steps * (3 if args.full else 1))):
            for side in both:
                side.step()
    finally:
        for side in both:
            side.close()
    return [side.costs[work.warm :] for side in both]


def started(name: str, args: argparse.Namespace) -> list[list[dict[str, Any]]]:
    """First steps of fresh processes, one after the other."""
    found: list[list[dict[str, Any]]] = [[], []]
    for _ in range(args.steps or WORKLOADS[name].steps):
        for at, script in enumerate(("ours.py", "theirs.py")):
            python, more = ((sys.executable, WORKER), (args.trl, {}))[at]
            side = Side(python, script, name, args.folder, more)
            try:
                side.step()
            finally:
                side.close()
            cost = side.costs[0]
            cost["cpu"], cost["wall"] = cost["since_start"], cost["wall_since_start"]
            found[at].append(cost)
    return found


def summary(work: Workload, costs: list[dict[str, Any]]) -> dict[str, Any]:
    parts = sorted({part for cost in costs for part in cost.get("phases", {})})
    return {
        "cpu": median(cost["cpu"] for cost in costs),
        "wall": median(cost["wall"] for cost in costs),
        "tokens": median(cost["tokens"] for cost in costs),
        "peak_mb": max(cost["peak_mb"] for cost in costs),
        "phases": {part: median(c["phases"].get(part, 0.0) for c in costs) for part in parts},
        "steps": costs,
    }


def measured(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One workload: medians of both sides and their ratios."""
    work = WORKLOADS[name]
    grape, trl = (summary(work, costs) for costs in steps(name, args))
    per_token = work.kind in ("sft", "rollout") and not work.start
    scale = trl["tokens"] / grape["tokens"] if per_token and grape["tokens"] else 1.0
    return {
        "workload": name,
        "title": work.title,
        "grape": grape,
        "trl": trl,
        "cpu_ratio": grape["cpu"] * scale / trl["cpu"],
        "wall_ratio": grape["wall"] * scale / trl["wall"],
        "memory_ratio": grape["peak_mb"] / trl["peak_mb"],
        "target": work.target,
        "memory_target": work.memory,
    }


def versions(python: str) -> dict[str, str]:
    names = ("torch", "transformers", "trl", "accelerate")
    script = (
        "import json\nfrom importlib.metadata import version, PackageNotFoundError\nf = {}\n"
        f"for n in {names!r}:\n  try: f[n] = version(n)\n  except PackageNotFoundError: pass\n"
        "print(json.dumps(f))"
    )
    done = subprocess.run([python, "-c", script], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout))


def machine() -> dict[str, Any]:
    """What the figures were measured on, and how busy it was."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if "model name" in line)
    except (OSError, StopIteration):
        pass
    return {"cpu": name, "cores": os.cpu_count(), "load": os.getloadavg()[0]}


def grown(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of `growth.py`, each printed as it comes."""
    print(f"\n{GROWTH}", flush=True)
    command = [sys.executable, str(HERE / "growth.py"), "--folder", str(args.folder)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        rows = []
        for line in process.stdout:
            rows.append(json.loads(line))
            print(growth_row(rows[-1]), flush=True)
    if process.returncode:
        raise SystemExit("growth.py failed")
    return rows


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    names = [*WORKLOADS, "growth"]
    parser.add_argument("--trl", required=True, help="the Python of an environment that has TRL")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="WORKLOAD")
    parser.add_argument("--full", action="store_true", help="three times as many steps")
    parser.add_argument("--steps", type=int, help="so many for each workload")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="write docs/performance.md")
    parser.add_argument("--out", type=Path, default=Path("bench.json"))
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "grape-bench")
    return parser.parse_args()


def main() -> None:
    args = arguments()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    args.folder.mkdir(parents=True, exist_ok=True)
    prepare = [sys.executable, str(HERE / "ours.py"), "prepare", str(args.folder)]
    subprocess.run(prepare, check=True, stderr=subprocess.DEVNULL)
    document: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "threads": args.threads,
        "versions": {"grape": versions(sys.executable), "trl": versions(args.trl)},
        "results": [],
        "growth": [],
    }

    def keep() -> None:
        args.out.write_text(json.dumps(document, indent=1), encoding="utf-8")

    print(HEAD, flush=True)
    for name in WORKLOADS:
        if name in args.only:
            document["results"].append(measured(name, args))
            print(row(document["results"][-1]), flush=True)
            keep()
    if "growth" in args.only:
        document["growth"] = grown(args)
        keep()
    if args.write:
        PAGE.write_text(page(document), encoding="utf-8")


if __name__ == "__main__":
    main()
