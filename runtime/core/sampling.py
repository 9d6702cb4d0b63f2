"""Drawing a token from logits, and knowing when a completion ends.

Each token's random number depends only on seed, round, item, sample and index, so that a sample is
the same in whatever batch it is drawn. Nothing here runs a model.
"""

from __future__ import annotations

import hashlib
from typing import Any, cast

import torch
from torch import Tensor

BLOCK = 256


def uniform(seed: int, round: int, item: str, sample: int, index: int) -> float:
    """The random number in [0, 1) of one token."""
    key = f"{seed}/{round}/{item}/{sample}/{index}".encode()
    return (int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 11) / (1 << 53)


def draw(logits: Tensor, uniforms: Tensor, temperature: float, top_p: float) -> tuple[Tensor, ...]:
    """Tokens [B] and their log-probabilities [B] for logits [B, V] and uniforms [B]; the likeliest
    token at temperature 0, whose log-probability is the model's own."""
    if temperature == 0:
        best, ids = logits.max(-1)
        return ids, best - torch.logsumexp(logits, -1)
    if temperature != 1:
        logits = logits / temperature
    if top_p < 1:
        logits = _nucleus(torch.log_softmax(logits, -1), top_p)
    top = logits.amax(-1, keepdim=True)
    weights = (logits - top).exp_()
    if weights.shape[1] % BLOCK:
        weights = torch.nn.functional.pad(weights, (0, -weights.shape[1] % BLOCK))
    blocks = weights.view(len(weights), -1, BLOCK)
    ends = blocks.sum(-1).double().cumsum_(-1)
    wanted = uniforms[:, None] * ends[:, -1:]
    block = torch.searchsorted(ends, wanted, right=True).clamp_(max=ends.shape[1] - 1)
    before = torch.where(block > 0, ends.gather(1, (block - 1).clamp_(min=0)), 0.0)
    inner = blocks.gather(1, block[:, :, None].expand(-1, -1, BLOCK))[:, 0].double().cumsum(-1)
    left = torch.minimum(wanted - before, inner[:, -1:] * (1 - 1e-12))
    ids = (block * BLOCK + torch.searchsorted(inner, left, right=True))[:, 0]
    ids.clamp_(max=logits.shape[1] - 1)
    chosen = (logits.gather(1, ids[:, None]) - top)[:, 0].double()
    return ids, (chosen - ends[:, -1].log()).to(logits.dtype)


def _nucleus(log_probs: Tensor, top_p: float) -> Tensor:
    """Keep the likeliest tokens that together reach `top_p`; the others have no chance."""
    ordered, order = log_probs.sort(-1, descending=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()
    kept = torch.zeros_like(before, dtype=torch.bool).scatter(1, order, before < top_p)
    return log_probs.masked_fill(~kept, -torch.inf)


def decoded(tokenizer: Any, ids: list[int]) -> str:
    return str(cast(Any, tokenizer).decode(ids, skip_special_tokens=True))


class Stops:
    """Whether the newest token completes one of the texts that end a completion.

    Only tokens that can hold the last character of a stop are looked at, and of the completion
    only as many tokens as its longest stop has bytes."""

    def __init__(self, tokenizer: Any, stops: tuple[str, ...]) -> None:
        self.tokenizer = tokenizer
        self.stops = stops
        self.special = set(tokenizer.all_special_ids)
        self.window = max((len(stop.encode()) for stop in stops), default=0) + 4
        self.known: dict[int, bool] = {}

    def met(self, ids: list[int]) -> bool:
        return bool(self.stops) and self._may_end(ids[-1]) and self._holds(ids)

    def _may_end(self, token: int) -> bool:
        if token not in self.known:
            text = decoded(self.tokenizer, [token])
            partial = "\ufffd" in text or not text
            self.known[token] = partial or any(stop[-1] in text for stop in self.stops)
        return self.known[token]

    def _holds(self, ids: list[int]) -> bool:
        tail: list[int] = []
        for token in reversed(ids):
            if token not in self.special:
                tail.append(token)
            if len(tail) == self.window:
                break
        text = decoded(self.tokenizer, tail[::-1])
        return any(stop in text for stop in self.stops)
