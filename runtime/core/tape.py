"""Hidden states through the written-out layers, and the activations of a decoding for the step
that learns from it.

The weights that draw a completion are those that an on-policy step differentiates: what the layers
computed while decoding is its forward pass. It is found by the ids of prompt and completion, and
counts only while no weight has changed since.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from grape.runtime.core.attention import Branches, Forest, How, Slots, cascade_forward
from grape.runtime.core.cache import RowCache
from grape.runtime.core.layers import Attend, Body, Kept, Order, Room, Rows, bytes_per_token
from grape.runtime.core.packing import Micro

LOOKED_AT = 16
Key = tuple[tuple[int, ...], tuple[int, ...]]


Version = tuple[int, bytes]


@torch.no_grad()
def version(network: Any) -> Version:
    """Another one whenever weights were written to. Fused optimizers write without being counted,
    so that a few numbers of each weight are looked at too."""
    weights = list(network.parameters())
    some = [weight.reshape(-1)[:: max(1, weight.numel() // LOOKED_AT)] for weight in weights]
    return sum(weight._version for weight in weights), torch.cat(some).numpy().tobytes()


@dataclass(slots=True)
class Tape:
    """What a decoding kept. `rows` are, by prompt and completion, the first place of the prompt and
    the places of the completion's tokens but the last, which was never fed."""

    body: Body
    kept: Kept
    version: Version
    used: int = 0
    rows: dict[Key, list[tuple[int, list[int]]]] = field(default_factory=dict)
    spent: bool = False
    """Its layers were given up; last hidden states are still there."""

    def take(self, count: int) -> int:
        """Room for so many tokens more; where it begins."""
        self.used += count
        assert self.used <= len(self.kept.ids)
        return self.used - count

    def note(self, prompt: list[int], ids: list[int], start: int, places: list[int]) -> None:
        key = (tuple(prompt), tuple(ids))
        self.rows.setdefault(key, []).append((start, places[: len(ids) - 1]))

    def holds(self, prompt: tuple[int, ...], completion: tuple[int, ...]) -> bool:
        return (prompt, completion) in self.rows

    def places(self, micro: Micro) -> Tensor | None:
        """Where the tokens of a row lie; none when not all are there."""
        assert micro.forest is not None
        ids, targets = micro.input_ids[0].tolist(), micro.targets.tolist()
        found: list[int] = []
        times = Counter[Key]()
        at = 0
        for tree in micro.forest.trees:
            prompt = tuple(ids[tree.start : tree.split])
            twigs: list[int] = []
            for number, (start, end) in enumerate(tree.twigs):
                key = (prompt, tuple(targets[at : at + end - start + 1]))
                at += end - start + 1
                held = self.rows.get(key)
                if held is None:
                    return None
                first, places = held[times[key] % len(held)]
                times[key] += 1
                if not number:
                    found += range(first, first + len(prompt))
                twigs += places
            found += twigs
        return torch.tensor(found)


def begun(network: Any, tokens: int, budget: int) -> Tape | None:
    """A tape for at most so many tokens; none when they need more than `budget` bytes. Where some
    bytes are left, the last layers keep the insides of their gates too."""
    body = Body(network)
    least, gates = bytes_per_token(body)
    spare = budget - tokens * least
    if spare < 0:
        return None
    wide = min(len(body.layers), spare // (tokens * gates))
    return Tape(body, Room(body, tokens, wide=wide), version(network))


@dataclass(slots=True)
class _Pass:
    """A row's way through the layers, and back."""

    body: Body
    kept: Kept
    rows: Rows
    order: Order
    spend: bool

    def backward(self, grad: Tensor) -> None:
        grad = grad.clone() if self.order.place is None else self.order.kept(grad)
        self.body.backward(grad, self.kept, self.rows, self.order, spend=self.spend)


class _States(torch.autograd.Function):
    """Last hidden states of a row; its backward adds to the weights' `.grad` by itself."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, states: Tensor, way: _Pass) -> Tensor:
        ctx.way = way
        return states.view_as(states)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, None]:
        ctx.way.backward(grad)
        ctx.way = None
        return None, None, None


def states(network: Any, micro: Micro, tape: Tape | None = None, *, spend: bool = False) -> Tensor:
    """Last hidden states [L, width] of a packed row, from the tape where it has them; with `spend`
    a backward is the last that needs its layers."""
    body = Body(network)
    learns = torch.is_grad_enabled() and any(w.requires_grad for w in network.parameters())
    way = None if tape is None or (learns and tape.spent) else _found(tape, micro, spend)
    if way is not None:
        assert tape is not None
        tape.spent |= spend
        made = body.states(way.kept, way.rows)
        made = way.order.tree(made)
    else:
        assert micro.forest is not None
        ids = micro.input_ids[0]
        kept = Kept()
        forest = micro.forest

        def attend(_: int, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
            return attended(body, forest, query, key, value)

        made = body.forward(ids, micro.position_ids[0], attend, kept if learns else None)
        way = _Pass(body, kept, slice(0, len(ids)), Order(forest.trees), True)
    if not learns:
        return made
    anchor = torch.zeros((), requires_grad=True)
    return cast(Tensor, _States.apply(anchor, made, way))  # type: ignore[no-untyped-call]


def attended(
    body: Body, forest: Forest, query: Tensor, key: Tensor, value: Tensor
) -> tuple[Tensor, Tensor]:
    """Attention [n, heads, d] and log-sum-exp [n, heads] of a row of trees."""
    asked, seen, given = (x.transpose(0, 1)[None] for x in (query, key, value))
    out, norm = cascade_forward(asked, seen, given, forest.trees, body.scale)
    return out[0].transpose(0, 1), norm[0].t()


def cached(body: Body, cache: RowCache, view: Forest | Slots) -> Attend:
    """Attention of new tokens, which a cache takes up."""

    def attend(
        layer: int, query: Tensor, key: Tensor, value: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        if isinstance(view, Forest):
            cache.update(key.transpose(0, 1)[None], value.transpose(0, 1)[None], layer)
            return attended(body, view, query, key, value)
        how = How(body.scale, None, None, layer)
        keys, values = cache.update(key[:, :, None], value[:, :, None], layer)
        asking = query[:, :, None]
        if isinstance(view, Branches):
            seen, norm = view.joined(asking, keys, values, how)
            return seen[:, :, 0], norm
        return view.attend(asking, keys, values, how)[:, :, 0], None

    return attend


def _found(tape: Tape, micro: Micro, spend: bool) -> _Pass | None:
    assert micro.forest is not None
    places = tape.places(micro)
    if places is None:
        return None
    ordered, order = places.sort()
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order))
    first, last = int(ordered[0]), int(ordered[-1])
    rows: Rows = ordered
    if last - first + 1 == len(ordered) and bool((ordered.diff() == 1).all()):
        rows = slice(first, last + 1)
    return _Pass(tape.body, tape.kept, rows, Order(micro.forest.trees, place), spend)
