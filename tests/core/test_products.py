"""Weights laid out for decoding give the products, draws and gradients of the plain ones."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from core.test_layers import OWN, drawn, examples, learned, near, tiny
from torch import nn

from grape.runtime.core import cache, layers, logprob, products, rollout
from grape.runtime.core.products import EIGHT, Packed, packable, size_of, times

torch.set_num_threads(1)
onednn = pytest.mark.skipif(not packable(nn.Linear(2, 2)), reason="no oneDNN on this machine")


@onednn
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 7, EIGHT, 13, 64])
def test_packed_matrices_give_the_product_of_each(rows: int, bias: bool) -> None:
    torch.manual_seed(rows)
    matrices = [nn.Linear(48, 32, bias=bias), nn.Linear(48, 80, bias=False)]
    packed, x, stream = Packed(matrices, 16), torch.randn(rows, 48), torch.randn(rows, 32)
    for found, matrix in zip(packed.apart(x), matrices, strict=True):
        assert found.shape == (rows, matrix.out_features)
        assert near(found, matrix(x).detach(), 1e-6)
    alone = Packed(matrices[:1], rows)
    assert near(alone(x), matrices[0](x).detach(), 1e-6)
    assert near(alone.added(x, stream), matrices[0](x).detach() + stream, 1e-6)
    assert size_of(matrices) == 4 * 48 * 112


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_quick_product_is_the_plain_one(dtype: torch.dtype) -> None:
    x, weight = torch.randn(9, 5, dtype=dtype), torch.randn(7, 5, dtype=dtype)
    assert near(times(x, weight), x @ weight.t(), 1e-6)
    assert near(times(x @ weight.t(), weight.t()), x @ weight.t() @ weight, 1e-6)


def test_only_plain_float32_matrices_are_packed() -> None:
    class Other(nn.Linear):
        pass

    wrong = [Other(2, 2), nn.Linear(2, 2, dtype=torch.float64), nn.Linear(2, 2).bfloat16()]
    assert not any(map(packable, wrong))


@onednn
@pytest.mark.parametrize("name", ["llama", "biases", "tied", "qwen2"])
@pytest.mark.parametrize("how", [{}, {"rows": 4}, {"compact": False}, {"group": 1}])
def test_packed_weights_draw_and_keep_what_plain_ones_do(
    name: str, how: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tiny(name, torch.float32)
    used = []
    make = products.Packed

    def noted(matrices: list[nn.Linear], rows: int) -> Packed:
        used.append(rows)
        return make(matrices, rows)

    monkeypatch.setattr(rollout, "Packed", noted)
    keep = {"keep_activations": 1 << 24} if how.get("group") != 1 else {}
    plain = drawn(policy, pack_weights=0, **how, **keep)
    assert not used
    wanted, slope = learned(policy, examples(plain), OWN)
    found = drawn(policy, **how, **keep)
    assert used
    assert [row.ids for row in found] == [row.ids for row in plain]
    both = [torch.tensor([x for row in rows for x in row.logps]) for rows in (found, plain)]
    assert torch.allclose(both[0], both[1], atol=1e-4)
    if keep:
        assert policy.tape is not None
    step, mine = learned(policy, examples(plain), OWN)
    assert step.loss == pytest.approx(wanted.loss, rel=1e-4, abs=1e-5)
    assert near(mine, slope, 1e-4)


@onednn
def test_a_budget_or_a_short_completion_leaves_weights_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    policy = tiny("llama", torch.float32)

    def refused(*_: Any) -> None:
        raise AssertionError("packed")

    monkeypatch.setattr(rollout, "Packed", refused)
    monkeypatch.setattr(layers, "Packed", refused)
    drawn(policy, pack_weights=0)
    drawn(policy, max_tokens=rollout.PAYS - 1)
    with pytest.raises(AssertionError, match="packed"):
        drawn(policy)


@onednn
def test_as_many_layers_are_packed_as_fit() -> None:
    policy = tiny("llama", torch.float32)
    body = layers.Body(policy.network)
    size = size_of(body.layers[0].matrices())
    for budget, count in ((size - 1, 0), (2 * size, 2), (10 * size, 3)):
        found, left = body.packed(4, budget)
        assert sum(layer.packed is not None for layer in found.layers) == count
        assert left == budget - count * size
    wanted = [row.ids for row in drawn(policy, pack_weights=0, group=9)]
    for budget in (size, 3 * size):  # without the head, which then comes in eights
        assert [row.ids for row in drawn(policy, pack_weights=budget, group=9)] == wanted


def test_memory_of_a_decoding_is_given_back_without_the_collector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[weakref.ref[Any]] = []
    make = cache.RowCache

    def noted(*args: Any) -> Any:
        cache = make(*args)
        made.append(weakref.ref(cache))
        return cache

    monkeypatch.setattr(rollout, "RowCache", noted)
    gc.disable()
    try:
        drawn(tiny())
        assert made and made[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("count", [1, 4, 5, 11])
def test_whole_chunks_and_the_rest_give_one_gradient(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = tiny("llama", torch.float32)
    vocabulary = policy.network.config.vocab_size
    states, targets = torch.randn(count, 32), torch.arange(count)
    weights = logprob.Weights(torch.randn(count))
    found = []
    for cells in (1 << 23, 4 * vocabulary):
        monkeypatch.setattr(logprob, "CELLS", cells)
        policy.network.zero_grad()
        rows = (policy.network, states, targets)
        values = logprob.head_gradient(*rows, weights, temperature=0.7)
        head = policy.network.get_output_embeddings().weight
        with torch.no_grad():
            values += logprob.token_values(*rows, temperature=0.7)[:1]
        found.append([*values, head.grad.clone()])
    for one, other in zip(*found, strict=True):
        assert near(one, other, 1e-5)
