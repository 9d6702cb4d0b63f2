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


def at_end(x: Tensor, sequence: Tensor) -> Tensor:
    """A token value on the last token of its sequence, zero elsewhere."""
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


ALONG: dict[str, Callable[..., Any]] = {
    "at_end": at_end,
    "shift": shift,
    "cumsum": cumsum,
    "reverse_cumsum": reverse_cumsum,
}
