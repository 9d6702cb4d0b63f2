"""What one forward pass tells of a batch: log-probs, entropies, values, scores, and reductions of
whole distributions, read from hidden states, and their gradient back into them.

A score is read at the last token of a completion, which nothing else needs to feed: where it is
asked for, a token that counts nowhere is put behind each completion.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from grape.runtime.core import heads
from grape.runtime.core.logprob import Weights, head_gradient, token_values
from grape.runtime.core.models import Policy
from grape.runtime.core.packing import Example, Micro
from grape.runtime.core.vocab import Reductions


@dataclass(frozen=True, slots=True)
class Piece:
    """A micro-batch: `targets` [n] and `slots` [n] of its tokens, and which of its hidden states
    stand for tokens and which for the ends of `rows`; all for tokens where both are none."""

    targets: Tensor
    slots: Tensor
    tokens: Tensor | None = None
    ends: Tensor | None = None
    rows: Tensor | None = None

    def places(self, name: str) -> Tensor:
        """Where the values of a quantity belong in the flat tensor of the whole batch."""
        if name != "score":
            return self.slots
        assert self.rows is not None
        return self.rows

    def of_tokens(self, states: Tensor) -> Tensor:
        return states if self.tokens is None else states[self.tokens]

    def of_ends(self, states: Tensor) -> Tensor:
        assert self.ends is not None
        return states[self.ends]


class Live:
    """The live quantities among `wanted`, of one batch under one model."""

    def __init__(
        self,
        policy: Policy,
        wanted: Collection[str],
        examples: Sequence[Example],
        temperature: float,
        reductions: Reductions | None = None,
    ) -> None:
        self.policy, self.temperature, self.reductions = policy, temperature, reductions
        self.tokens = sum(example.counted for example in examples)
        likely = ["logp"] if {"logp", "entropy"} & set(wanted) else []
        self.likely = likely + ["entropy"] * ("entropy" in wanted)
        self.valued, self.scored = "value" in wanted, "score" in wanted
        self.names = self.likely + ["value"] * self.valued + ["score"] * self.scored
        self.names += reductions.names if reductions else []
        self.fed = examples
        if self.scored:
            self.fed = [replace(one, completion=(*one.completion, 0)) for one in examples]
            lengths = torch.tensor([one.counted for one in examples])
            ends = torch.cumsum(lengths + 1, 0) - 1
            self.slot = torch.arange(self.tokens + len(examples))
            self.slot -= torch.searchsorted(ends, self.slot)
            self.row = torch.full_like(self.slot, -1)
            self.row[ends] = torch.arange(len(examples))

    def piece(self, micro: Micro) -> Piece:
        """A micro-batch of `fed`, its ends told from its tokens."""
        if not self.scored:
            return Piece(micro.targets, micro.slots)
        device = micro.slots.device
        rows, slots = self.row.to(device)[micro.slots], self.slot.to(device)[micro.slots]
        tokens, ends = (rows < 0).nonzero()[:, 0], (rows >= 0).nonzero()[:, 0]
        return Piece(micro.targets[tokens], slots[tokens], tokens, ends, rows[ends])

    def read(self, states: Tensor, piece: Piece) -> dict[str, Tensor]:
        """Each of `names` from the hidden states of a micro-batch; differentiable."""
        found: dict[str, Tensor] = {}
        tokens = piece.of_tokens(states)
        if self.likely:
            logp, entropy = token_values(
                self.policy.network,
                tokens,
                piece.targets,
                entropy="entropy" in self.likely,
                temperature=self.temperature,
            )
            found["logp"] = logp
            if entropy is not None:
                found["entropy"] = entropy
        if self.valued:
            found["value"] = heads.read(self.policy.head("value"), tokens)
        if self.scored:
            found["score"] = heads.read(self.policy.head("score"), piece.of_ends(states))
        if self.reductions:
            found |= self.reductions.read(tokens, piece.targets, piece.slots)
        return found

    def backward(
        self, states: Tensor, piece: Piece, weights: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Each of `names`, and the gradient of their weighted sum by the states; the one by the
        heads is added to their `.grad`. `weights` are flat, of the whole batch."""
        found: dict[str, Tensor] = {}
        tokens = piece.of_tokens(states)
        back = None
        if self.likely:
            pull = Weights(*(weights[name][piece.slots] for name in self.likely))
            *values, back = head_gradient(
                self.policy.network, tokens, piece.targets, pull, temperature=self.temperature
            )
            found |= dict(zip(self.likely, values, strict=True))
        if self.valued or self.reductions:
            leaf = tokens.detach().requires_grad_()
            if self.valued:
                found["value"] = self._head("value", leaf, weights["value"][piece.slots])
            if self.reductions:
                found |= self.reductions.backward(leaf, piece.targets, piece.slots, weights)
            more = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
            back = more if back is None else back + more
        if not self.scored:
            assert back is not None
            return found, back
        leaf = piece.of_ends(states).detach().requires_grad_()
        found["score"] = self._head("score", leaf, weights["score"][piece.rows])
        whole = torch.zeros_like(states)
        if back is not None:
            whole[piece.tokens] = back
        assert leaf.grad is not None
        whole[piece.ends] = leaf.grad
        return found, whole

    def _head(self, name: str, leaf: Tensor, weights: Tensor) -> Tensor:
        with torch.enable_grad():
            found = heads.read(self.policy.head(name), leaf)
            (found * weights).sum().backward()  # type: ignore[no-untyped-call]
        return found.detach()
