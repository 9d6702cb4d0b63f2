"""Oracles of TRL: its trainers' losses, called without a model.

TRL adds 1e-4 to the deviation of a group; its advantages are formed inside its sampling loop, so
they come from verl's function with that epsilon.
"""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from trl import DPOTrainer, GRPOTrainer, RewardTrainer
from trl.experimental.cpo import CPOTrainer
from trl.experimental.gkd import GKDTrainer
from trl.experimental.orpo import ORPOTrainer

from oracles.oracle import Batch, Oracle, demos, means, preferences, rollouts, sums, tables
from oracles.with_verl import advantage


def _accelerator() -> Any:
    def same(value: Any, **_: Any) -> Any:
        return value

    return SimpleNamespace(
        device=torch.device("cpu"),
        num_processes=1,
        gather=same,
        gather_for_metrics=same,
        reduce=same,
    )


def _trainer(kind: type, **attributes: Any) -> Any:
    """A trainer that was never set up, with just what its loss reads."""
    made: Any = object.__new__(kind)
    shared = {
        "accelerator": _accelerator(),
        "aux_loss_enabled": False,
        "label_smoothing": 0.0,
        "_metrics": defaultdict(lambda: defaultdict(list)),
        "_total_train_tokens": 0,
        "_tp_size": 1,
    }
    made.__dict__.update({**shared, **attributes})
    return made


def grpo(
    batch: Batch,
    kind: str,
    *,
    normed: bool = True,
    beta: float = 0.0,
    low: float = 0.2,
    high: float = 0.2,
    level: str = "token",
) -> Tensor:
    """`GRPOTrainer._compute_loss` of one loss type, a scalar."""
    trainer = _trainer(
        GRPOTrainer,
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(
            use_bias_correction_kl=False,
            delta=None,
            sapo_temperature_pos=1.0,
            sapo_temperature_neg=1.05,
            vespo_k_pos=2.0,
            vespo_lambda_pos=3.0,
            vespo_k_neg=3.0,
            vespo_lambda_neg=2.0,
            steps_per_generation=1,
        ),
        loss_type=kind,
        beta=beta,
        epsilon_low=low,
        epsilon_high=high,
        importance_sampling_level=level,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        max_completion_length=8,
        current_gradient_accumulation_steps=1,
        _entropy_bonus_enabled=False,
        _get_per_token_logps_and_entropies=lambda *_, **__: (
            batch["logp"],
            torch.zeros_like(batch["logp"]),
            None,
        ),
    )
    ids, mask = torch.zeros(batch["mask"].shape, dtype=torch.long), batch["mask"].long()
    found: Tensor = trainer._compute_loss(
        None,
        {
            "prompt_ids": ids[:, :1],
            "prompt_mask": mask[:, :1],
            "completion_ids": ids,
            "completion_mask": mask,
            "advantages": advantage(batch, epsilon=1e-4, norm_adv_by_std_in_grpo=normed)[:, 0],
            "old_per_token_logps": batch["old_logp"],
            "ref_per_token_logps": batch["ref_logp"],
            "num_items_in_batch": mask.sum(),
        },
    )
    return found


def dpo(
    batch: Batch,
    *kinds: str,
    weights: tuple[float, ...] = (1.0,),
    beta: float = 0.1,
    smoothing: float = 0.0,
) -> Tensor:
    """`DPOTrainer._compute_loss` of one loss type or a weighted sum of several, a scalar."""

    def sides_apart(x: Tensor) -> Tensor:
        return torch.cat([x[0::2], x[1::2]])

    mask = sides_apart(batch["mask"])
    logp = torch.where(mask, sides_apart(batch["logp"]), 0.0)
    nothing = torch.zeros_like(logp)

    def model(**_: Any) -> Any:
        return SimpleNamespace(
            log_probs=logp, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool()
        )

    ref = sides_apart(sums(batch, "ref_logp"))
    trainer = _trainer(
        DPOTrainer,
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(discopop_tau=0.05),
        beta=beta,
        label_smoothing=smoothing,
        loss_types=list(kinds),
        loss_weights=list(weights),
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        use_weighting=False,
    )
    completion = torch.cat([torch.zeros_like(mask[:, :1]), mask], 1).long()
    inputs = {
        "input_ids": torch.zeros_like(completion),
        "attention_mask": completion,
        "completion_mask": completion,
        "ref_chosen_logps": ref[: len(ref) // 2],
        "ref_rejected_logps": ref[len(ref) // 2 :],
    }
    found: Tensor = trainer._compute_loss(model, inputs, False)
    return found


def cpo(
    batch: Batch,
    kind: str,
    logp: Tensor,
    *,
    beta: float = 0.1,
    gamma: float = 0.5,
    smoothing: float = 0.0,
) -> Tensor:
    """`CPOTrainer.cpo_loss`, the mean over pairs."""
    trainer = _trainer(
        CPOTrainer,
        loss_type=kind,
        beta=beta,
        simpo_gamma=gamma,
        alpha=0.0,
        label_smoothing=smoothing,
    )
    found: Tensor = trainer.cpo_loss(logp[0::2], logp[1::2])[0].mean()
    return found


def _chosen_nll(batch: Batch) -> Tensor:
    mask = batch["mask"][0::2]
    return -batch["logp"][0::2][mask].mean()


def orpo(batch: Batch) -> Tensor:
    """TRL's ORPO: negative log-likelihood of the chosen side, less the odds ratio term."""
    average = means(batch)
    ratio = _trainer(ORPOTrainer, beta=0.1).odds_ratio_loss(average[0::2], average[1::2])[0]
    found: Tensor = _chosen_nll(batch) - ratio.mean()
    return found


def reward_model(batch: Batch, *, margin: bool) -> Tensor:
    """`RewardTrainer.compute_loss`, a scalar."""
    scores = torch.cat([batch["score"][0::2], batch["score"][1::2]])
    trainer = _trainer(
        RewardTrainer,
        model=SimpleNamespace(training=True),
        args=SimpleNamespace(center_rewards_coefficient=None),
    )
    inputs = {"attention_mask": torch.ones(1), **({"margin": batch["margin"]} if margin else {})}
    found: Tensor = trainer.compute_loss(
        lambda **_: SimpleNamespace(logits=scores[:, None]), inputs
    )
    return found


def jsd(batch: Batch, beta: float = 0.5) -> Tensor:
    """`GKDTrainer.generalized_jsd_loss`, the mean over tokens."""
    labels = torch.where(batch["mask"], 0, -100)
    found: Tensor = GKDTrainer.generalized_jsd_loss(
        batch["logp_all"], batch["teacher_logp_all"], labels, beta=beta
    )
    return found


def nll(batch: Batch) -> Tensor:
    """The loss that `SFTTrainer` takes from the model: transformers' over all labels of the batch,
    for logits over two entries, the token and everything else."""
    from transformers.loss.loss_utils import ForCausalLMLoss

    mask = batch["mask"]
    logp = torch.where(mask, batch["logp"], -1.0)
    logits = torch.stack([logp, torch.log1p(-logp.exp())], -1)
    logits = torch.cat([logits, logits[:, :1]], 1)
    labels = torch.cat([mask[:, :1], mask], 1).long() - 1
    labels = torch.where(labels == 0, 0, -100)
    labels[:, 0] = -100
    found: Tensor = ForCausalLMLoss(logits, labels, 2)
    return found


def _preference(name: str, kind: str, smoothing: float | None = None) -> Oracle:
    return Oracle(
        name,
        f"trl: DPOTrainer._compute_loss({kind})",
        preferences,
        lambda b: dpo(b, kind, smoothing=smoothing or 0.0),
        {} if smoothing is None else {"smoothing": smoothing},
    )


_GRPO = "trl: GRPOTrainer._compute_loss"

ORACLES = [
    Oracle("sft", "transformers: ForCausalLMLoss, float32 inside", demos, nll),
    Oracle("grpo", f"{_GRPO}(grpo)", rollouts, lambda b: grpo(b, "grpo")),
    Oracle(
        "grpo", f"{_GRPO}(grpo)", rollouts, lambda b: grpo(b, "grpo", beta=0.04), {"beta": 0.04}
    ),
    Oracle("dapo", f"{_GRPO}(dapo)", rollouts, lambda b: grpo(b, "dapo", high=0.28)),
    Oracle(
        "dr_grpo",
        f"{_GRPO}(dr_grpo)",
        rollouts,
        lambda b: grpo(b, "dr_grpo", normed=False),
        {"max_tokens": 8},
    ),
    Oracle(
        "gspo",
        f"{_GRPO}(grpo, sequence)",
        rollouts,
        lambda b: grpo(b, "grpo", low=3e-4, high=4e-4, level="sequence"),
        {"eps": 1e-4, "clip_low": 3e-4, "clip_high": 4e-4},
    ),
    Oracle(
        "cispo",
        f"{_GRPO}(cispo), whose epsilon_high is the ratio itself",
        rollouts,
        lambda b: grpo(b, "cispo", high=1.28),
        {"eps": 1e-4, "clip_low": 1.0, "clip_high": 0.28},
    ),
    Oracle("sapo", f"{_GRPO}(sapo)", rollouts, lambda b: grpo(b, "sapo"), {"eps": 1e-4}),
    Oracle("vespo", f"{_GRPO}(vespo)", rollouts, lambda b: grpo(b, "vespo"), {"eps": 1e-4}),
    Oracle(
        "luspo",
        f"{_GRPO}(luspo, sequence)",
        rollouts,
        lambda b: grpo(b, "luspo", level="sequence"),
        {"eps": 1e-4, "clip_low": 0.2, "clip_high": 0.2},
    ),
    _preference("dpo", "sigmoid"),
    _preference("hinge", "hinge"),
    _preference("ipo", "ipo"),
    _preference("nca", "nca_pair"),
    _preference("bco_pair", "bco_pair"),
    _preference("sppo", "sppo_hard"),
    _preference("apo_zero", "apo_zero"),
    _preference("apo_down", "apo_down"),
    _preference("discopop", "discopop"),
    _preference("dpo_norm", "sigmoid_norm"),
    _preference("exo", "exo_pair", smoothing=0.1),
    _preference("robust_dpo", "robust", smoothing=0.1),
    Oracle(
        "rpo",
        "trl: DPOTrainer._compute_loss(sigmoid + sft)",
        preferences,
        lambda b: dpo(b, "sigmoid", "sft", weights=(1.0, 1.0)),
        {"alpha": 1.0},
    ),
    Oracle(
        "simpo",
        "trl: CPOTrainer.cpo_loss(simpo) on averages",
        preferences,
        lambda b: cpo(b, "simpo", means(b), beta=2.0),
        {"beta": 2.0, "margin": 0.5},
    ),
    Oracle(
        "cdpo",
        "trl: CPOTrainer.cpo_loss(sigmoid, label_smoothing=0.2) on sums of log-ratios",
        preferences,
        lambda b: cpo(b, "sigmoid", sums(b) - sums(b, "ref_logp"), smoothing=0.2),
        {"smoothing": 0.2},
    ),
    Oracle(
        "cpo",
        "trl: CPOTrainer.cpo_loss(sigmoid) on sums, and the chosen side's likelihood",
        preferences,
        lambda b: cpo(b, "sigmoid", sums(b)) + _chosen_nll(b),
    ),
    Oracle(
        "gkd",
        "trl: GKDTrainer.generalized_jsd_loss(beta=0.5)",
        tables,
        jsd,
        {"beta": 0.5},
    ),
    Oracle(
        "gkd",
        "trl: GKDTrainer.generalized_jsd_loss(beta=0)",
        tables,
        lambda b: jsd(b, 0.0),
        {"beta": 0.0},
    ),
    Oracle("orpo", "trl: ORPOTrainer.odds_ratio_loss, float32 inside", preferences, orpo),
    Oracle(
        "reward_model",
        "trl: RewardTrainer.compute_loss",
        preferences,
        lambda b: reward_model(b, margin=False),
    ),
    Oracle(
        "reward_model",
        "trl: RewardTrainer.compute_loss, with margins",
        preferences,
        lambda b: reward_model(b, margin=True),
        {"use_margin": True},
    ),
]
