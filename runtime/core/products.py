"""Products with weights by oneDNN, in float32 on a processor that has it; plain ones elsewhere.

`Packed` lays matrices out once for many products with few rows, as in decoding, where most of the
time goes into reading a matrix in the order in which it is stored. Each number of rows has a
program of its own, which oneDNN makes and keeps: rows come in eights here, so that these are few.
No gradient flows through either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard, cast

import torch
from torch import Tensor, nn

EIGHT = 8
_ONEDNN: Any = None
if torch._C._has_mkldnn and hasattr(torch.ops.mkldnn, "_linear_pointwise"):
    _ONEDNN = torch.ops.mkldnn._linear_pointwise


def _suits(weight: Tensor) -> bool:
    return _ONEDNN is not None and weight.dtype == torch.float32 and weight.device.type == "cpu"


def packable(matrix: object) -> TypeGuard[nn.Linear]:
    """Whether `Packed` can hold it: a plain matrix in float32 on a processor with oneDNN."""
    return type(matrix) is nn.Linear and _suits(matrix.weight)


def size_of(matrices: Sequence[nn.Linear]) -> int:
    """Bytes of their weights."""
    return sum(matrix.weight.numel() * matrix.weight.element_size() for matrix in matrices)


def times(x: Tensor, weight: Tensor) -> Tensor:
    """x [n, in] times a matrix [out, in]. For a large matrix and always the same n."""
    if _suits(weight):
        return cast(Tensor, _ONEDNN(x, weight, None, "none", [], ""))
    return torch.mm(x, weight.t())


class Packed:
    """Matrices [out, in] with one input, joined and laid out for products with about `rows` rows;
    called like a `Linear`. They are a copy: what is written to the weights later does not reach
    it."""

    def __init__(self, matrices: Sequence[nn.Linear], rows: int) -> None:
        weights = [matrix.weight.detach() for matrix in matrices]
        self.sizes = [len(weight) for weight in weights]
        joined = weights[0] if len(weights) == 1 else torch.cat(weights)
        self.weight = torch.ops.mkldnn._reorder_linear_weight(joined, _in_eights(rows))
        self.bias = None
        if any(matrix.bias is not None for matrix in matrices):
            self.bias = torch.cat(
                [
                    weight.new_zeros(len(weight)) if matrix.bias is None else matrix.bias.detach()
                    for matrix, weight in zip(matrices, weights, strict=True)
                ]
            )

    def __call__(self, x: Tensor) -> Tensor:
        """x [n, in] times the matrices: [n, all their out]."""
        return cast(Tensor, _ONEDNN(_filled(x), self.weight, self.bias, "none", [], "")[: len(x)])

    def apart(self, x: Tensor) -> tuple[Tensor, ...]:
        """The product with each of the matrices."""
        return torch.split(self(x), self.sizes, -1)

    def added(self, x: Tensor, stream: Tensor) -> Tensor:
        """The product and `stream` [n, out] together."""
        made = _ONEDNN.binary(_filled(x), _filled(stream), self.weight, self.bias, "add")
        return cast(Tensor, made[: len(x)])


class InEights:
    """A matrix without a bias as it is, by the quick product from sixteen rows on."""

    def __init__(self, matrix: nn.Linear) -> None:
        self.matrix = matrix

    def __call__(self, x: Tensor) -> Tensor:
        if len(x) < 2 * EIGHT or self.matrix.bias is not None:
            return cast(Tensor, self.matrix(x))
        return times(_filled(x), self.matrix.weight)[: len(x)]


def _in_eights(rows: int) -> int:
    return -(-rows // EIGHT) * EIGHT


def _filled(x: Tensor) -> Tensor:
    """Rows of zeros behind those of x [n, in], up to a multiple of eight."""
    more = _in_eights(len(x)) - len(x)
    return torch.nn.functional.pad(x, (0, 0, 0, more)) if more else x
