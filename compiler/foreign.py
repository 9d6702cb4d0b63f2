"""Words that people bring from other tools, and what is written here instead.

Only used for the hint of an unknown setting: nothing of this is accepted.
"""

from __future__ import annotations

_COUNTED = (
    "say what is counted: `prompts` and `group` in `sample`, `sequences_per_update` in `train`"
)
_PACKED = "no padding: `micro_tokens` is how many tokens go through the model at once"

_PROCESSES = "write `processes`: how many share the work, one on each device"

FOREIGN: dict[str, str] = {
    "batch_size": _COUNTED,
    "train_batch_size": _COUNTED,
    "global_batch_size": _COUNTED,
    "rollout_batch_size": _COUNTED,
    "mini_batch_size": _COUNTED,
    "ppo_mini_batch_size": _COUNTED,
    "generation_batch_size": _COUNTED,
    "per_device_train_batch_size": _PACKED,
    "micro_batch_size": _PACKED,
    "gradient_accumulation_steps": _PACKED,
    "accumulate": _PACKED,
    "num_generations": "write `group`: completions of each prompt",
    "n": "write `group`: completions of each prompt",
    "num_samples": "write `group`: completions of each prompt",
    "learning_rate": "write `lr`",
    "num_train_epochs": "write `epochs`",
    "num_epochs": "write `epochs`",
    "max_steps": "write `updates`: optimizer steps",
    "steps": "write `updates`: optimizer steps",
    "max_new_tokens": "write `max_tokens`: longest completion in tokens",
    "max_completion_length": "write `max_tokens`: longest completion in tokens",
    "max_seq_length": "write `max_length`: longest sequence in tokens",
    "warmup_ratio": "write `warmup`: a share of the updates, such as `10%`",
    "warmup_steps": "write `warmup`: a share of the updates, such as `10%`",
    "max_grad_norm": "write `clip_norm`",
    "lr_scheduler_type": "write `schedule`",
    "beta": "it belongs to the algorithm: `algorithm = grpo(beta = 0.04)`",
    "kl_coef": "it belongs to the algorithm: `algorithm = grpo(beta = 0.04)`",
    "epsilon": "it belongs to the algorithm: `algorithm = grpo(clip = 0.2)`",
    "cliprange": "it belongs to the algorithm: `algorithm = grpo(clip = 0.2)`",
    "num_processes": _PROCESSES,
    "nproc_per_node": _PROCESSES,
    "num_gpus": _PROCESSES,
    "n_gpus_per_node": _PROCESSES,
    "devices": _PROCESSES,
    "lora_r": "write `adapter = lora(rank = 16)`",
    "lora_rank": "write `adapter = lora(rank = 16)`",
    "reward_funcs": "a reward is an input: `score(rollouts, my_reward())`",
    "tools": 'they belong to turns: `sampler = turns(tools = [python("tools.py:name")])`',
    "max_turns": "write `sampler = turns(max = 4, tools = …)`",
    "top_k": "sampling is cut by `top_p` only, and training wants it whole",
}
