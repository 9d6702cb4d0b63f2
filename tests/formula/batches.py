"""Batches of float64 tensors that hold every quantity an algorithm may read."""

from __future__ import annotations

import torch
from torch import Tensor

Batch = dict[str, Tensor]

LENGTHS = [4, 2, 3, 1, 5, 2, 6, 3, 2, 4]
GROUPS = [7, 7, 7, 7, 3, 3, 3, 3, 5, 5]
WIDTH = 8
VOCABULARY = 5
BINARY = [1, 0, 0, 0, 1, 1, 0, 1, 0, 0]
REAL = [1, 0, 0.5, 0, 2, -1, 0.3, 0.7, 0.1, 0.1]
LIVE = ("logp", "entropy", "value", "score", "logp_all")


def batch(seed: int = 0, *, reward: list[float] | None = None, pad: int = 0) -> Batch:
    """Ten sequences in three groups and five pairs; a hole in the mask of every third one."""
    make = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=make, dtype=torch.float64)

    rows, width = len(LENGTHS), WIDTH + pad
    mask = torch.zeros(rows, width, dtype=torch.bool)
    for row, length in enumerate(LENGTHS):
        mask[row, :length] = True
        if row % 3 == 0:  # one masked token inside, as a tool's answer would be
            mask[row, : length + 1] = True
            mask[row, length // 2] = length < 2
    logp = -1 + 0.3 * normal(rows, WIDTH)
    found = {
        "logp": logp,
        "old_logp": logp + 0.2 * normal(rows, WIDTH),
        "ref_logp": logp + 0.3 * normal(rows, WIDTH),
        "teacher_logp": logp + 0.3 * normal(rows, WIDTH),
        "behavior_logp": logp + 0.1 * normal(rows, WIDTH),
        "proposal_logp": -0.5 + 0.2 * normal(rows, WIDTH),
        "entropy": 0.5 + normal(rows, WIDTH).abs(),
        "value": 0.3 * normal(rows, WIDTH),
        "old_value": 0.3 * normal(rows, WIDTH),
        "noise": torch.rand(rows, WIDTH, generator=make, dtype=torch.float64),
        'span("<think>", "</think>")': (torch.arange(WIDTH) < 3).double().expand(rows, WIDTH),
        'span("```python", "```")': _code(rows),
        "step": (torch.arange(WIDTH) // 2).expand(rows, WIDTH),
        "logp_all": torch.log_softmax(normal(rows, WIDTH, VOCABULARY), -1),
        "old_logp_all": torch.log_softmax(normal(rows, WIDTH, VOCABULARY), -1),
        "ref_logp_all": torch.log_softmax(normal(rows, WIDTH, VOCABULARY), -1),
        "teacher_logp_all": torch.log_softmax(normal(rows, WIDTH, VOCABULARY), -1),
    }
    steps = normal(3, rows, WIDTH)[:, :, ::2].repeat_interleave(2, -1)
    found["step_reward"], found["node_value"], found["parent_value"] = steps
    found["leaves"] = (1 + steps[0].abs() * 3).floor()
    found = {name: _padded(value, pad) for name, value in found.items()}
    scores = 0.3 * normal(6, rows)
    found |= {
        "reward": torch.tensor(REAL if reward is None else reward, dtype=torch.float64),
        "score": scores[0],
        "greedy_reward": scores[1],
        "prefix_value": scores[2],
        "mismatched": scores[3] + 0.2,
        "margin": scores[4, : rows // 2],
        "diversity": scores[5].sigmoid(),
        "desirable": torch.tensor([1, 0, 1, 1, 0, 0, 1, 0, 1, 0], dtype=torch.bool),
        "truncated": torch.tensor([0, 0, 0, 0, 0, 0, 1, 0, 0, 1], dtype=torch.float64),
        "probe": torch.tensor([0, 1, 0, 0, 0, 1, 0, 0, 0, 1], dtype=torch.float64),
        "progress": torch.tensor(0.25, dtype=torch.float64),
        "group": torch.tensor(GROUPS),
        "tree": torch.tensor([0, 0, 1, 2, 0, 0, 1, 1, 0, 0]),
        "cluster": torch.tensor([0, 1, 1, 2, 0, 0, 0, 1, 3, 3]),
        "set": torch.tensor([0, 0, 1, 1, 0, 0, 1, 1, 0, 1]),
        "mask": mask,
    }
    for name in LIVE:
        found[name] = found[name].detach().clone().requires_grad_()
    return found


def _code(rows: int) -> Tensor:
    """From some column on, in most rows."""
    starts = torch.tensor([1, 9, 2, 0, 3, 1, 9, 0, 9, 1])
    return (torch.arange(WIDTH)[None] >= starts[:rows, None]).double()


def _padded(x: Tensor, pad: int) -> Tensor:
    """Wider by `pad` columns of nonsense, which no mask covers."""
    if not pad:
        return x
    shape = (x.shape[0], pad, *x.shape[2:])
    return torch.cat([x, torch.full(shape, 3, dtype=x.dtype)], 1)


def with_parts(found: Batch) -> Batch:
    """The same batch with two reward parts, judged with confidences."""
    rows = len(found["reward"])
    make = torch.Generator().manual_seed(5)
    drawn = torch.rand(4, rows, generator=make, dtype=torch.float64)
    applies = torch.tensor([1, 1, 0, 1, 1, 1, 1, 1, 1, 0], dtype=torch.float64)
    return {
        **found,
        "reward.a": drawn[0],
        "reward.b": drawn[1],
        "confidence.a": drawn[2],
        "confidence.b": drawn[3],
        "weight.b": torch.full((rows,), 2.0, dtype=torch.float64),
        "applies.b": applies,
    }


def permuted(found: Batch, order: list[int]) -> Batch:
    """The same batch with its sequences in another order; pairs have to stay together."""
    rows = torch.tensor(order)
    size = len(order)
    result = {}
    for name, value in found.items():
        if value.dim() and len(value) == size:
            result[name] = value.detach()[rows]
        elif value.dim() and len(value) == size // 2:
            result[name] = value.detach()[rows[::2] // 2]
        else:
            result[name] = value
    for name in LIVE:
        result[name] = result[name].clone().requires_grad_()
    return result


def doubled(found: Batch) -> Batch:
    """Every sequence twice, in the same group."""
    return {
        name: torch.cat([value, value]) if value.dim() else value for name, value in found.items()
    }
