"""Reductions and scans over segments of flat tensors: the few operations that formulas lower to.

`index` [N] is the segment of each value; `size` the number of segments. Gradients flow where
they are defined, and the one of `std` at zero spread is zero rather than NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def gather(x: Tensor, index: Tensor) -> Tensor:
    """The value of each item's segment."""
    return x[index]


def side(x: Tensor, which: int) -> Tensor:
    """The chosen (0) or rejected (1) sequence of each pair: [S] to [S/2]."""
    return x[which::2]


def _number(x: Tensor) -> Tensor:
    return x if x.is_floating_point() else x.double()


def total(x: Tensor, index: Tensor, size: int) -> Tensor:
    x = _number(x)
    return torch.zeros(size, dtype=x.dtype, device=x.device).index_add(0, index, x)


def row_sum(x: Tensor) -> Tensor:
    """The sum over the vocabulary of each token: [N, V] to [N]."""
    return _number(x).sum(-1)


def _count(index: Tensor, size: int, like: Tensor) -> Tensor:
    return torch.bincount(index, minlength=size).clamp(min=1).to(like.dtype)


def mean(x: Tensor, index: Tensor, size: int) -> Tensor:
    """The mean of each segment; of constants that are all equal it is exactly their value, so
    that equal rewards have the advantage 0 and not a rounding error."""
    x = _number(x)
    if x.requires_grad:
        return total(x, index, size) / _count(index, size, x)
    start = smallest(x, index, size)
    return start + total(x - start[index], index, size) / _count(index, size, x)


def var(x: Tensor, index: Tensor, size: int, ddof: int = 1) -> Tensor:
    """Variance with `ddof` degrees lost; 0 for a segment of one."""
    x = _number(x)
    count = torch.bincount(index, minlength=size)
    apart = x - mean(x, index, size)[index]
    return total(apart * apart, index, size) / (count - ddof).clamp(min=1).to(x.dtype)


def std(x: Tensor, index: Tensor, size: int, ddof: int = 1) -> Tensor:
    square = var(x, index, size, ddof)
    spread = square > 0
    return torch.where(spread, torch.sqrt(torch.where(spread, square, 1.0)), 0.0)


def _extreme(x: Tensor, index: Tensor, size: int, how: str) -> Tensor:
    x = _number(x)
    empty = torch.zeros(size, dtype=x.dtype, device=x.device)
    return empty.scatter_reduce(0, index, x, how, include_self=False)


def largest(x: Tensor, index: Tensor, size: int) -> Tensor:
    return _extreme(x, index, size, "amax")


def smallest(x: Tensor, index: Tensor, size: int) -> Tensor:
    return _extreme(x, index, size, "amin")


def median(x: Tensor, index: Tensor, size: int) -> Tensor:
    """The middle value, or the mean of the two middle ones."""
    x = _number(x)
    by_value = torch.argsort(x, stable=True)
    order = by_value[torch.argsort(index[by_value], stable=True)]
    count = torch.bincount(index, minlength=size)
    start = torch.cumsum(count, 0) - count
    low, high = start + (count - 1).clamp(min=0) // 2, start + count // 2
    last = max(0, len(x) - 1)
    return (x[order[low.clamp(max=last)]] + x[order[high.clamp(max=last)]]) / 2


def count(x: Tensor, index: Tensor, size: int) -> Tensor:
    """How many items each segment has."""
    return torch.bincount(index, minlength=size).double()


def some(x: Tensor, index: Tensor, size: int) -> Tensor:
    return largest((x != 0).double(), index, size) > 0


def every(x: Tensor, index: Tensor, size: int) -> Tensor:
    return smallest((x != 0).double(), index, size) > 0


REDUCTIONS: dict[str, Callable[..., Any]] = {
    "mean": mean,
    "sum": total,
    "max": largest,
    "min": smallest,
    "std": std,
    "var": var,
    "median": median,
    "count": count,
    "any": some,
    "all": every,
}


def where(
    kind: str, x: Tensor, keep: Tensor | bool, index: Tensor, size: int, **options: int
) -> Tensor:
    """A reduction of the items that `keep` chooses; zero where it chooses none."""
    test = torch.as_tensor(keep, device=index.device)
    if test.dim() == 2:  # one per vocabulary entry, or per token for all of its entries
        test = test.expand(-1, len(index) // len(test)).flatten()
    chosen = test.expand(index.shape) != 0
    found: Tensor = REDUCTIONS[kind](x[chosen], index[chosen], size, **options)
    return found


def singleton(x: Tensor, index: Tensor, size: int, instead: float) -> Tensor:
    """A reduced value, or `instead` where the segment has one item."""
    alone = torch.bincount(index, minlength=size) == 1
    return torch.where(alone, torch.full_like(x, instead), x)


def vocab_index(index: Tensor | None, like: Tensor) -> Tensor:
    """The segment of each entry of [N, V], from the one of each token; without an index, the
    token."""
    tokens, entries = like.shape
    if index is None:
        index = torch.arange(tokens, device=like.device)
    return index.repeat_interleave(entries)


def rank(x: Tensor, index: Tensor, size: int) -> Tensor:
    """The place of each value in its segment, from 1 for the smallest; equal values share the
    lowest."""
    by_value = torch.argsort(x, stable=True)
    order = by_value[torch.argsort(index[by_value], stable=True)]
    count = torch.bincount(index, minlength=size)
    start = torch.cumsum(count, 0) - count
    values, segment = x[order], index[order]
    place = torch.arange(len(x), device=x.device) - start[segment]
    new = torch.ones_like(place, dtype=torch.bool)
    new[1:] = (values[1:] != values[:-1]) | (segment[1:] != segment[:-1])
    first = torch.cummax(torch.where(new, torch.arange(len(x), device=x.device), 0), 0).values
    shared = place[first] if len(x) else place
    return torch.empty_like(place).index_copy(0, order, shared + 1).double()


def widest(x: Tensor, index: Tensor, size: int, keep: int) -> Tensor:
    """Which `keep` items of each segment have the largest variance; all, where there are fewer.

    The best choice is always some of the smallest and the rest of the largest."""
    chosen = torch.zeros_like(index, dtype=torch.bool)
    for segment in range(size):
        members = (index == segment).nonzero().squeeze(1)
        ordered = members[torch.argsort(x[members], stable=True)]
        if len(ordered) <= keep:
            chosen[ordered] = True
            continue
        tries = [
            torch.cat([ordered[:low], ordered[len(ordered) - keep + low :]])
            for low in range(keep + 1)
        ]
        spread = torch.stack([x[some].var(correction=0) for some in tries])
        chosen[tries[int(spread.argmax())]] = True
    return chosen


def at_end(x: Tensor, sequence: Tensor) -> Tensor:
    """A token value on the last token of its sequence or step, zero elsewhere."""
    following = torch.cat([sequence[1:], sequence.new_full((1,), -1)])
    return torch.where(sequence != following, x, torch.zeros_like(x))


def shift(x: Tensor, sequence: Tensor, by: int) -> Tensor:
    """Values moved `by` tokens to the right within their sequence; zero where none arrives."""
    place = torch.arange(len(x), device=x.device) - by
    inside = (place >= 0) & (place < len(x))
    place = place.clamp(0, max(0, len(x) - 1))
    return torch.where(inside & (sequence[place] == sequence), x[place], torch.zeros_like(x))


def cumsum(x: Tensor, sequence: Tensor) -> Tensor:
    """Sum of a sequence's values up to and with each token."""
    size = int(sequence[-1]) + 1 if len(sequence) else 0
    totals = total(x, sequence, size)
    before = torch.cumsum(totals, 0) - totals
    return torch.cumsum(x, 0) - before[sequence]


def reverse_cumsum(x: Tensor, sequence: Tensor) -> Tensor:
    """Sum of a sequence's values from each token on."""
    size = int(sequence[-1]) + 1 if len(sequence) else 0
    return total(x, sequence, size)[sequence] - cumsum(x, sequence) + x


def gae(
    reward: Tensor | float, value: Tensor | float, sequence: Tensor, gamma: float, lam: float
) -> Tensor:
    """Generalised advantage estimates of token rewards and values, all [N]; the value after the
    last token is zero. Only tokens that count are there, so the estimate passes over all others.
    """
    reward, value = (
        _number(torch.broadcast_to(torch.as_tensor(x, device=sequence.device), sequence.shape))
        for x in (reward, value)
    )
    count = torch.bincount(sequence)
    width = int(count.max()) if len(count) else 0
    first = torch.cumsum(count, 0) - count
    column = torch.arange(len(sequence), device=sequence.device) - first[sequence]
    column = column + (width - count)[sequence]  # all sequences end in the last column
    gained, held = (x.new_zeros(len(count), width) for x in (reward, value))
    gained[sequence, column], held[sequence, column] = reward, value
    running = following = torch.zeros(len(count), dtype=held.dtype, device=held.device)
    found = []
    for at in reversed(range(width)):
        running = gained[:, at] + gamma * following - held[:, at] + gamma * lam * running
        following = held[:, at]
        found.append(running)
    if not found:
        return reward
    return torch.stack(found[::-1], 1)[sequence, column]


ALONG: dict[str, Callable[..., Any]] = {
    "at_end": at_end,
    "shift": shift,
    "cumsum": cumsum,
    "reverse_cumsum": reverse_cumsum,
}
