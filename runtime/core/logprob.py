"""Log-probabilities of given tokens from hidden states, without the full table of logits.

The head is applied to a chunk of positions at a time, forward and (by recomputing) backward, so
that memory is chunk x vocabulary however long the batch is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

CHUNK = 1024


def head_of(network: Any) -> tuple[nn.Module, dict[str, float]]:
    """The output embedding of a causal model, and what its family does to the logits after it."""
    config = network.config
    head = network.get_output_embeddings()
    after = {}
    if getattr(config, "final_logit_softcapping", None):
        after["softcap"] = float(config.final_logit_softcapping)
    if getattr(config, "logit_scale", None):
        after["scale"] = float(config.logit_scale)
    if getattr(config, "logits_scaling", None):
        after["scale"] = 1 / float(config.logits_scaling)
    return head, after


def logits_of(head: nn.Module, after: dict[str, float], hidden: Tensor) -> Tensor:
    logits: Tensor = head(hidden)
    if "scale" in after:
        logits = logits * after["scale"]
    if "softcap" in after:
        logits = torch.tanh(logits / after["softcap"]) * after["softcap"]
    return logits if logits.dtype == torch.float64 else logits.float()


def token_values(
    network: Any,
    hidden: Tensor,
    targets: Tensor,
    *,
    entropy: bool = False,
    temperature: float = 1.0,
    chunk: int = CHUNK,
) -> tuple[Tensor, Tensor | None]:
    """Log-probs [n] of `targets` [n] after hidden states [n, width], and entropies [n] if asked.

    Natural logarithms, of the distribution at `temperature`. Gradients flow to the hidden states
    and the head.
    """
    head, after = head_of(network)

    def piece(states: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        logits = logits_of(head, after, states) / temperature
        norm = torch.logsumexp(logits, -1)
        logp = logits.gather(-1, wanted[:, None])[:, 0] - norm
        if not entropy:
            return logp, logp
        probs = torch.exp(logits - norm[:, None])
        return logp, norm - (probs * logits).sum(-1)

    logps, entropies = [], []
    for start in range(0, len(targets), chunk):
        args = (hidden[start : start + chunk], targets[start : start + chunk])
        if torch.is_grad_enabled() and len(targets) > chunk:
            logp, spread = checkpoint(piece, *args, use_reentrant=False)
        else:
            logp, spread = piece(*args)
        logps.append(logp)
        entropies.append(spread)
    if not logps:
        empty = hidden.new_zeros(0)
        return empty, empty if entropy else None
    return torch.cat(logps), torch.cat(entropies) if entropy else None
