"""Oracles of verl: its advantage estimators with its policy losses.

verl's own conventions: the deviation has n - 1 degrees and 1e-6 is added to it; `vanilla` clips a
second time at a ratio of 3 (`clip_ratio_c`), which is set out of reach here.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from verl.trainer.ppo import core_algos
from verl.utils.torch_functional import masked_sum
from verl.workers.config import ActorConfig, PolicyLossConfig

from oracles.oracle import Batch, Oracle, covaried, demos, rollouts, valued

OUT_OF_REACH = 1e9


def advantage(
    batch: Batch, kind: str = "grpo", *, one_group: bool = False, **options: Any
) -> Tensor:
    """Advantages [S, T] of one of verl's estimators; the reward is that of the last token."""
    mask = batch["mask"].double()
    last = (torch.arange(mask.shape[1]) == mask.sum(1, keepdim=True) - 1).double()
    index = np.zeros(len(mask), dtype=int) if one_group else batch["group"].numpy()
    function = getattr(core_algos, f"compute_{kind}_outcome_advantage")
    rewards = (last * batch["reward"][:, None]).clone()
    found: Tensor = function(rewards, mask, index=index, **options)[0]
    return found


def policy_loss(
    batch: Batch,
    kind: str,
    advantages: Tensor,
    aggregate: str = "token-mean",
    *,
    low: float = 0.2,
    high: float = 0.2,
    horizon: int | None = None,
    again: float = OUT_OF_REACH,
    policy: dict[str, float] | None = None,
    **options: Any,
) -> Tensor:
    """One of verl's policy losses, a scalar."""
    config = ActorConfig(
        strategy="fsdp",
        rollout_n=1,
        ppo_micro_batch_size_per_gpu=1,
        clip_ratio_low=low,
        clip_ratio_high=high,
        clip_ratio_c=again,
        policy_loss=PolicyLossConfig(**(policy or {})),
        **options,
    )
    if horizon is not None:
        config.global_batch_info["loss_scale_factor"] = horizon
    function = getattr(core_algos, f"compute_policy_loss_{kind}")
    mask = batch["mask"].double()
    loss: Tensor = function(batch["old_logp"], batch["logp"], advantages, mask, aggregate, config)[
        0
    ]
    return loss


def k3(batch: Batch, aggregate: str) -> Tensor:
    """verl's `low_var_kl` to the reference, aggregated, a scalar."""
    kl = core_algos.kl_penalty(batch["logp"], batch["ref_logp"], "low_var_kl")
    found: Tensor = core_algos.agg_loss(kl, batch["mask"].double(), aggregate)
    return found


def _whitened(batch: Batch) -> Tensor:
    config: Any = type("Config", (), {"gamma": 1.0})()
    mask = batch["mask"].double()
    last = (torch.arange(mask.shape[1]) == mask.sum(1, keepdim=True) - 1).double()
    rewards = last * batch["reward"][:, None]
    found: Tensor = core_algos.compute_reinforce_plus_plus_outcome_advantage(rewards, mask, config)[
        0
    ]
    return found


def _last(batch: Batch) -> Tensor:
    """The reward on the last token of each sequence, [S, T]."""
    mask = batch["mask"].double()
    last = (torch.arange(mask.shape[1]) == mask.sum(1, keepdim=True) - 1).double()
    return last * batch["reward"][:, None]


def ppo(batch: Batch, gamma: float, lam: float) -> Tensor:
    """Generalised advantages, `vanilla` with its dual clip, and the clipped value loss."""
    mask = batch["mask"].double()
    advantages, returns = core_algos.compute_gae_advantage_return(
        _last(batch), batch["old_value"], mask, gamma, lam
    )
    found: Tensor = core_algos.compute_value_loss(
        batch["value"], returns, batch["old_value"], mask, 0.5
    )[0]
    return policy_loss(batch, "vanilla", advantages, again=3.0) + found


def _remax(batch: Batch) -> Tensor:
    mask = batch["mask"].double()
    found: Tensor = core_algos.compute_remax_outcome_advantage(
        _last(batch), batch["greedy_reward"], mask
    )[0]
    return found


def _gdpo(batch: Batch) -> Tensor:
    mask = batch["mask"].double()
    found: Tensor = core_algos.compute_gdpo_outcome_advantage(
        mask,
        mask,
        batch["group"].numpy(),
        config={"gdpo_reward_keys": ["first", "second"]},
        non_tensor_batch={name: batch[f"reward.{name}"].numpy() for name in ("first", "second")},
        batch={"prompts": torch.zeros(len(mask), 0), "attention_mask": batch["mask"].long()},
    )[0]
    return found


_SEQUENCE, _TOTAL = "seq-mean-token-mean", "seq-mean-token-sum"
_NORMED = "verl: compute_grpo_outcome_advantage(epsilon=1e-6), "

ORACLES = [
    Oracle(
        "sft",
        "verl: -masked_sum / tokens, as in workers.utils.losses.sft_loss",
        demos,
        lambda b: -masked_sum(b["logp"], b["mask"]) / b["mask"].sum(),
    ),
    Oracle(
        "reinforce",
        "verl: compute_grpo_outcome_advantage(one group, no std), compute_policy_loss_gpg",
        rollouts,
        lambda b: policy_loss(
            b, "gpg", advantage(b, one_group=True, norm_adv_by_std_in_grpo=False)
        ),
    ),
    Oracle(
        "rloo",
        "verl: compute_rloo_outcome_advantage, compute_policy_loss_gpg(seq-mean-token-sum)",
        rollouts,
        lambda b: policy_loss(b, "gpg", advantage(b, "rloo"), _TOTAL),
    ),
    Oracle(
        "grpo",
        _NORMED + "compute_policy_loss_vanilla(seq-mean-token-mean)",
        rollouts,
        lambda b: policy_loss(b, "vanilla", advantage(b), _SEQUENCE),
        {"eps": 1e-6},
    ),
    Oracle(
        "grpo",
        _NORMED + "compute_policy_loss_vanilla(seq-mean-token-mean) + 0.04 low_var_kl",
        rollouts,
        lambda b: policy_loss(b, "vanilla", advantage(b), _SEQUENCE) + 0.04 * k3(b, _SEQUENCE),
        {"eps": 1e-6, "beta": 0.04},
    ),
    Oracle(
        "dapo",
        _NORMED + "compute_policy_loss_vanilla(token-mean, 0.2, 0.28)",
        rollouts,
        lambda b: policy_loss(b, "vanilla", advantage(b), high=0.28),
        {"eps": 1e-6},
    ),
    Oracle(
        "dr_grpo",
        "verl: compute_grpo_outcome_advantage(no std), "
        "compute_policy_loss_vanilla(seq-mean-token-sum-norm, loss_scale_factor=8)",
        rollouts,
        lambda b: policy_loss(
            b,
            "vanilla",
            advantage(b, norm_adv_by_std_in_grpo=False),
            "seq-mean-token-sum-norm",
            horizon=8,
        ),
        {"max_tokens": 8},
    ),
    Oracle(
        "gspo",
        _NORMED + "compute_policy_loss_gspo(3e-4, 4e-4)",
        rollouts,
        lambda b: policy_loss(b, "gspo", advantage(b), _SEQUENCE, low=3e-4, high=4e-4),
        {"eps": 1e-6, "clip_low": 3e-4, "clip_high": 4e-4},
    ),
    Oracle(
        "gspo",
        _NORMED + "compute_policy_loss_gspo(0.2, 0.28)",
        rollouts,
        lambda b: policy_loss(b, "gspo", advantage(b), _SEQUENCE, low=0.2, high=0.28),
        {"eps": 1e-6, "clip_low": 0.2, "clip_high": 0.28},
    ),
    Oracle(
        "gmpo",
        _NORMED + "compute_policy_loss_geo_mean(0.2, 0.2)",
        rollouts,
        lambda b: policy_loss(b, "geo_mean", advantage(b)),
        {"eps": 1e-6, "clip_low": 0.2, "clip_high": 0.2},
    ),
    Oracle(
        "cispo",
        _NORMED + "compute_policy_loss_cispo(1, 0.28)",
        rollouts,
        lambda b: policy_loss(b, "cispo", advantage(b), low=1.0, high=0.28),
        {"eps": 1e-6, "clip_low": 1.0, "clip_high": 0.28},
    ),
    Oracle(
        "sapo",
        _NORMED + "compute_policy_loss_sapo(1, 1.05)",
        rollouts,
        lambda b: policy_loss(b, "sapo", advantage(b)),
        {"eps": 1e-6},
    ),
    Oracle(
        "dro",
        "verl: compute_grpo_outcome_advantage(no std), compute_policy_loss_dro(0.1)",
        rollouts,
        lambda b: policy_loss(
            b, "dro", advantage(b, norm_adv_by_std_in_grpo=False), policy={"dro_beta": 0.1}
        ),
        {"beta": 0.1},
    ),
    Oracle(
        "thor",
        _NORMED + "compute_policy_loss_vanilla(token-mean, 0.2, 0.28, clip_ratio_c=1.2)",
        rollouts,
        lambda b: policy_loss(b, "vanilla", advantage(b), high=0.28, again=1.2),
        {"eps": 1e-6, "alpha": 0.0, "dual_clip": 1.2},
    ),
    Oracle(
        "ppo",
        "verl: compute_gae_advantage_return(1, 1), vanilla(clip_ratio_c=3), "
        "compute_value_loss(0.5)",
        valued,
        lambda b: ppo(b, 1.0, 1.0),
    ),
    Oracle(
        "ppo",
        "verl: compute_gae_advantage_return(0.9, 0.8), vanilla(clip_ratio_c=3), "
        "compute_value_loss(0.5)",
        valued,
        lambda b: ppo(b, 0.9, 0.8),
        {"gamma": 0.9, "lam": 0.8},
    ),
    Oracle(
        "remax",
        "verl: compute_remax_outcome_advantage, vanilla(token-mean)",
        valued,
        lambda b: policy_loss(b, "vanilla", _remax(b)),
    ),
    Oracle(
        "clip_cov",
        _NORMED + "compute_policy_loss_clip_cov(0 to 5, ratio 1: every candidate is cut)",
        covaried,
        lambda b: policy_loss(
            b,
            "clip_cov",
            advantage(b),
            policy={"clip_cov_ratio": 1.0, "clip_cov_lb": 0.05, "clip_cov_ub": 5.0},
        ),
        {"eps": 1e-6, "share": 1.0, "cov_low": 0.05, "cov_high": 5.0},
    ),
    Oracle(
        "kl_cov",
        _NORMED + "compute_policy_loss_kl_cov(0.2, 0.1)",
        rollouts,
        lambda b: policy_loss(
            b, "kl_cov", advantage(b), policy={"kl_cov_ratio": 0.2, "ppo_kl_coef": 0.1}
        ),
        {"eps": 1e-6, "share": 0.2, "beta": 0.1},
    ),
    Oracle(
        "opo",
        "verl: compute_opo_outcome_advantage, compute_policy_loss_gpg(seq-mean-token-sum)",
        rollouts,
        lambda b: policy_loss(b, "gpg", advantage(b, "opo"), _TOTAL),
    ),
    Oracle(
        "gpg",
        "verl: compute_gpg_outcome_advantage, compute_policy_loss_gpg(token-mean)",
        rollouts,
        lambda b: policy_loss(b, "gpg", advantage(b, "gpg")),
        {"alpha": "scored"},
    ),
    Oracle(
        "reinforce_plus_plus",
        "verl: compute_reinforce_plus_plus_outcome_advantage(gamma=1), vanilla(token-mean)",
        rollouts,
        lambda b: policy_loss(b, "vanilla", _whitened(b)),
    ),
    Oracle(
        "reinforce_plus_plus_baseline",
        "verl: compute_reinforce_plus_plus_baseline_outcome_advantage, vanilla(token-mean)",
        rollouts,
        lambda b: policy_loss(b, "vanilla", advantage(b, "reinforce_plus_plus_baseline")),
    ),
    Oracle(
        "gdpo",
        "verl: compute_gdpo_outcome_advantage(first, second), vanilla(token-mean)",
        rollouts,
        lambda b: policy_loss(b, "vanilla", _gdpo(b)),
    ),
    Oracle(
        "grpo_pass_at_k",
        "verl: compute_grpo_passk_outcome_advantage, vanilla(token-mean)",
        rollouts,
        lambda b: policy_loss(b, "vanilla", advantage(b, "grpo_passk", config={})),
        {"eps": 1e-6},
    ),
]
