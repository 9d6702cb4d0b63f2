"""Log-probabilities of given tokens from hidden states, without the full table of logits.

The head is applied to a chunk of positions at a time, so that memory is chunk x vocabulary however
long the batch is. `token_values` is differentiable by recomputing; `head_gradient` takes the
gradient of the loss per token as given and needs no graph at all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from grape.runtime.core.products import times

CHUNK = 1024
CELLS = 1 << 23
"""Logits of one chunk: 32 MiB in float32, which is faster than more and than less."""
POSITIONS = 512
"""Most positions of one chunk; with more, the logits of a small vocabulary leave the caches."""


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


def logits_of(head: Callable[[Tensor], Tensor], after: dict[str, float], hidden: Tensor) -> Tensor:
    logits = head(hidden)
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
    and the head; without them, no more logits than `CELLS` are there at a time.
    """
    head, after = head_of(network)

    def piece(states: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
        logits = logits_of(quick(head), after, states)
        if temperature != 1:
            logits = logits / temperature
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
        elif torch.is_grad_enabled():
            logp, spread = piece(*args)
        else:
            both = zip(*(torch.split(x, rows_of(head)) for x in args), strict=True)
            logp, spread = (torch.cat(x) for x in zip(*(piece(*x) for x in both), strict=True))
        logps.append(logp)
        entropies.append(spread)
    if not logps:
        empty = hidden.new_zeros(0)
        return empty, empty if entropy else None
    return torch.cat(logps), torch.cat(entropies) if entropy else None


def rows_of(head: nn.Module) -> int:
    """How many positions make a chunk."""
    return max(1, min(POSITIONS, CELLS // cast(Tensor, head.weight).shape[0]))


def quick(head: nn.Module) -> Callable[[Tensor], Tensor]:
    """The head, by the faster product for whole chunks, where no graph is wanted."""

    def product(states: Tensor) -> Tensor:
        if len(states) == rows_of(head) and head.bias is None:
            return times(states, cast(Tensor, head.weight))
        return cast(Tensor, head(states))

    return head if torch.is_grad_enabled() or type(head) is not nn.Linear else product


def fusable(network: Any) -> bool:
    """Whether `head_gradient` knows the head: a plain matrix, with or without a bias."""
    head, _ = head_of(network)
    return type(head) is nn.Linear


@dataclass(frozen=True, slots=True)
class Weights:
    """The gradient of the loss by every token's log-prob [n] and, when it has one, entropy [n]."""

    logp: Tensor
    entropy: Tensor | None = None


@torch.no_grad()
def head_gradient(
    network: Any, hidden: Tensor, targets: Tensor, weights: Weights, *, temperature: float
) -> list[Tensor]:
    """Log-probs [n], entropies [n] if they have weights, and the gradient of the loss by the hidden
    states [n, width]; the gradient by the head's matrix is added to its `.grad`. Three products
    per chunk: logits, and two back."""
    head, after = head_of(network)
    assert isinstance(head, nn.Linear)
    matrix, bias = head.weight, head.bias
    logps, back = torch.empty_like(weights.logp), torch.empty_like(hidden)
    spreads = None if weights.entropy is None else torch.empty_like(weights.entropy)
    size = rows_of(head)
    for start in range(0, len(targets), size):
        part = slice(start, start + size)
        states, wanted = hidden[part], targets[part, None]
        logits = _logits(quick(head), states, after, temperature)
        top = logits.amax(-1, keepdim=True)
        chosen = (logits.gather(1, wanted) - top)[:, 0]
        inner = _slope(logits, after, temperature)
        logits.sub_(top)
        kept = logits.clone() if spreads is not None else None
        probs = logits.exp_()
        norm = probs.sum(-1, keepdim=True)
        logps[part] = chosen - norm[:, 0].log()
        pull = weights.logp[part, None]
        if kept is None or spreads is None or weights.entropy is None:
            grad = probs.mul_(-pull / norm)
        else:  # dH/dz = p (E[z] - z)
            probs /= norm
            mean = (probs * kept).sum(-1, keepdim=True)
            spreads[part] = (norm.log() - mean)[:, 0]
            grad = kept.sub_(mean).mul_(-weights.entropy[part, None]).sub_(pull).mul_(probs)
        grad.scatter_add_(1, wanted, pull)
        if inner is not None:
            grad *= inner
        grad = grad.to(matrix.dtype)
        whole = len(states) == size
        back[part] = times(grad, matrix.t()) if whole else torch.mm(grad, matrix)
        _add(matrix, lambda to, grad=grad, states=states: to.addmm_(grad.t(), states))
        if bias is not None:
            _add(bias, lambda to, grad=grad: to.add_(grad.sum(0)))
    return [logps, back] if spreads is None else [logps, spreads, back]


def _logits(
    head: Callable[[Tensor], Tensor], states: Tensor, after: dict[str, float], temperature: float
) -> Tensor:
    """Logits at the temperature, in memory of their own."""
    logits = logits_of(head, after, states)
    return logits.div_(temperature) if temperature != 1 else logits


def _slope(logits: Tensor, after: dict[str, float], temperature: float) -> Tensor | float | None:
    """The derivative of final logits by the head's own output; none when it is 1."""
    factor = after.get("scale", 1.0) / temperature
    if "softcap" in after:
        return (1 - (logits * (temperature / after["softcap"])).square_()).mul_(factor)
    return factor if factor != 1 else None


def _add(parameter: Tensor, into: Any) -> None:
    if parameter.requires_grad:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
        into(parameter.grad)
