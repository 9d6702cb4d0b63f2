"""vLLM in the process of the stage, behind `core.engines.Engine`.

Written against the interface of vLLM 0.33 (`LLM`, `SamplingParams`, `reload_weights`), tested with
a stand-in of the same interface and run with vLLM 0.32 for processors: it has not run on an
accelerator. Weights go through a folder, which every version and every parallel layout of vLLM can
read.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from grape.runtime.artifacts import HEADS
from grape.runtime.core.models import Policy
from grape.runtime.core.rows import Sampling
from grape.runtime.errors import StageError


class Vllm:
    """`folder` is where the weights pass through, `memory` the share of the device that vLLM may
    take. Raises StageError where vLLM is not installed."""

    name = "vllm"

    def __init__(self, folder: Path, memory: float) -> None:
        self.folder, self.memory = folder, memory
        self.vllm: Any = _module()
        self.model: Any = None
        self.version: int | None = None

    def push(self, policy: Policy) -> None:
        """Give vLLM the weights, unless it has those of this update. Its cache of prompts was
        computed with the old ones, and is thrown away."""
        if self.version == policy.updates:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        policy.save(self.folder)
        (self.folder / HEADS).unlink(missing_ok=True)  # vLLM reads every file of weights
        if self.model is None or _keeps_head(policy):
            self.model = None  # gives its memory back before the next one is made
            self.model = self._started(policy)
        else:
            where = {"weights_path": str(self.folder)}
            self.model.collective_rpc("reload_weights", kwargs=where)
            self.model.reset_prefix_cache()
        self.version = policy.updates

    def _started(self, policy: Policy) -> Any:
        width = next(policy.network.parameters()).dtype
        return self.vllm.LLM(
            model=str(self.folder),
            dtype=str(width).removeprefix("torch."),
            max_model_len=policy.context_length,
            gpu_memory_utilization=self.memory,
            generation_config="vllm",  # no settings but those of the file
            logprobs_mode="processed_logprobs",  # of the distribution that is drawn from
        )

    def generate(
        self, prompts: Sequence[list[int]], seeds: Sequence[int], how: Sampling, ends: list[int]
    ) -> list[tuple[list[int], list[float], bool]]:
        """See `Engine`."""
        params = [
            self.vllm.SamplingParams(
                n=1,
                temperature=how.temperature,
                top_p=how.top_p,
                max_tokens=how.max_tokens,
                stop=list(how.stop),
                stop_token_ids=list(ends),
                include_stop_str_in_output=True,
                seed=seed,
                logprobs=0,
            )
            for seed in seeds
        ]
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        made = self.model.generate(asked, params, use_tqdm=False)
        return [_row(request.outputs[0]) for request in made]


def _keeps_head(policy: Policy) -> bool:
    """Whether vLLM would go on with the old output head: on a processor it makes a copy of it, and
    does not look at it again where the head is the embedding."""
    tied = getattr(policy.network.config, "tie_word_embeddings", False)
    return policy.device.type == "cpu" and bool(tied)


def _row(output: Any) -> tuple[list[int], list[float], bool]:
    ids = [int(token) for token in output.token_ids]
    logps = [
        float(told[token].logprob) for token, told in zip(ids, output.logprobs or (), strict=True)
    ]
    return ids, logps, output.finish_reason == "length"


def _module() -> Any:
    try:
        return import_module("vllm")
    except ImportError:
        raise StageError(
            '`engine = "vllm"` needs the package `vllm`, which is not installed here',
            hint="run `pip install 'grape-lang[vllm]'`, or sample with `engine = \"transformers\"`",
        ) from None
