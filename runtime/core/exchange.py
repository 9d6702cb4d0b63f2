"""What the processes of a stage tell each other of tensors: values that each computed a part of,
and gradients, added in the order of the processes so that all hold the same bytes.

Which rows are whose is `runtime.ranks`. With one process nothing here does anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn

from grape.runtime import ranks

BUCKET = 1 << 22
"""Numbers of a gradient that are exchanged at once."""
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def merged(values: Mapping[str, Tensor], own: Mapping[str, Sequence[Tensor]]) -> dict[str, Tensor]:
    """`values` with what any process has at its places `own`; the rest as it was."""
    if ranks.size() == 1 or not values:
        return dict(values)
    parts, known = [], []
    for name, value in values.items():
        places = torch.cat([*own.get(name, ()), value.new_zeros(0, dtype=torch.long)])
        parts.append(torch.zeros_like(value).index_copy(0, places, value[places]))
        known.append(torch.zeros_like(value).index_fill(0, places, 1))
    flat = torch.cat([*parts, *known])
    dist.all_reduce(flat)
    sizes = [len(value) for value in values.values()]
    found = torch.split(flat, sizes * 2)
    return {
        name: torch.where(there > 0, new, values[name])
        for name, new, there in zip(values, found[: len(sizes)], found[len(sizes) :], strict=True)
    }


@torch.no_grad()
def united(found: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Tensors that are zero but for the rows that each process filled, whole; a process without
    rows may have none."""
    if ranks.size() == 1:
        return dict(found)
    shapes = {
        name: form
        for one in ranks.gathered({n: (tuple(v.shape), v.dtype) for n, v in found.items()})
        for name, form in one.items()
    }
    whole = {}
    for name in sorted(shapes):
        shape, dtype = shapes[name]
        value = found[name] if name in found else torch.zeros(shape, dtype=dtype, device=device)
        dist.all_reduce(value)
        whole[name] = value
    return whole


@torch.no_grad()
def add_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Every `.grad` becomes the sum over all processes; one that no process has stays none."""
    if ranks.size() == 1:
        return
    trained = [item for item in parameters if item.requires_grad]
    have = torch.tensor([item.grad is not None for item in trained], dtype=torch.uint8)
    dist.all_reduce(have, dist.ReduceOp.MAX, group=ranks.host())
    pieces: list[Tensor] = []
    for item, there in zip(trained, have.tolist(), strict=True):
        if there:
            item.grad = torch.zeros_like(item) if item.grad is None else item.grad.contiguous()
            pieces += torch.split(item.grad.view(-1), BUCKET)
    for bucket in _buckets(pieces):
        total = _in_order(torch.cat(bucket))
        for piece, part in zip(bucket, torch.split(total, [len(b) for b in bucket]), strict=True):
            piece.copy_(part)


def _buckets(pieces: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    room = BUCKET
    for piece in pieces:
        if bucket and (len(piece) > room or piece.dtype != bucket[0].dtype):
            yield bucket
            bucket, room = [], BUCKET
        bucket.append(piece)
        room -= len(piece)
    if bucket:
        yield bucket


def _in_order(flat: Tensor) -> Tensor:
    """The sum over the processes: each adds a part, first to last, and gives it to all. What has
    fewer than 32 bits is added in 32."""
    count = ranks.size()
    sent = torch.nn.functional.pad(flat, (0, -len(flat) % count))
    got = torch.empty_like(sent)
    dist.all_to_all_single(got, sent)
    parts = got.view(count, -1)
    wide = torch.float32 if flat.element_size() < 4 else flat.dtype
    total = parts[0].to(wide)
    for part in parts[1:]:
        total = total + part
    whole = list(torch.empty_like(parts))
    dist.all_gather(whole, total.to(flat.dtype))
    return torch.cat(whole)[: len(flat)]


@torch.no_grad()
def apart(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """The first tensor whose bytes are not the same in all processes; none when all agree."""
    if ranks.size() == 1:
        return None
    names, sums = [], []
    for name, value in named:
        words = value.detach().contiguous().view(-1).view(_WORDS[value.element_size()])
        names.append(name)
        sums.append(words.sum(dtype=torch.int64))
    every = ranks.gathered(torch.stack(sums).tolist())
    different = (name for name, *seen in zip(names, *every, strict=True) if len(set(seen)) > 1)
    return next(different, None)
