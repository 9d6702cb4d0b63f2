"""How a GRPO step and the planning of a pipeline grow: one size changed at a time.

One JSON line per size: CPU seconds and the units that they are for. A step whose time per unit
stays flat grows as the prompts once plus their completions, and no faster.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from ours import prepare, stepper
from workloads import Workload

BASE = Workload("grpo", "small", "", prompts=2, group=4, prompt=128, tokens=32)
SIZES = {
    "group": (2, 4, 8, 16),
    "prompt": (64, 256, 1024),
    "tokens": (16, 64, 256),
    "prompts": (2, 8, 32),
}
NAMES = {"tokens": "completion", "prompts": "batch"}
STAGES = (1, 4, 16, 64)


def tell(changed: str, to: int, seconds: float, units: int) -> None:
    row = {"changed": changed, "to": to, "seconds": seconds, "units": units}
    print(json.dumps(row), flush=True)


def steps(folder: Path) -> None:
    """Steps of a small model; `batch` is counted in completions."""
    for name, values in SIZES.items():
        for value in values:
            work = replace(BASE, **{name: value})
            step = stepper(work, folder)
            step(0)
            start = time.process_time()
            step(1)
            spent = time.process_time() - start
            to = value * work.group if name == "prompts" else value
            tokens = work.prompts * (work.prompt + work.group * work.tokens)
            tell(NAMES.get(name, name), to, spent, tokens)


def stages(folder: Path) -> None:
    """Chains of train stages, from text to plan."""
    from grape.compiler.program import load
    from grape.runtime.preparing import prepare as planned

    (folder / "texts.jsonl").write_text('{"prompt": "a", "completion": " b"}\n' * 64)
    file = folder / "chain.grape"
    for count in STAGES:
        chain = "".join(
            f"  stage m{at + 1} = train(m{at}, texts) {{ algorithm = sft() }}\n"
            for at in range(count)
        )
        file.write_text(
            'grape 1\n\nuse sft from "std/algorithms"\n\npipeline chain() {\n'
            '  data texts = jsonl("texts.jsonl") { prompt = "{prompt}", '
            'completion = "{completion}" }\n'
            '  model m0 = fresh("llama") { tokenizer = "bytes" }\n'
            + chain
            + f'  output m{count} as "made"\n}}\n'
        )
        spent = []
        for _ in range(3):
            start = time.process_time()
            program = load(file)
            assert program.ok, program.findings
            plan = planned(program.graph("chain"), file)
            spent.append(time.process_time() - start)
            assert len(plan.stages) == count + 2
        tell("stages", count, min(spent), count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "grape-bench")
    folder: Path = parser.parse_args().folder
    prepare(folder)
    steps(folder)
    stages(folder)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
