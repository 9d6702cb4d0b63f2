"""Who sees whom in a packed row, and attention that computes no more than that.

A row holds trees one after another: a prompt, then its completions, each seeing the prompt and
itself. `attending` makes a model use it; the model's own mask is then never built. What the fast
path cannot do (a sliding window shorter than a tree, soft-capped scores) goes tree by tree with a
mask. Nothing here knows about batches or losses.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from grape.runtime.errors import StageError

NAME = "grape"
_FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_FLASH_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


@dataclass(frozen=True, slots=True)
class Tree:
    """Places in a row: the prompt is [start, split), completions are `twigs` of [split, end)."""

    start: int
    split: int
    end: int
    twigs: tuple[tuple[int, int], ...]

    def sizes(self) -> list[int]:
        """Tokens of the prompt and of every completion."""
        return [self.split - self.start, *(end - start for start, end in self.twigs)]

    def mask(self, window: int | None, device: torch.device) -> Tensor:
        """Bool [n, n] of the tree's tokens; a token sees at most the last `window` of its line."""
        sizes = torch.tensor(self.sizes(), device=device)
        branch = torch.repeat_interleave(torch.arange(len(sizes), device=device), sizes)
        place = torch.arange(len(branch), device=device)
        start = torch.cumsum(sizes, 0) - sizes
        depth = place - start[branch] + torch.where(branch > 0, sizes[0], 0)
        seen = (branch[None] == 0) | (branch[None] == branch[:, None])
        seen &= place[None] <= place[:, None]
        if window is not None:
            seen &= depth[:, None] - depth[None] < window
        return seen


@dataclass(frozen=True, slots=True)
class Forest:
    """The trees of one packed row; they cover it from end to end."""

    trees: tuple[Tree, ...]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, how: How) -> Tensor:
        """Attention [1, heads, L, d] of a row; `key` and `value` may have fewer heads."""
        longest = max(
            sum(tree.sizes()[:1]) + max(tree.sizes()[1:], default=0) for tree in self.trees
        )
        window = how.window if how.window is not None and how.window < longest else None
        flash = query.device.type == "cpu" and query.shape[-1] == value.shape[-1]
        if flash and window is None and how.softcap is None:
            return cast(Tensor, _cascade(query, key, value, self.trees, how.scale))
        parts = []
        for tree in self.trees:
            own = slice(tree.start, tree.end)
            mask = tree.mask(window, query.device)[None, None]
            parts.append(masked(query[:, :, own], key[:, :, own], value[:, :, own], mask, how))
        return torch.cat(parts, 2)


class Slots:
    """One new token per row against everything that its cache holds: `lengths` [B] tokens each."""

    def __init__(self, lengths: Tensor, dtype: torch.dtype) -> None:
        self.lengths, self.dtype = lengths, dtype
        self.masks: dict[int | None, Tensor] = {}

    def attend(self, query: Tensor, key: Tensor, value: Tensor, how: How) -> Tensor:
        if how.window not in self.masks:
            self.masks[how.window] = self._mask(key.shape[2], how.window)
        return masked(query, key, value, self.masks[how.window], how)

    def _mask(self, width: int, window: int | None) -> Tensor:
        """Additive, [B, 1, 1, width]."""
        place = torch.arange(width, device=self.lengths.device)
        seen = place < self.lengths[:, None]
        if window is not None:
            seen &= place >= self.lengths[:, None] - window
        return additive(seen, self.dtype)[:, None, None]


@dataclass(frozen=True, slots=True)
class Stems:
    """The prompts of live rows, each kept once: which rows grow from it, and where they are."""

    rows: Tensor
    """[stems, most rows of one] live rows; those of a stem with fewer are filled with row 0."""
    stem: Tensor
    place: Tensor
    """[B] each; row r is `rows[stem[r], place[r]]`."""
    mask: Tensor | None
    """Additive [stems, 1, 1, width]; none when all prompts are equally long."""
    kept: Callable[[int], tuple[Tensor, Tensor]]
    """Keys and values [stems, heads, width, d] of a layer."""


class Branches(Slots):
    """Like `Slots`, for rows whose prompts are kept apart: both pieces are joined as in a tree."""

    def __init__(
        self, lengths: Tensor, dtype: torch.dtype, stems: Stems, *, even: bool = False
    ) -> None:
        super().__init__(lengths, dtype)
        self.stems, self.even = stems, even
        """Whether all rows keep equally many tokens, so that there is nothing to mask."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, how: How) -> Tensor:
        return self.joined(query, key, value, how)[0]

    def joined(self, query: Tensor, key: Tensor, value: Tensor, how: How) -> tuple[Tensor, Tensor]:
        """Attention [B, heads, 1, d] and its log-sum-exp [B, heads]."""
        stems, (batch, heads, _, size) = self.stems, query.shape
        shared = key.shape[1]
        if None not in self.masks and not self.even:
            self.masks[None] = self._mask(key.shape[2], None)
        folded = query.reshape(batch, shared, heads // shared, size)
        mask = self.masks.get(None)
        own, weight = _FLASH(folded, key, value, 0.0, False, attn_mask=mask, scale=how.scale)
        asking = folded[stems.rows].transpose(1, 2)
        wide = asking.reshape(len(stems.rows), shared, -1, size)
        keys, values = stems.kept(how.layer)
        seen, other = _FLASH(wide, keys, values, 0.0, False, attn_mask=stems.mask, scale=how.scale)
        where = (stems.stem, slice(None), stems.place)
        seen = seen.view(*asking.shape)[where]
        other = other.reshape(*asking.shape[:-1])[where]
        both = torch.logaddexp(weight, other)
        own = own * (weight - both).exp_()[..., None].to(own.dtype)
        own += seen * (other - both).exp_()[..., None].to(own.dtype)
        return own.reshape(batch, heads, 1, size), both.reshape(batch, heads)


def additive(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a token is seen, minus infinity elsewhere."""
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)


@dataclass(frozen=True, slots=True)
class How:
    """What a family asks of attention, and the layer it is in."""

    scale: float | None
    window: int | None
    softcap: float | None
    layer: int = 0


def masked(query: Tensor, key: Tensor, value: Tensor, mask: Tensor, how: How) -> Tensor:
    """Plain attention under a bool or additive mask, [B, heads, L, d]."""
    repeats = query.shape[1] // key.shape[1]
    rows = query.shape
    if repeats > 1 and rows[2] == 1:  # heads that share a key become tokens of one head
        query = query.reshape(rows[0], key.shape[1], repeats, rows[3])
    elif repeats > 1:
        key, value = (x.repeat_interleave(repeats, 1) for x in (key, value))
    if how.softcap is None:
        found = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=how.scale
        )
    else:
        scale = query.shape[-1] ** -0.5 if how.scale is None else how.scale
        scores = torch.tanh(query @ key.transpose(2, 3) * scale / how.softcap) * how.softcap
        scores = (
            scores.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else scores + mask
        )
        found = torch.softmax(scores, -1, torch.promote_types(scores.dtype, torch.float32))
        found = found.to(value.dtype) @ value
    return found.reshape(rows[0], rows[1], rows[2], value.shape[-1])


class _Cascade(torch.autograd.Function):
    """Attention of a forest from unmasked and causal pieces only.

    A completion's queries meet the prompt and their own tokens apart; both results are joined by
    their log-sum-exp. Backward, the joined log-sum-exp makes each piece's gradient exact, so that
    the gradients simply add up. Work: prompt^2 + completions x (prompt + completion)."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, trees: Sequence[Tree], scale: float
    ) -> Tensor:
        out, norm = cascade_forward(query, key, value, trees, scale)
        ctx.save_for_backward(query, key, value, out, norm)
        ctx.trees, ctx.scale = trees, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, norm = ctx.saved_tensors
        found = cascade_backward(grad, query, key, value, out, norm, ctx.trees, ctx.scale)
        return *found, None, None


def cascade_forward(
    query: Tensor, key: Tensor, value: Tensor, trees: Sequence[Tree], scale: float | None
) -> tuple[Tensor, Tensor]:
    """Attention [1, heads, L, d] of trees and its log-sum-exp [1, heads, L]."""
    out = torch.empty_like(query)
    norm = torch.empty(query.shape[:3], dtype=_wide(query), device=query.device)
    for tree in trees:
        for start, end in _lines(tree):
            line = slice(start, end)
            part = (x[:, :, line] for x in (query, key, value))
            out[:, :, line], norm[:, :, line] = _FLASH(*part, 0.0, True, scale=scale)
        if not _shared(tree):
            continue
        late, prompt = slice(tree.split, tree.end), slice(tree.start, tree.split)
        seen, weight = _FLASH(
            query[:, :, late], key[:, :, prompt], value[:, :, prompt], 0.0, False, scale=scale
        )
        both = torch.logaddexp(norm[:, :, late], weight)
        out[:, :, late] *= (norm[:, :, late] - both).exp_()[..., None].to(out.dtype)
        out[:, :, late] += seen.mul_((weight - both).exp_()[..., None].to(out.dtype))
        norm[:, :, late] = both
    return out, norm


def cascade_backward(
    grad: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    norm: Tensor,
    trees: Sequence[Tree],
    scale: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient by queries, keys and values."""
    whole = (torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value))

    def piece(asking: slice, seen: slice, causal: bool) -> None:
        parts = _FLASH_BACKWARD(
            grad[:, :, asking],
            query[:, :, asking],
            key[:, :, seen],
            value[:, :, seen],
            out[:, :, asking],
            norm[:, :, asking],
            0.0,
            causal,
            scale=scale,
        )
        for total, part, place in zip(whole, parts, (asking, seen, seen), strict=True):
            total[:, :, place] += part

    for tree in trees:
        for start, end in _lines(tree):
            piece(slice(start, end), slice(start, end), True)
        if _shared(tree):
            piece(slice(tree.split, tree.end), slice(tree.start, tree.split), False)
    return whole


_cascade: Callable[..., Any] = _Cascade.apply


def _wide(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _shared(tree: Tree) -> bool:
    return len(tree.twigs) > 1 and tree.end > tree.split


def _lines(tree: Tree) -> list[tuple[int, int]]:
    """Causal pieces: an only completion goes on where its prompt ends."""
    if not _shared(tree):
        return [(tree.start, tree.end)]
    twigs = [twig for twig in tree.twigs if twig[1] > twig[0]]
    return [(tree.start, tree.split), *twigs]


_current = threading.local()


@contextmanager
def attending(network: Any, view: Forest | Slots) -> Iterator[None]:
    """While it lasts, the layers of a model attend as `view` says."""
    config = network.config
    before = config._attn_implementation
    config._attn_implementation = NAME
    _current.view = view
    try:
        yield
    finally:
        config._attn_implementation = before
        _current.view = None


_KINDS = {"full_attention", "sliding_attention"}


def check_served(network: Any) -> None:
    """Raises StageError for a model whose layers are more than attention that can be replaced."""
    kinds = set(getattr(network.config, "layer_types", None) or ()) - _KINDS
    if kinds or not getattr(network, "_supports_attention_backend", False):
        what = ", ".join(sorted(kinds)) or "attention of its own"
        raise StageError(
            f"`{type(network).__name__}` has layers that Grape cannot run: {what}",
            hint="models with full or sliding-window attention can be trained and sampled from",
        )


def _attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    dropout: float = 0.0,
    **other: Any,
) -> tuple[Tensor, None]:
    """The function that transformers calls in every layer."""
    strange = [name for name in ("s_aux", "position_bias") if other.get(name) is not None]
    if strange:
        raise StageError(f"this model's attention uses `{strange[0]}`, which Grape cannot compute")
    view: Forest | Slots = _current.view
    found = view.attend(query, key, value, How(scaling, sliding_window, softcap, module.layer_idx))
    return found.transpose(1, 2).contiguous(), None


ALL_ATTENTION_FUNCTIONS.register(NAME, _attention)
