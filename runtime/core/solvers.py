"""Steps under `subject to`: the natural gradient with a line search, and weights moved back.

A `Stepping` says what loss and constraints are on the whole batch and takes gradients through its
micro-batches; here is what to do with them. No learning rate, no optimizer: the bound itself says
how far a step may go.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from grape.runtime.core.exchange import add_gradients, merged
from grape.runtime.core.step import Stepping, pulled, states_of

SHRINK = 0.8
"""What one backtrack multiplies a step by."""
_FOUND = 1e-10
"""Share of the first residual at which the conjugate gradient has found its direction."""


@dataclass(frozen=True, slots=True)
class Searched:
    """A constrained step: which share of the longest one was taken (0: none), after how many
    backtracks, and how far the tightest constraint is from its bound then (0 or less: it holds)."""

    share: float
    backtracks: int
    constraint: float


@dataclass(frozen=True, slots=True)
class Natural:
    """Settings of `natural_gradient`."""

    damping: float
    iterations: int
    backtracks: int


@torch.no_grad()
def measure(stepping: Stepping) -> tuple[float, float]:
    """The loss and the largest constraint on the whole batch, under the weights as they are."""
    stepping.fill(stepping.cut())
    values = stepping.complete(stepping.live)
    loss = float(stepping.compiled.loss(values, stepping.layout))
    return loss, max(map(float, stepping.compiled.constraints(values, stepping.layout)))


def natural_step(stepping: Stepping, how: Natural) -> Searched:
    """Move the weights by the gradient in their `.grad`, as seen by the curvature of the
    constraints, as far as the bound allows; then back until the loss is better and every
    constraint holds. Weights stay as they were where no step does both."""
    weights = [item for item in stepping.policy.parameters() if item.requires_grad]
    down = -_flat([item.grad for item in weights], weights)
    loss, constraint = measure(stepping)
    if constraint >= 0 or not down.any():
        return Searched(0.0, 0, constraint)
    curvature = Curvature(stepping, weights)

    def damped(x: Tensor) -> Tensor:
        return curvature.times(x) + how.damping * x

    direction = conjugate(damped, down, how.iterations)
    longest = math.sqrt(2 * -constraint / _dot(direction, damped(direction)))
    start = [item.detach().clone() for item in weights]
    for number in range(how.backtracks + 1):
        share = SHRINK**number
        _place(weights, start, longest * share * direction)
        now, reached = measure(stepping)
        if now < loss and reached <= 0:
            return Searched(share, number, reached)
    _place(weights, start, torch.zeros_like(direction))
    return Searched(0.0, how.backtracks, constraint)


def conjugate(times: Callable[[Tensor], Tensor], wanted: Tensor, iterations: int) -> Tensor:
    """x with `times(x)` near `wanted`, for a symmetric positive operator; at most so many steps."""
    x = torch.zeros_like(wanted)
    rest, direction = wanted.clone(), wanted.clone()
    before = first = _dot(rest, rest)
    for _ in range(iterations):
        if before <= _FOUND * first:
            break
        made = times(direction)
        size = before / _dot(direction, made)
        x += size * direction
        rest -= size * made
        now = _dot(rest, rest)
        direction = rest + (now / before) * direction
        before = now
    return x


class Curvature:
    """The Gauss-Newton matrix of the constraints at the present weights: how the live values move
    with the weights, and how the constraints bend in the live values. Where a constraint is at
    its lowest, as a divergence from the model itself, that is its Hessian: the Fisher matrix."""

    def __init__(self, stepping: Stepping, weights: Sequence[nn.Parameter]) -> None:
        self.stepping, self.weights = stepping, weights
        self.plain = replace(stepping.how, packed=False)

    def times(self, x: Tensor) -> Tensor:
        """Its product with a flat vector over all weights."""
        bent = self._bent(self._moved(x))
        step = self.stepping
        for item in self.weights:
            item.grad = None
        for micro in step.cut():
            step.pull(step.reader.piece(micro), states_of(step.policy, micro, step.how), bent)
        add_gradients(self.weights)
        found = _flat([item.grad for item in self.weights], self.weights)
        for item in self.weights:
            item.grad = None
        return found

    def _moved(self, x: Tensor) -> dict[str, Tensor]:
        """How every live value moves along `x`: the product of a product's gradient, through
        attention that can be differentiated twice."""
        step = self.stepping
        moved = {name: torch.zeros_like(value) for name, value in step.live.items()}
        parts = _parts(x, self.weights)
        own: dict[str, list[Tensor]] = {name: [] for name in moved}
        for micro in step.cut(how=self.plain):
            piece = step.reader.piece(micro)
            for name, places in own.items():
                places.append(piece.places(name))
            with sdpa_kernel(SDPBackend.MATH):
                read = step.reader.read(states_of(step.policy, micro, self.plain), piece)
                found = {name: value for name, value in read.items() if value.requires_grad}
                probes = [torch.zeros_like(value, requires_grad=True) for value in found.values()]
                pulls = torch.autograd.grad(
                    list(found.values()),
                    list(self.weights),
                    probes,
                    create_graph=True,
                    allow_unused=True,
                )
                along = [(a * b).sum() for a, b in zip(pulls, parts, strict=True) if a is not None]
                moves = torch.autograd.grad(torch.stack(along).sum(), probes, allow_unused=True)
            for name, move in zip(found, moves, strict=True):
                if move is not None:
                    moved[name][piece.places(name)] = move.to(moved[name].dtype)
        return merged(moved, own)

    def _bent(self, moved: dict[str, Tensor]) -> dict[str, Tensor]:
        """How the gradient of the constraints by the live values moves with them."""
        step = self.stepping
        leaves = {name: value.detach().requires_grad_() for name, value in step.live.items()}
        bounded = step.compiled.constraints(step.complete(leaves), step.layout)
        slopes = torch.autograd.grad(
            torch.stack(list(bounded)).sum(),
            list(leaves.values()),
            create_graph=True,
            allow_unused=True,
        )
        along = [
            (slope * moved[name]).sum()
            for name, slope in zip(leaves, slopes, strict=True)
            if slope is not None
        ]
        return pulled(torch.stack(along).sum(), leaves)


def _dot(left: Tensor, right: Tensor) -> float:
    return float((left * right).sum(dtype=torch.float64))


def _flat(grads: Sequence[Tensor | None], like: Sequence[Tensor]) -> Tensor:
    pairs = zip(grads, like, strict=True)
    return torch.cat([(torch.zeros_like(b) if a is None else a).flatten() for a, b in pairs])


def _parts(x: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    sizes = [item.numel() for item in like]
    return [a.view_as(b) for a, b in zip(torch.split(x, sizes), like, strict=True)]


@torch.no_grad()
def _place(weights: Sequence[Tensor], start: Sequence[Tensor], step: Tensor) -> None:
    for item, first, part in zip(weights, start, _parts(step, weights), strict=True):
        item.copy_(first + part)
