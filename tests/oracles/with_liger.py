"""Oracles of Liger: the losses inside its chunked kernels, as plain functions."""

from __future__ import annotations

from typing import Any

from liger_kernel.chunked_loss.dpo_loss import LigerFusedLinearDPOFunction
from liger_kernel.chunked_loss.grpo_loss import LigerFusedLinearGRPOFunction
from liger_kernel.chunked_loss.jsd_loss import LigerFusedLinearJSDFunction
from liger_kernel.chunked_loss.kto_loss import LigerFusedLinearKTOFunction
from liger_kernel.chunked_loss.simpo_loss import LigerFusedLinearSimPOFunction
from torch import Tensor

from oracles.oracle import Batch, Oracle, means, preferences, ratings, rollouts, sums, tables
from oracles.with_verl import advantage


def grpo(batch: Batch, kind: str, *, normed: bool = True, **options: Any) -> Tensor:
    """`ppo_loss_fn` of one loss type, a scalar."""
    mask = batch["mask"].double()
    found: Tensor = LigerFusedLinearGRPOFunction.ppo_loss_fn(
        batch["logp"],
        mask,
        advantage(batch, epsilon=1e-4, norm_adv_by_std_in_grpo=normed)[:, 0],
        mask,
        batch["ref_logp"],
        batch["old_logp"],
        loss_type=kind,
        max_completion_length=8,
        **{"beta": 0.0, **options},
    )[0]
    return found


def pairs(function: Any, logp: Tensor, ref: Tensor | None = None, **options: Any) -> Tensor:
    """`preference_loss_fn` of one of Liger's losses, a scalar."""
    if ref is not None:
        options |= {"ref_chosen_logps": ref[0::2], "ref_rejected_logps": ref[1::2]}
    found: Tensor = function.preference_loss_fn(logp[0::2], logp[1::2], logp, **options)[0]
    return found


_GRPO = "liger_kernel: LigerFusedLinearGRPOFunction.ppo_loss_fn"
_DPO = "liger_kernel: LigerFusedLinearDPOFunction.preference_loss_fn"


def _dpo(batch: Batch, kind: str, **options: Any) -> Tensor:
    ref = sums(batch, "ref_logp")
    return pairs(LigerFusedLinearDPOFunction, sums(batch), ref, loss_type=kind, **options)


def kto(batch: Batch) -> Tensor:
    """KTO with the mean log-ratio of the batch, cut off at 0, as its reference point, a scalar."""
    logp, ref = sums(batch), sums(batch, "ref_logp")
    point = (logp - ref).mean().clamp(min=0).detach()
    found: Tensor = LigerFusedLinearKTOFunction.preference_loss_fn(
        logp, batch["desirable"].bool(), logp, ref, beta=0.1, kl=point
    )[0]
    return found


def jsd(batch: Batch) -> Tensor:
    """The generalised divergence with `beta` 0.3, the mean over tokens, a scalar."""
    student, teacher = (batch[name][batch["mask"]] for name in ("logp_all", "teacher_logp_all"))
    found: Tensor = LigerFusedLinearJSDFunction.distillation_loss_fn(student, teacher, beta=0.3)
    return found.sum() / len(student)


ORACLES = [
    Oracle("grpo", f"{_GRPO}(grpo)", rollouts, lambda b: grpo(b, "grpo")),
    Oracle(
        "grpo", f"{_GRPO}(grpo)", rollouts, lambda b: grpo(b, "grpo", beta=0.04), {"beta": 0.04}
    ),
    Oracle("dapo", f"{_GRPO}(dapo)", rollouts, lambda b: grpo(b, "dapo", epsilon_high=0.28)),
    Oracle(
        "dr_grpo",
        f"{_GRPO}(dr_grpo)",
        rollouts,
        lambda b: grpo(b, "dr_grpo", normed=False),
        {"max_tokens": 8},
    ),
    Oracle("sapo", f"{_GRPO}(sapo)", rollouts, lambda b: grpo(b, "sapo"), {"eps": 1e-4}),
    Oracle("vespo", f"{_GRPO}(vespo)", rollouts, lambda b: grpo(b, "vespo"), {"eps": 1e-4}),
    Oracle("dpo", f"{_DPO}(sigmoid)", preferences, lambda b: _dpo(b, "sigmoid")),
    Oracle(
        "gkd",
        "liger_kernel: LigerFusedLinearJSDFunction.distillation_loss_fn(beta=0.3)",
        tables,
        jsd,
        {"beta": 0.3},
    ),
    Oracle("hinge", f"{_DPO}(hinge)", preferences, lambda b: _dpo(b, "hinge")),
    Oracle(
        "simpo",
        "liger_kernel: LigerFusedLinearSimPOFunction.preference_loss_fn on averages",
        preferences,
        lambda b: pairs(LigerFusedLinearSimPOFunction, means(b), beta=2.0, gamma=0.5),
        {"beta": 2.0, "margin": 0.5},
    ),
    Oracle(
        "kto",
        "liger_kernel: LigerFusedLinearKTOFunction.preference_loss_fn(kl=mean log-ratio)",
        ratings,
        kto,
    ),
]
