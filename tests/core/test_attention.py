"""Attention of forests and of slots: equal to attention under a mask, values and gradients."""

from __future__ import annotations

import pytest
import torch

from grape.runtime.core.attention import Forest, How, Slots, Tree

torch.set_num_threads(1)

FOREST = Forest(
    (
        Tree(0, 5, 14, ((5, 9), (9, 9), (9, 14))),
        Tree(14, 15, 15, ((15, 15),)),
        Tree(15, 19, 25, ((19, 25),)),
        Tree(25, 26, 32, ((26, 29), (29, 32))),
    )
)


def tensors(kv: int) -> list[torch.Tensor]:
    make = torch.Generator().manual_seed(1)
    return [
        torch.randn(1, heads, 32, 8, generator=make, dtype=torch.float64).requires_grad_()
        for heads in (4, kv, kv)
    ]


def whole(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, how: How) -> torch.Tensor:
    """The plain definition: one softmax over every pair of tokens."""
    seen = torch.zeros(32, 32, dtype=torch.bool)
    for tree in FOREST.trees:
        own = slice(tree.start, tree.end)
        seen[own, own] = tree.mask(how.window, query.device)
    key, value = (x.repeat_interleave(4 // x.shape[1], 1) for x in (key, value))
    scores = query @ key.transpose(2, 3) * (how.scale or 8**-0.5)
    if how.softcap:
        scores = how.softcap * torch.tanh(scores / how.softcap)
    return torch.softmax(scores.masked_fill(~seen, -torch.inf), -1) @ value


@pytest.mark.parametrize("kv", [4, 2, 1])
@pytest.mark.parametrize(
    "how", [How(None, None, None), How(0.3, None, None), How(None, 4, None), How(0.5, 3, 2.0)]
)
def test_a_forest_is_masked_attention(kv: int, how: How) -> None:
    mine, plain = tensors(kv), tensors(kv)
    pull = torch.randn(1, 4, 32, 8, dtype=torch.float64)
    found = FOREST.attend(mine[0], mine[1], mine[2], how)
    wanted = whole(plain[0], plain[1], plain[2], how)
    assert torch.allclose(found, wanted, atol=1e-12)
    left = torch.autograd.grad((found * pull).sum(), mine)
    right = torch.autograd.grad((wanted * pull).sum(), plain)
    for one, other in zip(left, right, strict=True):
        assert torch.allclose(one, other, atol=1e-12)


def test_a_window_counts_along_a_line_not_along_the_row() -> None:
    mask = Tree(0, 2, 6, ((2, 4), (4, 6))).mask(3, torch.device("cpu"))
    assert mask[4].tolist() == [True, True, False, False, True, False]
    assert mask[5].tolist() == [False, True, False, False, True, True]


def test_slots_see_their_own_length() -> None:
    make = torch.Generator().manual_seed(2)
    query = torch.randn(3, 4, 1, 8, generator=make, dtype=torch.float64)
    key, value = torch.randn(2, 3, 2, 9, 8, generator=make, dtype=torch.float64)
    found = Slots(torch.tensor([9, 2, 5]), torch.float64).attend(
        query, key, value, How(None, 4, None)
    )
    for row, (start, end) in enumerate([(5, 9), (0, 2), (1, 5)]):
        kept = (x[row, :, start:end].repeat_interleave(2, 0) for x in (key, value))
        left, right = kept
        plain = torch.softmax(query[row] @ left.transpose(1, 2) * 8**-0.5, -1) @ right
        assert torch.allclose(found[row], plain, atol=1e-12)
