"""A key-value cache of rows that come and go: memory is taken once, a row is moved, never rebuilt.

Rows 0 to `count` - 1 are live; each has a length of its own. A packed row of prompts is written
first; after that every call adds one token to every live row. With `stems` a prompt is kept once
for all rows that grow from it, else each row begins with a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import ref

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from grape.runtime.core.attention import Branches, Slots, Stems, additive


@dataclass(frozen=True, slots=True)
class Placing:
    """Tokens [start, end) of a packed row are the prompt of rows [row, row + copies), and are
    kept as the stem `stem`."""

    start: int
    end: int
    row: int
    copies: int
    stem: int


class RowCache(Cache):
    """Room for `rows` rows of `width` tokens and for `stems` prompts of `height` tokens; a layer's
    tensors are made at its first use."""

    def __init__(
        self, rows: int, width: int, stems: int, height: int, device: torch.device
    ) -> None:
        me = ref(self)  # no cycle: memory is given back as soon as a decoding is over
        make: Any = lambda: _Layer(me)  # noqa: E731
        super().__init__(layer_class_to_replicate=make)
        self.rows, self.width, self.stems, self.height = rows, width, stems, height
        self.own = torch.zeros(rows, dtype=torch.long, device=device)
        """Tokens that each row keeps itself."""
        self.base = torch.zeros(rows, dtype=torch.long, device=device)
        """Tokens of the stem that each row grows from."""
        self.stem_of: list[int] = []
        self.sizes = [0] * stems
        self.count = self.longest = 0
        self.places: tuple[Placing, ...] = ()
        self.index = torch.arange(rows, device=device)
        self.grouped: Stems | None = None
        """Of the rows as they are; `even` when all of them keep equally many tokens."""
        self.even = False

    def free_stems(self) -> list[int]:
        taken = set(self.stem_of)
        return [stem for stem in range(self.stems) if stem not in taken]

    def admit(self, places: Sequence[Placing]) -> None:
        """What the next call of the model brings is a packed row of prompts."""
        self.places = tuple(places)
        for place in places:
            rows, size = slice(place.row, place.row + place.copies), place.end - place.start
            self.own[rows] = 0 if self.stems else size
            self.base[rows] = size if self.stems else 0
            self.stem_of += [place.stem] * place.copies
            self.count += place.copies
            if self.stems:
                self.sizes[place.stem] = size
            else:
                self.longest = max(self.longest, size)
        self.grouped = None

    def advance(self) -> Tensor:
        """What the next call brings is one token for every live row; their places [B]."""
        self.places = ()
        self.own[: self.count] += 1
        self.longest += 1
        return self.own[: self.count] + self.base[: self.count] - 1

    def view(self, dtype: torch.dtype) -> Slots:
        """How the next token of every row attends."""
        lengths = self.own[: self.count]
        if not self.stems:
            return Slots(lengths, dtype)
        if self.grouped is None:
            self.grouped = self._group(dtype)
        return Branches(lengths, dtype, self.grouped, even=self.even)

    def _group(self, dtype: torch.dtype) -> Stems:
        members: dict[int, list[int]] = {}
        stem, place = [], []
        order = {name: at for at, name in enumerate(dict.fromkeys(self.stem_of))}
        for row, name in enumerate(self.stem_of):
            rows = members.setdefault(name, [])
            stem.append(order[name])
            place.append(len(rows))
            rows.append(row)
        most = max(map(len, members.values()))
        device = self.own.device
        table = [rows + [0] * (most - len(rows)) for rows in members.values()]
        names = torch.tensor(list(members), device=device)
        sizes = torch.tensor([self.sizes[name] for name in members], device=device)
        height = max(self.sizes[name] for name in members)
        seen = torch.arange(height, device=device) < sizes[:, None]
        even = all(self.sizes[name] == height for name in members)
        self.even = bool((self.own[: self.count] == self.own[0]).all())
        kept: dict[int, tuple[Tensor, Tensor]] = {}
        layers = self.layers
        dense = list(members) == list(range(len(members)))

        def of(layer: int) -> tuple[Tensor, Tensor]:
            if layer not in kept:
                found = layers[layer]
                assert isinstance(found, _Layer)
                chosen: Any = slice(len(members)) if dense else names
                kept[layer] = (
                    found.stem_keys[chosen, :, :height],
                    found.stem_values[chosen, :, :height],
                )
            return kept[layer]

        return Stems(
            torch.tensor(table, device=device),
            torch.tensor(stem, device=device),
            torch.tensor(place, device=device),
            None if even else additive(seen, dtype)[:, None, None],
            of,
        )

    def keep(self, going: Sequence[int]) -> list[int]:
        """Give up all live rows but `going`; the order in which those lie then."""
        size = len(going)
        staying = set(going)
        holes = [row for row in range(size) if row not in staying]
        order = list(range(size))
        late = [row for row in going if row >= size]
        for hole, row in zip(holes, late, strict=True):
            order[hole] = row
        if holes:
            source = torch.tensor(late, device=self.own.device)
            target = torch.tensor(holes, device=self.own.device)
            for layer in self.layers:
                assert isinstance(layer, _Layer)
                for kept in (layer.own_keys, layer.own_values):
                    kept[target, :, : self.longest] = kept[source, :, : self.longest]
            for numbers in (self.own, self.base):
                numbers[target] = numbers[source]
        self.stem_of = [self.stem_of[row] for row in order]
        self.count = size
        self.longest = int(self.own[:size].max()) if size else 0
        self.grouped = None
        return order


class _Layer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    is_sliding = False

    def __init__(self, cache: ref[RowCache]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.whole = cache

    @property
    def cache(self) -> RowCache:
        found = self.whole()
        assert found is not None
        return found

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        cache = self.cache
        self.dtype, self.device = key_states.dtype, key_states.device

        def room(like: Tensor, rows: int, width: int) -> Tensor:
            return like.new_zeros(rows, like.shape[1], width, like.shape[3])

        self.own_keys = room(key_states, cache.rows, cache.width)
        self.own_values = room(value_states, cache.rows, cache.width)
        self.stem_keys = room(key_states, cache.stems, cache.height)
        self.stem_values = room(value_states, cache.stems, cache.height)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keep new keys and values [B, heads, n, d]; all that attention is to see."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        cache = self.cache
        for place in cache.places:
            size = place.end - place.start
            rows = slice(place.row, place.row + place.copies)
            to = (place.stem if cache.stems else rows, slice(None), slice(size))
            pairs = (
                (self.stem_keys if cache.stems else self.own_keys, key_states),
                (self.stem_values if cache.stems else self.own_values, value_states),
            )
            for kept, states in pairs:
                kept[to] = states[0, :, place.start : place.end]
        if cache.places:
            return key_states, value_states
        live, last = cache.index[: cache.count], cache.own[: cache.count] - 1
        self.own_keys[live, :, last] = key_states[:, :, 0]
        self.own_values[live, :, last] = value_states[:, :, 0]
        seen = (slice(cache.count), slice(None), slice(cache.longest))
        return self.own_keys[seen], self.own_values[seen]

    def get_seq_length(self) -> int:
        return self.cache.longest

    def get_max_length(self) -> int:
        return self.cache.width

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.cache.longest, 0
