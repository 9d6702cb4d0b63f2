"""`merge(a, b)`: weights between those of models of one shape. It trains nothing.

In come models, out goes a new one; the inputs stay as they are. `linear` is the weighted mean of
every tensor; `slerp` (Shoemake, 1985) goes along the arc between two tensors taken as vectors.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from grape.runtime.context import Context
from grape.runtime.core.models import Policy
from grape.runtime.errors import StageError

PORTS = ("first", "second", "third", "fourth")
_PARALLEL = 1e-6
"""Below this sine two tensors point the same way, and the arc is a line."""


def run(context: Context, inputs: dict[str, Any]) -> Policy:
    """The merged model. Raises StageError when the models are not of one shape or tokenizer."""
    models = [inputs[port].merged() for port in PORTS if port in inputs]
    names = [context.stage.inputs[port].stage for port in PORTS if port in inputs]
    for name, model in zip(names[1:], models[1:], strict=True):
        _check_alike(names[0], models[0], name, model)
    weights = context.stage.settings["weights"]
    mix = _slerp if context.stage.settings["method"] == "slerp" else _linear
    states = [model.network.state_dict() for model in models]
    made = copy.deepcopy(models[0].network)
    made.load_state_dict(
        {name: mix([state[name] for state in states], weights) for name in states[0]}
    )
    return Policy(made, models[0].tokenizer)


def _linear(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted mean, taken in float64 so that shares of 0 and 1 give the ends exactly."""
    if not tensors[0].is_floating_point():
        return tensors[0]
    total = sum(weight * tensor.double() for weight, tensor in zip(weights, tensors, strict=True))
    assert isinstance(total, Tensor)
    return total.to(tensors[0].dtype)


def _slerp(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    if not tensors[0].is_floating_point():
        return tensors[0]
    one, two = (tensor.double().flatten() for tensor in tensors)
    norms = one.norm() * two.norm()
    if norms == 0:
        return _linear(tensors, weights)
    angle = torch.arccos((one @ two / norms).clamp(-1, 1))
    if torch.sin(angle) < _PARALLEL:
        return _linear(tensors, weights)
    shares = [torch.sin(weight * angle) / torch.sin(angle) for weight in weights]
    mixed = shares[0] * one + shares[1] * two
    return mixed.view_as(tensors[0]).to(tensors[0].dtype)


def _check_alike(name: str, one: Policy, other_name: str, other: Policy) -> None:
    shapes, other_shapes = (
        {key: tuple(value.shape) for key, value in policy.network.state_dict().items()}
        for policy in (one, other)
    )
    pair = f"`{name}` and `{other_name}` cannot be merged"
    if shapes.keys() != other_shapes.keys():
        odd = min(shapes.keys() ^ other_shapes.keys())
        raise StageError(
            f"{pair}: they are of different architectures (only one has `{odd}`)",
            hint="merge models that were trained from the same base",
        )
    for key, shape in shapes.items():
        if shape != other_shapes[key]:
            raise StageError(
                f"{pair}: `{key}` is {shape} in one and {other_shapes[key]} in the other",
                hint="merge models that were trained from the same base",
            )
    if one.tokenizer.get_vocab() != other.tokenizer.get_vocab():
        raise StageError(
            f"{pair}: their tokenizers number the tokens differently",
            hint="weights can only be averaged where a token means the same in both",
        )
