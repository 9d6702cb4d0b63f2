"""Whole next-token distributions, a few tokens at a time: what formulas say of them, per token.

Hidden states come in, of the policy and of whoever it is compared with; one number per token and
reduction goes out. A table of all tokens by all entries of the vocabulary is never formed, and the
tables of one chunk are formed again for the gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from grape.compiler.formula.levels import Level
from grape.compiler.formula.vocabulary import Split
from grape.runtime.core.logprob import head_of, logits_of
from grape.runtime.errors import StageError
from grape.runtime.formula import argument, lower_terms
from grape.runtime.layout import Layout

CELLS = 1 << 21
"""Entries of one table of a chunk; a formula may hold a dozen of them at once."""


@dataclass(frozen=True, slots=True)
class Table:
    """A distribution for every token, as the hidden states [N, width] and the head that give it."""

    states: Tensor
    head: nn.Module
    after: dict[str, float]

    @classmethod
    def of(cls, network: Any, states: Tensor, *, frozen: bool = False) -> Table:
        """Of a model that stays as it is, or with a `frozen` copy of the head of one that moves."""
        head, after = head_of(network)
        return cls(states, deepcopy(head).requires_grad_(False) if frozen else head, after)

    def at(self, places: Tensor) -> Table:
        return replace(self, states=self.states[places.to(self.states.device)])

    def rows(self, slots: Tensor, temperature: float) -> Tensor:
        """Log-probs [n, V] of some tokens."""
        logits = logits_of(self.head, self.after, self.states[slots]) / temperature
        return torch.log_softmax(logits, -1)


def _entries(head: nn.Module) -> int:
    """The size of the vocabulary that an output embedding speaks of."""
    weight = head.weight
    assert isinstance(weight, Tensor)
    return len(weight)


class Reductions:
    """The inner part of a split formula on one batch."""

    def __init__(
        self,
        split: Split,
        network: Any,
        layout: Layout,
        fixed: Mapping[str, Tensor],
        tables: Mapping[str, Table],
        temperature: float,
    ) -> None:
        self.split, self.network, self.layout = split, network, layout
        self.fixed, self.tables, self.temperature = fixed, tables, temperature
        self.names = [f"vocab.{root}" for root in split.roots]
        self.module, self.inputs = lower_terms(split.inner, split.roots)
        self.width = _entries(head_of(network)[0])
        for name, table in tables.items():
            found = _entries(table.head)
            if found != self.width:
                raise StageError(
                    f"`{name}` has {found} entries for each token and the policy {self.width}: "
                    "they have different vocabularies",
                    hint="distributions can be compared only between models with one tokenizer",
                )
        self.feeds = self._feeds()

    def _feeds(self) -> dict[str, Tensor]:
        """The constants that the inner part reads: one per token, or one number."""
        formula, wanted = self.split.outer, self.split.feeds
        module, names = lower_terms(formula, wanted)
        found = module(*(argument(name, self.fixed, self.layout) for name in names))
        feeds = {}
        for index, value in zip(wanted, found, strict=True):
            level = formula.terms[index].level
            spread = level not in (Level.BATCH, Level.TOKEN)
            feeds[f"feed.{index}"] = (
                value[self.layout.index(Level.TOKEN, level)] if spread else value
            )
        return feeds

    def chunks(self, count: int) -> Iterator[slice]:
        size = max(1, CELLS // self.width)
        return (slice(start, start + size) for start in range(0, count, size))

    def read(self, states: Tensor, targets: Tensor, slots: Tensor) -> dict[str, Tensor]:
        """One number per token for each of `names`, differentiable by forming the tables again."""
        again = torch.is_grad_enabled()
        parts = []
        for part in self.chunks(len(targets)):
            args = (states[part], targets[part], slots[part])
            parts.append(
                checkpoint(self._piece, *args, use_reentrant=False) if again else self._piece(*args)
            )
        return {
            name: torch.cat(column)
            for name, column in zip(self.names, zip(*parts, strict=True), strict=True)
        }

    def backward(
        self, states: Tensor, targets: Tensor, slots: Tensor, weights: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The numbers again, and the gradient of their weighted sum by the states (added to
        `states.grad`) and the head, chunk by chunk."""
        parts = []
        for part in self.chunks(len(targets)):
            with torch.enable_grad():
                found = self._piece(states[part], targets[part], slots[part])
            pulled = [
                (value * weights[name][slots[part]]).sum()
                for name, value in zip(self.names, found, strict=True)
                if value.requires_grad
            ]
            if pulled:
                torch.stack(pulled).sum().backward()  # type: ignore[no-untyped-call]
            parts.append([value.detach() for value in found])
        return {
            name: torch.cat(column)
            for name, column in zip(self.names, zip(*parts, strict=True), strict=True)
        }

    def _piece(self, states: Tensor, targets: Tensor, slots: Tensor) -> Sequence[Tensor]:
        head, after = head_of(self.network)
        table = torch.log_softmax(logits_of(head, after, states) / self.temperature, -1)
        logp = table.gather(-1, targets[:, None])[:, 0]
        own = {"logp_all": table, "logp": logp, "old_logp": logp.detach()}
        own["old_logp_all"] = table.detach()
        if "entropy" in self.inputs:
            own["entropy"] = -(table.exp() * table).sum(-1)

        def found(name: str) -> Tensor | int:
            if name == f"num_{Level.TOKEN}":
                return len(targets)
            if name in self.feeds:
                feed = self.feeds[name]
                return feed[slots] if feed.dim() else feed
            if name in self.tables:
                return self.tables[name].rows(slots, self.temperature)
            return self.fixed[name][slots] if name in self.fixed else own[name]

        outputs: Sequence[Tensor] = self.module(*(found(name) for name in self.inputs))
        return outputs
