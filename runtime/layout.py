"""The index sets of a batch as tensors: who belongs to whom, without any padding.

Tokens of all completions lie one after another; `token_sequence[n]` is the sequence of token n.
With pairs, sequences 2i and 2i+1 are the chosen and the rejected one of pair i.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from grape.compiler.formula.levels import Level, covers


@dataclass(frozen=True, slots=True)
class Layout:
    """`token_sequence` [N], `token_index` [N] (position in its completion), `sequence_group` [S];
    long tensors on one device. Groups are numbered from 0 without gaps."""

    token_sequence: Tensor
    token_index: Tensor
    sequence_group: Tensor
    num_groups: int
    paired: bool = False
    _maps: dict[tuple[Level, Level], Tensor] = field(default_factory=dict, repr=False)

    @staticmethod
    def from_lengths(
        lengths: Sequence[int],
        groups: Sequence[int],
        paired: bool = False,
        device: torch.device | str = "cpu",
    ) -> Layout:
        """From the number of tokens and the group of each sequence."""
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
        return Layout(sequence, index, group, count, paired)

    @staticmethod
    def from_mask(mask: Tensor, group: Tensor, paired: bool = False) -> Layout:
        """From `mask` [S, T] (bool, the tokens that count) and `group` [S]."""
        lengths = mask.sum(1).tolist()
        return Layout.from_lengths(lengths, group.tolist(), paired, mask.device)

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

    def size(self, level: Level) -> int:
        """How many items the level has."""
        match level:
            case Level.TOKEN:
                return len(self.token_sequence)
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
            key = self.sequence_group[self.token_sequence] * (len(self.token_index) + 1)
            _, position = torch.unique(key + self.token_index, return_inverse=True)
            assert isinstance(position, Tensor)
            return position
        if fine is Level.POSITION:
            position = self.index(Level.TOKEN, Level.POSITION)
            group = torch.zeros(self.size(Level.POSITION), dtype=torch.long, device=device)
            return group.scatter(0, position, self.index(Level.TOKEN, Level.GROUP))
        if fine is Level.TOKEN:
            if coarse is Level.SEQUENCE:
                return self.token_sequence
            return self.index(Level.SEQUENCE, coarse)[self.token_sequence]
        if coarse is Level.GROUP:
            return self.sequence_group
        return torch.arange(self.num_sequences, device=device) // 2
