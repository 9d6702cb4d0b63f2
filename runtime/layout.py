"""The index sets of a batch as tensors: who belongs to whom, without any padding.

Tokens of all completions lie one after another; `token_sequence[n]` is the sequence of token n.
With pairs, sequences 2i and 2i+1 are the chosen and the rejected one of pair i. Steps, and the
parts of a group that a sampler names, are there where the batch has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from grape.compiler.formula.levels import SUBGROUPS, Level, covers


@dataclass(frozen=True, slots=True)
class Layout:
    """`token_sequence` [N], `token_index` [N] (position in its completion), `sequence_group` [S];
    long tensors on one device. Groups are numbered from 0 without gaps."""

    token_sequence: Tensor
    token_index: Tensor
    sequence_group: Tensor
    num_groups: int
    paired: bool = False
    token_step: Tensor | None = None
    """[N]: the step of each token, numbered from 0 through the batch; steps of a sequence in their
    order."""
    subgroups: Mapping[Level, Tensor] = field(default_factory=dict)
    """[S] for `tree`, `cluster`, `set`: numbered from 0 through the batch."""
    _maps: dict[tuple[Level, Level], Tensor] = field(default_factory=dict, repr=False)

    @staticmethod
    def from_lengths(
        lengths: Sequence[int],
        groups: Sequence[int],
        paired: bool = False,
        device: torch.device | str = "cpu",
        *,
        steps: Tensor | None = None,
        subgroups: Mapping[Level, Tensor] | None = None,
    ) -> Layout:
        """From the number of tokens and the group of each sequence. `steps` [N] numbers the steps
        within each sequence; `subgroups` maps a level to its ids [S] within each group."""
        if len(lengths) != len(groups):
            raise ValueError(f"{len(lengths)} lengths but {len(groups)} groups")
        if paired and len(lengths) % 2:
            raise ValueError(f"pairs need an even number of sequences, not {len(lengths)}")
        sizes = torch.as_tensor(list(lengths), dtype=torch.long, device=device)
        sequence = torch.repeat_interleave(torch.arange(len(lengths), device=device), sizes)
        starts = torch.cumsum(sizes, 0) - sizes
        index = torch.arange(len(sequence), device=device) - starts[sequence]
        _, group = torch.unique(
            torch.as_tensor(list(groups), dtype=torch.long, device=device), return_inverse=True
        )
        count = int(group.max()) + 1 if len(group) else 0
        token_step = None if steps is None else _numbered(sequence, steps)
        parts = {level: _numbered(group, ids) for level, ids in (subgroups or {}).items()}
        return Layout(sequence, index, group, count, paired, token_step, parts)

    @staticmethod
    def from_mask(
        mask: Tensor,
        group: Tensor,
        paired: bool = False,
        *,
        steps: Tensor | None = None,
        subgroups: Mapping[Level, Tensor] | None = None,
    ) -> Layout:
        """From `mask` [S, T] (bool, the tokens that count) and `group` [S]; `steps` [S, T]."""
        lengths = mask.sum(1).tolist()
        flat = None if steps is None else steps[mask]
        return Layout.from_lengths(
            lengths, group.tolist(), paired, mask.device, steps=flat, subgroups=subgroups
        )

    @property
    def device(self) -> torch.device:
        return self.sequence_group.device

    @property
    def num_sequences(self) -> int:
        return len(self.sequence_group)

    @property
    def lengths(self) -> Tensor:
        """Tokens of each sequence, [S]."""
        return torch.bincount(self.token_sequence, minlength=self.num_sequences)

    @property
    def step_index(self) -> Tensor:
        """The number of each step in its sequence, from 0."""
        sequence = self.index(Level.STEP, Level.SEQUENCE)
        place = torch.arange(len(sequence), device=self.device)
        count = torch.bincount(sequence, minlength=self.num_sequences)
        return place - (torch.cumsum(count, 0) - count)[sequence]

    def size(self, level: Level) -> int:
        """How many items the level has."""
        match level:
            case Level.TOKEN:
                return len(self.token_sequence)
            case Level.STEP | Level.TREE | Level.CLUSTER | Level.SET:
                finer = Level.TOKEN if level is Level.STEP else Level.SEQUENCE
                items = self.index(finer, level)
                return int(items.max()) + 1 if len(items) else 0
            case Level.SEQUENCE:
                return self.num_sequences
            case Level.GROUP:
                return self.num_groups
            case Level.PAIR:
                return self.num_sequences // 2
            case Level.POSITION:
                position = self.index(Level.TOKEN, Level.POSITION)
                return int(position.max()) + 1 if len(position) else 0
            case Level.BATCH:
                return 1
        raise ValueError(f"batches have no level {level}")

    def index(self, fine: Level, coarse: Level) -> Tensor:
        """For each item of `fine`, the number of its item of `coarse`; a long tensor."""
        assert covers(fine, coarse), (fine, coarse)
        if (fine, coarse) not in self._maps:
            self._maps[fine, coarse] = self._index(fine, coarse)
        return self._maps[fine, coarse]

    def _index(self, fine: Level, coarse: Level) -> Tensor:
        device = self.sequence_group.device
        if coarse is Level.BATCH:
            return torch.zeros(self.size(fine), dtype=torch.long, device=device)
        if fine is coarse:
            return torch.arange(self.size(fine), device=device)
        if coarse is Level.POSITION:
            return _numbered(self.sequence_group[self.token_sequence], self.token_index)
        if coarse is Level.STEP:
            if self.token_step is None:
                raise ValueError("this batch has no steps")
            return self.token_step
        if fine in (Level.POSITION, Level.STEP, *SUBGROUPS):
            finer = Level.SEQUENCE if fine in SUBGROUPS else Level.TOKEN
            items = self.index(finer, fine)
            above = torch.zeros(self.size(fine), dtype=torch.long, device=device)
            return above.scatter(0, items, self.index(finer, coarse))
        if coarse in SUBGROUPS and fine is Level.SEQUENCE:
            if coarse not in self.subgroups:
                raise ValueError(f"this batch has no {coarse}s")
            return self.subgroups[coarse]
        if fine is Level.TOKEN:
            if coarse is Level.SEQUENCE:
                return self.token_sequence
            return self.index(Level.SEQUENCE, coarse)[self.token_sequence]
        if coarse is Level.GROUP:
            return self.sequence_group
        return torch.arange(self.num_sequences, device=device) // 2


def _numbered(outer: Tensor, inner: Tensor) -> Tensor:
    """Items that are the pairs of an outer and an inner id, numbered from 0 in their order."""
    _, ids = torch.unique(inner.to(outer), return_inverse=True)
    assert isinstance(ids, Tensor)
    width = int(ids.max()) + 1 if len(ids) else 1
    _, number = torch.unique(outer * width + ids, return_inverse=True)
    assert isinstance(number, Tensor)
    return number
