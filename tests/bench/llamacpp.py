"""llama.cpp beside both: completions of the same prompts by the same weights in float32.

`python llamacpp.py WORKLOAD FOLDER GGUF THREADS`, in an environment that has `xllamacpp` and
`gguf`. One JSON line of cost for every line on stdin; the first line says that it is ready.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from pathlib import Path
from typing import Any

from workloads import WORKLOADS, Workload, prompts


def in_float32(source: Path, target: Path) -> None:
    """A copy of a GGUF file with plain weights."""
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
    from gguf.quants import dequantize

    reader: Any = GGUFReader(source)
    arch = reader.get_field("general.architecture").contents()
    writer: Any = GGUFWriter(target, arch)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in ("general.architecture", "general.file_type"):
            continue
        inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], sub_type=inner)
    writer.add_file_type(0)
    for tensor in reader.tensors:
        plain = dequantize(tensor.data, tensor.tensor_type)
        writer.add_tensor(tensor.name, plain, raw_dtype=GGMLQuantizationType.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def server(work: Workload, model: Path, threads: int) -> Any:
    xllamacpp: Any = import_module("xllamacpp")
    params: Any = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.n_parallel = work.prompts * work.group
    params.n_ctx = params.n_parallel * 2 * (work.prompt + work.tokens)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.warmup = False
    return xllamacpp.Server(params)


def main() -> None:
    work, folder = WORKLOADS[sys.argv[1]], Path(sys.argv[2])
    model = folder / "smol-f32.gguf"
    if not model.is_file():
        in_float32(Path(sys.argv[3]), model)
    serving = server(work, model, int(sys.argv[4]))
    texts = [text for text in prompts(work) for _ in range(work.group)]
    print(json.dumps({"ready": time.process_time()}), flush=True)
    for number, _ in enumerate(sys.stdin):

        def one(at: int, number: int = number) -> int:
            asked = {
                "prompt": texts[at],
                "n_predict": work.tokens,
                "temperature": 1.0,
                "top_k": 0,
                "top_p": 1.0,
                "min_p": 0.0,
                "samplers": ["temperature"],
                "seed": 1000 * number + at,
                "cache_prompt": True,
            }
            made: Any = serving.handle_completions(asked)
            made = json.loads(made) if isinstance(made, str) else made
            usage = made.get("usage") or {}
            return int(made.get("tokens_predicted") or usage["completion_tokens"])

        cpu, wall = time.process_time(), time.perf_counter()
        with ThreadPoolExecutor(len(texts)) as pool:
            tokens = sum(pool.map(one, range(len(texts))))
        cost = {
            "cpu": time.process_time() - cpu,
            "wall": time.perf_counter() - wall,
            "tokens": tokens,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "since_start": time.process_time(),
        }
        print(json.dumps(cost), flush=True)


if __name__ == "__main__":
    main()
