"""The layers of Llama and its kin, written out: a forward that keeps what it is told to, and its
backward.

What the backward needs of a token is found wherever it was put, in whatever order the tokens came:
all but attention looks at one token at a time. Weights stay in the transformers model, and
gradients go to their `.grad`. Other families run under autograd; see `served`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from grape.runtime.core.attention import Tree, cascade_backward
from grape.runtime.core.products import Packed, size_of

Attend = Callable[[int, Tensor, Tensor, Tensor], tuple[Tensor, Tensor | None]]
"""Attention [n, heads, d] and its log-sum-exp [n, heads], where a backward needs it, in a layer, of
queries [n, heads, d] and new keys and values [n, fewer heads, d]."""
Rows = slice | Tensor
_FAMILIES = {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM"}
_DTYPES = {torch.float32, torch.float64}


@dataclass(frozen=True, slots=True)
class Layer:
    """The weights of one layer."""

    before: nn.Module
    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    out: nn.Linear
    between: nn.Module
    gate: nn.Linear
    up: nn.Linear
    down: nn.Linear
    packed: PackedLayer | None = None
    """The same matrices laid out for decoding."""

    @classmethod
    def of(cls, module: Any) -> Layer:
        attention, mlp = module.self_attn, module.mlp
        return cls(
            module.input_layernorm,
            attention.q_proj,
            attention.k_proj,
            attention.v_proj,
            attention.o_proj,
            module.post_attention_layernorm,
            mlp.gate_proj,
            mlp.up_proj,
            mlp.down_proj,
        )

    def matrices(self) -> tuple[nn.Linear, ...]:
        inner = (self.gate, self.up, self.down)
        return (self.query, self.key, self.value, self.out, *inner)

    def asked(self, ready: Tensor) -> tuple[Tensor, ...]:
        """Queries, keys and values."""
        if self.packed is not None:
            return self.packed.asking.apart(ready)
        return tuple(linear(matrix, ready) for matrix in (self.query, self.key, self.value))

    def opened(self, ready: Tensor) -> tuple[Tensor, ...]:
        """What goes into the gates: `gate` and `up`."""
        if self.packed is not None:
            return self.packed.opening.apart(ready)
        return linear(self.gate, ready), linear(self.up, ready)


@dataclass(frozen=True, slots=True)
class PackedLayer:
    """The matrices of a layer, those with one input joined."""

    asking: Packed
    out: Packed
    opening: Packed
    down: Packed

    @classmethod
    def of(cls, layer: Layer, rows: int) -> PackedLayer:
        return cls(
            Packed([layer.query, layer.key, layer.value], rows),
            Packed([layer.out], rows),
            Packed([layer.gate, layer.up], rows),
            Packed([layer.down], rows),
        )


def served(network: Any) -> bool:
    """Whether `Body` computes what the model does: a known family, plain matrices (no adapter), on
    a processor, in float32 or float64."""
    config = network.config
    if type(network).__name__ not in _FAMILIES or getattr(config, "sliding_window", None):
        return False
    weight = network.get_input_embeddings().weight
    if weight.device.type != "cpu" or weight.dtype not in _DTYPES or config.hidden_act != "silu":
        return False
    if network.training and config.attention_dropout:
        return False
    return all(
        type(matrix) is nn.Linear for module in network.model.layers for matrix in _linears(module)
    )


def _linears(module: Any) -> list[Any]:
    attention, mlp = module.self_attn, module.mlp
    found = [getattr(attention, f"{name}_proj") for name in "qkvo"]
    return [*found, mlp.gate_proj, mlp.up_proj, mlp.down_proj]


@dataclass(frozen=True, slots=True)
class Held:
    """What a layer keeps of tokens, [tokens, …] each."""

    enter: Tensor
    query: Tensor
    key: Tensor
    value: Tensor
    seen: Tensor
    """What attention gives."""
    norm: Tensor | None
    """Its log-sum-exp [tokens, heads]; none where only a backward would need it."""
    middle: Tensor
    """The stream between attention and the rest."""
    gate: Tensor | None
    up: Tensor | None
    """Made again in the backward where they are not kept."""


class Kept:
    """What the backward needs of the tokens of one forward pass."""

    def __init__(self) -> None:
        self.layers: list[Held | None] = []
        self.ids: Tensor
        self.positions: Tensor
        self.last: Tensor

    def put(self, number: int, start: int, held: Held) -> None:
        """What layer `number` leaves; `start` is the place of the first token."""
        self.layers.append(held)

    def end(self, start: int, ids: Tensor, positions: Tensor, last: Tensor) -> None:
        self.ids, self.positions, self.last = ids, positions, last


class Room(Kept):
    """Room for `size` tokens that come in several passes. `wide` layers, the last ones, also keep
    the insides of their gates."""

    def __init__(self, body: Body, size: int, *, wide: int | None = None) -> None:
        super().__init__()
        like, count = body.embedding.weight, len(body.layers)
        wide = count if wide is None else wide

        def room(*shape: int) -> Tensor:
            return torch.empty(size, *shape, dtype=like.dtype)

        for number, layer in enumerate(body.layers):
            inner, whole = layer.gate.out_features, number >= count - wide
            self.layers.append(
                Held(
                    room(body.width),
                    room(layer.query.out_features),
                    room(layer.key.out_features),
                    room(layer.value.out_features),
                    room(layer.query.out_features),
                    room(body.heads),
                    room(body.width),
                    room(inner) if whole else None,
                    room(inner) if whole else None,
                )
            )
        self.ids = torch.empty(size, dtype=torch.long)
        self.positions = torch.empty(size, dtype=torch.long)
        self.last = room(body.width)

    def put(self, number: int, start: int, held: Held) -> None:
        mine = self.layers[number]
        assert mine is not None
        rows = slice(start, start + len(held.enter))
        for name in Held.__slots__:
            room, what = getattr(mine, name), getattr(held, name)
            if room is not None and what is not None:
                room[rows] = what

    def end(self, start: int, ids: Tensor, positions: Tensor, last: Tensor) -> None:
        rows = slice(start, start + len(ids))
        self.ids[rows], self.positions[rows], self.last[rows] = ids, positions, last


def bytes_per_token(body: Body) -> tuple[int, int]:
    """What `Room` takes of a token: without the insides of gates, and those of one layer."""
    layer, size = body.layers[0], body.embedding.weight.element_size()
    own = 2 * (body.width + layer.query.out_features + layer.key.out_features) + body.heads
    return (own * len(body.layers) + body.width) * size, 2 * layer.gate.out_features * size


class Body:
    """The layers of a model that is `served`, between token ids and last hidden states."""

    def __init__(self, network: Any) -> None:
        inner = network.model
        self.embedding: nn.Embedding = inner.embed_tokens
        self.layers = [Layer.of(module) for module in inner.layers]
        self.last: nn.Module = inner.norm
        self.rotary = inner.rotary_emb
        first = inner.layers[0].self_attn
        self.size = int(first.head_dim)
        self.scale = float(first.scaling)
        self.width: int = self.embedding.embedding_dim
        self.heads: int = self.layers[0].query.out_features // self.size

    def turns(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines [n, 1, d / 2] of the rotation at positions [n]."""
        cos, sin = self.rotary(self.embedding.weight, positions[None])
        half = self.size // 2
        return cos[0, :, None, :half].contiguous(), sin[0, :, None, :half].contiguous()

    def packed(self, rows: int, budget: int) -> tuple[Body, int]:
        """The same layers with weights laid out for steps of about `rows` rows: of as many layers
        as fit into so many bytes, and how many bytes are left."""
        body = copy.copy(self)
        body.layers = []
        for one in self.layers:
            size = size_of(one.matrices())
            layer = replace(one, packed=PackedLayer.of(one, rows)) if size <= budget else one
            budget -= size if size <= budget else 0
            body.layers.append(layer)
        return body, budget

    @torch.no_grad()
    def forward(
        self,
        ids: Tensor,
        positions: Tensor,
        attend: Attend,
        kept: Kept | None = None,
        start: int = 0,
    ) -> Tensor:
        """Last hidden states [n, width] of tokens [n], which are kept from place `start` on."""
        turns = self.turns(positions)
        stream = self.embedding.weight.index_select(0, ids)
        for number, layer in enumerate(self.layers):
            held, stream = self._layer(number, layer, stream, turns, attend)
            if kept is not None:
                kept.put(number, start, held)
            del held
        if kept is not None:
            kept.end(start, ids, positions, stream)
        return normed(self.last, stream)

    def _layer(
        self,
        number: int,
        layer: Layer,
        enter: Tensor,
        turns: tuple[Tensor, Tensor],
        attend: Attend,
    ) -> tuple[Held, Tensor]:
        """What a layer leaves to its backward, and the stream after it."""
        packed = layer.packed
        queries, keys, values = layer.asked(normed(layer.before, enter))
        query, key, value = (x.view(len(enter), -1, self.size) for x in (queries, keys, values))
        turn(query, *turns)
        turn(key, *turns)
        seen, norm = attend(number, query, key, value)
        seen = seen.reshape(len(enter), -1)
        middle = packed.out.added(seen, enter) if packed else added(layer.out, seen, enter)
        gate, up = layer.opened(normed(layer.between, middle))
        inner = nn.functional.silu(gate).mul_(up)
        after = packed.down.added(inner, middle) if packed else added(layer.down, inner, middle)
        return Held(enter, queries, keys, values, seen, norm, middle, gate, up), after

    @torch.no_grad()
    def states(self, kept: Kept, rows: Rows) -> Tensor:
        """Last hidden states of tokens that went through before."""
        return normed(self.last, kept.last[rows])

    @torch.no_grad()
    def backward(
        self, grad: Tensor, kept: Kept, rows: Rows, order: Order, *, spend: bool = False
    ) -> None:
        """Add to every weight's `.grad` what a gradient [n, width] of last hidden states gives it.
        `rows` are the tokens in the order they are kept, and `grad` is in that order. With `spend`
        every layer is given up as soon as it is done with."""
        grad = norm_backward(self.last, grad, kept.last[rows])
        turns = self.turns(kept.positions[rows])
        for number in reversed(range(len(self.layers))):
            layer, held = self.layers[number], kept.layers[number]
            assert held is not None
            self._gates_backward(layer, held, rows, grad)
            self._attention_backward(layer, held, rows, grad, turns, order)
            if spend:
                kept.layers[number] = held = None
        weight = self.embedding.weight
        if weight.requires_grad:
            ids = kept.ids[rows]
            if self.embedding.padding_idx is not None:
                grad.masked_fill_((ids == self.embedding.padding_idx)[:, None], 0)
            _grad(weight).index_add_(0, ids, grad)

    def _gates_backward(self, layer: Layer, held: Held, rows: Rows, grad: Tensor) -> None:
        middle = held.middle[rows]
        ready = normed(layer.between, middle)
        gate = linear(layer.gate, ready) if held.gate is None else held.gate[rows]
        up = linear(layer.up, ready) if held.up is None else held.up[rows]
        opened = nn.functional.silu(gate)
        inner = opened * up
        matrix_backward(layer.down, grad, inner)
        pulled = torch.mm(grad, layer.down.weight, out=inner)
        opened.mul_(pulled)  # the gradient of `up`
        matrix_backward(layer.up, opened, ready)
        pulled.mul_(up)
        torch.ops.aten.silu_backward.grad_input(pulled, gate, grad_input=pulled)
        matrix_backward(layer.gate, pulled, ready)
        back = torch.mm(pulled, layer.gate.weight, out=ready)
        back.addmm_(opened, layer.up.weight)
        grad += norm_backward(layer.between, back, middle)

    def _attention_backward(
        self,
        layer: Layer,
        held: Held,
        rows: Rows,
        grad: Tensor,
        turns: tuple[Tensor, Tensor],
        order: Order,
    ) -> None:
        seen = held.seen[rows]
        matrix_backward(layer.out, grad, seen)
        pulled = grad @ layer.out.weight
        held_here = (held.query[rows], held.key[rows], held.value[rows], seen)
        pull, query, key, value, out = (
            order.tree(x.view(len(x), -1, self.size)).transpose(0, 1)[None]
            for x in (pulled, *held_here)
        )
        assert held.norm is not None
        norm = order.tree(held.norm[rows]).t()[None]
        found = cascade_backward(pull, query, key, value, out, norm, order.trees, self.scale)
        query, key, value = (order.kept(x[0].transpose(0, 1)) for x in found)
        cos, sin = turns
        turn(query, cos, -sin)
        turn(key, cos, -sin)
        enter = held.enter[rows]
        ready = normed(layer.before, enter)
        parts = [x.reshape(len(x), -1) for x in (query, key, value)]
        linears = (layer.query, layer.key, layer.value)
        for matrix, part in zip(linears, parts, strict=True):
            matrix_backward(matrix, part, ready)
        back = torch.mm(parts[0], layer.query.weight, out=ready)
        back.addmm_(parts[1], layer.key.weight).addmm_(parts[2], layer.value.weight)
        grad += norm_backward(layer.before, back, enter)


@dataclass(frozen=True, slots=True)
class Order:
    """Where the tokens of trees, one after another, are among those that are kept."""

    trees: tuple[Tree, ...]
    place: Tensor | None = None
    """[n]; none when both orders are one."""

    def tree(self, kept: Tensor) -> Tensor:
        return kept if self.place is None else kept[self.place]

    def kept(self, tree: Tensor) -> Tensor:
        """The inverse, contiguous."""
        if self.place is None:
            return tree.contiguous()
        return torch.empty_like(tree, memory_format=torch.contiguous_format).index_copy_(
            0, self.place, tree
        )


def linear(matrix: nn.Linear, x: Tensor) -> Tensor:
    """x [n, in] times the matrix."""
    made = torch.mm(x, matrix.weight.t())
    return made if matrix.bias is None else made.add_(matrix.bias)


def added(matrix: nn.Linear, x: Tensor, stream: Tensor) -> Tensor:
    """x [n, in] times the matrix, and `stream` [n, out] together."""
    made = torch.addmm(stream, x, matrix.weight.t())
    return made if matrix.bias is None else made.add_(matrix.bias)


def matrix_backward(matrix: nn.Linear, grad: Tensor, x: Tensor) -> None:
    """Add the gradient of a matrix and its bias."""
    if matrix.weight.requires_grad:
        _grad(matrix.weight).addmm_(grad.t(), x)
    if matrix.bias is not None and matrix.bias.requires_grad:
        _grad(matrix.bias).add_(grad.sum(0))


def _scale(norm: Any, x: Tensor) -> Tensor:
    eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    size: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return size.square_().div_(x.shape[-1]).add_(cast(float, eps)).rsqrt_()


def normed(norm: Any, x: Tensor) -> Tensor:
    """Root mean square normalisation of [n, width]."""
    return (x * _scale(norm, x)).mul_(cast(Tensor, norm.weight))


def norm_backward(norm: Any, grad: Tensor, x: Tensor) -> Tensor:
    """The gradient by `x`; that by the weight is added to its `.grad`."""
    scale = _scale(norm, x)
    pulled = torch.mul(grad, x).mul_(scale)
    if norm.weight.requires_grad:
        _grad(norm.weight).add_(pulled.sum(0))
    mean = (pulled @ norm.weight)[:, None].mul_(scale).mul_(scale).div_(x.shape[-1])
    torch.mul(grad, norm.weight, out=pulled)
    return pulled.mul_(scale).addcmul_(x, mean, value=-1)


def turn(x: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Rotate [n, heads, d] in place by angles [n, 1, d / 2]."""
    first, second = x.chunk(2, -1)
    moved = first * sin
    first.mul_(cos).addcmul_(second, sin, value=-1)
    second.mul_(cos).add_(moved)


def _grad(weight: Tensor) -> Tensor:
    if weight.grad is None:
        weight.grad = torch.zeros_like(weight)
    return weight.grad
