"""TRL's side of a comparison, at its best settings for a CPU: float32, no checkpointing.

`python theirs.py WORKLOAD FOLDER`; one optimizer step for every line on stdin, one JSON line of
cost each. The micro-batch is one group, two pairs, or four packed rows, as on the other side.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from workloads import WORKLOADS, Workload, lengths, pairs, prompts, reward, texts

STEPS = 32
"""Data is made for at most so many steps."""


def tell(cpu: float, wall: float, tokens: int) -> None:
    cost = {
        "cpu": time.process_time() - cpu,
        "wall": time.perf_counter() - wall,
        "tokens": tokens,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "since_start": time.process_time(),
    }
    print(json.dumps(cost), flush=True)


def loaded(work: Workload, folder: Path) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = folder / work.model
    model = AutoModelForCausalLM.from_pretrained(where, dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(where)


def shared(micro: int, accumulate: int) -> dict[str, Any]:
    return {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": accumulate,
        "max_steps": STEPS,
        "learning_rate": 1e-6,
        "lr_scheduler_type": "constant",
        "bf16": False,
        "gradient_checkpointing": False,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "logging_steps": 10**6,
        "disable_tqdm": True,
    }


def train(trainer: Any) -> None:
    """Run the trainer's own loop; it waits for a line before each optimizer step."""
    from transformers import TrainerCallback

    class Paced(TrainerCallback):
        cpu = wall = 0.0
        seen = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **other: Any) -> None:
            if not sys.stdin.readline():
                raise SystemExit
            self.cpu, self.wall = time.process_time(), time.perf_counter()

        def on_step_end(self, args: Any, state: Any, control: Any, **other: Any) -> None:
            total = float(getattr(trainer, "_total_train_tokens", 0))
            tell(self.cpu, self.wall, int(total - self.seen))
            self.seen = total

    trainer.add_callback(Paced())
    print(json.dumps({"ready": time.process_time()}), flush=True)
    trainer.train()


def online(work: Workload, model: Any, tokenizer: Any) -> None:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    config, make = {"grpo": (GRPOConfig, GRPOTrainer), "rloo": (RLOOConfig, RLOOTrainer)}[work.kind]
    extra = {"loss_type": "grpo"} if work.kind == "grpo" else {}
    args = config(
        **shared(work.group, work.prompts),
        **extra,
        beta=0.0,
        num_generations=work.group,
        max_completion_length=work.tokens,
        temperature=1.0,
    )

    def judged(prompts: list[str], completions: list[str], **other: Any) -> list[float]:
        return [reward(work, p, c) for p, c in zip(prompts, completions, strict=True)]

    data = Dataset.from_list([{"prompt": text} for text in prompts(work)])
    train(make(model, judged, args=args, train_dataset=data, processing_class=tokenizer))


def preferences(work: Workload, model: Any, tokenizer: Any) -> None:
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    rows = [pair for step in range(STEPS) for pair in pairs(work, step)]
    args = DPOConfig(**shared(2, work.prompts // 2), max_length=2048)
    data = Dataset.from_list(rows)
    train(DPOTrainer(model, args=args, train_dataset=data, processing_class=tokenizer))


def documents(work: Workload, model: Any, tokenizer: Any) -> None:
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    rows = [texts(1, n, step)[0] for step in range(STEPS) for n in lengths(work, step)]
    args = SFTConfig(**shared(4, 1), max_length=512, packing=True)
    data = Dataset.from_list([{"text": row} for row in rows])
    train(SFTTrainer(model, args=args, train_dataset=data, processing_class=tokenizer))


def rollouts(work: Workload, model: Any, tokenizer: Any) -> None:
    import torch

    ends = list(range(0, 4096, 32)) if work.stops else tokenizer.eos_token_id
    rows = [text for text in prompts(work) for _ in range(work.group)]
    fed = tokenizer(rows, return_tensors="pt", padding=True, padding_side="left")
    print(json.dumps({"ready": time.process_time()}), flush=True)
    for number, _ in enumerate(sys.stdin):
        torch.manual_seed(number)
        cpu, wall = time.process_time(), time.perf_counter()
        made = model.generate(
            input_ids=fed["input_ids"],
            attention_mask=fed["attention_mask"],
            do_sample=True,
            top_k=0,
            temperature=1.0,
            max_new_tokens=work.tokens,
            eos_token_id=ends,
            pad_token_id=tokenizer.pad_token_id,
        )[:, fed["input_ids"].shape[1] :]
        ended = torch.isin(made, torch.tensor(ends)).int()
        useful = int((ended.cumsum(1) - ended == 0).sum())
        tell(cpu, wall, useful)


def main() -> None:
    work = WORKLOADS[sys.argv[1]]
    model, tokenizer = loaded(work, Path(sys.argv[2]))
    run = {"dpo": preferences, "sft": documents, "rollout": rollouts}.get(work.kind, online)
    run(work, model, tokenizer)


if __name__ == "__main__":
    main()
