"""Layers written out give what the model's own give, forward and backward, kept or anew."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
import transformers

import grape
from grape.runtime.artifacts import Completion, Item
from grape.runtime.core import step as steps
from grape.runtime.core.layers import Body, bytes_per_token, served
from grape.runtime.core.models import Policy, prepared
from grape.runtime.core.packing import Example
from grape.runtime.core.rollout import generate_for
from grape.runtime.core.step import Cutting, gradient, values_of
from grape.runtime.formula import compile_formula
from grape.runtime.verbs.fresh import train_tokenizer

torch.set_num_threads(1)
OWN, PLAIN = Cutting(), Cutting(own=False)
CLOSE = {torch.float64: 1e-9, torch.float32: 1e-5}
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "wide heads": ("Llama", {"head_dim": 16, "num_key_value_heads": 4}),
    "tied": ("Llama", {"tie_word_embeddings": True}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "qwen2": ("Qwen2", {"use_sliding_window": False}),
}
ITEMS = [Item(f"i{n}", prompt="a prompt of some length"[: 4 + 5 * n]) for n in range(4)]


def tiny(name: str = "llama", dtype: torch.dtype = torch.float64) -> Policy:
    family, extra = SHAPES[name]
    tokenizer = train_tokenizer(iter(()), 0)
    sizes: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 128,
        "bos_token_id": None,
        "eos_token_id": list(range(0, 250, 9)),
        "pad_token_id": 7,
    }
    torch.manual_seed(3)
    config = getattr(transformers, f"{family}Config")(**{**sizes, **extra})
    model = getattr(transformers, f"{family}ForCausalLM")._from_config(
        config, attn_implementation="sdpa"
    )
    for weight in model.parameters():
        torch.nn.init.normal_(weight, mean=float(weight.dim() == 1), std=0.2)
    return Policy(prepared(model.to(dtype).eval()), tokenizer)


def drawn(policy: Policy, **how: Any) -> list[Completion]:
    settings: dict[str, Any] = {
        "group": 3,
        "temperature": 1.0,
        "top_p": 1.0,
        "max_tokens": 9,
        "stop": [],
        "seed": 1,
        "round": 0,
    }
    return generate_for(policy, ITEMS, **{**settings, **how}, emit=lambda event: None).rows


def examples(rows: list[Completion], idle: int | None = None) -> list[Example]:
    return [
        Example(
            tuple(row.prompt_ids),
            tuple(row.ids),
            row.group,
            {"behavior_logp": row.logps},
            {"reward": float(sum(row.ids) % 5) if row.group != idle else 1.0, "truncated": 0.0},
        )
        for row in rows
    ]


def learned(
    policy: Policy, batch: list[Example], how: Cutting, algorithm: str = "grpo"
) -> tuple[steps.Step, torch.Tensor]:
    for weight in policy.model.parameters():
        weight.grad = None
    compiled = compile_formula(grape.algorithm(algorithm).formula)
    step = gradient(policy, compiled, batch, given={}, how=how)
    return step, torch.cat([weight.grad.flatten() for weight in policy.model.parameters()])


def near(found: torch.Tensor, wanted: torch.Tensor, close: float) -> bool:
    return bool((found - wanted).norm() <= close * wanted.norm())


@pytest.mark.parametrize("dtype", list(CLOSE))
@pytest.mark.parametrize("name", list(SHAPES))
def test_own_layers_give_the_states_and_gradients_of_the_model(
    name: str, dtype: torch.dtype
) -> None:
    policy = tiny(name, dtype)
    assert served(policy.network)
    batch = [  # 7 is the padding token, whose embedding learns nothing
        Example((7, 2, 3, 4 + n // 2), (5 + n, 7, 9, *range(n)), n // 2, {}, {"reward": n % 3.0})
        for n in range(6)
    ]
    wanted, found = (values_of(policy, batch, how, ("states",))["states"] for how in (PLAIN, OWN))
    assert near(found, wanted, CLOSE[dtype])
    for algorithm in ("sft", "grpo"):
        plain, slope = learned(policy, batch, PLAIN, algorithm)
        for how in (OWN, replace(OWN, budget=8), replace(OWN, fused=False)):
            own, mine = learned(policy, batch, how, algorithm)
            assert abs(own.loss - plain.loss) <= CLOSE[dtype] * max(1, abs(plain.loss))
            assert near(mine, slope, CLOSE[dtype]), how


@pytest.mark.parametrize("dtype", list(CLOSE))
@pytest.mark.parametrize("how", [{}, {"rows": 3}, {"rows": 4}, {"compact": False}, {"group": 1}])
def test_own_layers_draw_what_the_model_draws(how: dict[str, Any], dtype: torch.dtype) -> None:
    policy = tiny(dtype=dtype)
    plain = drawn(policy, own_layers=False, **how)
    own = drawn(policy, **how)
    assert len({len(row.ids) for row in own}) > 2
    assert [row.ids for row in own] == [row.ids for row in plain]
    both = [torch.tensor([x for row in rows for x in row.logps]) for rows in (own, plain)]
    assert torch.allclose(both[0], both[1], atol=10 * CLOSE[dtype])


def forbidden(*_: Any, **__: Any) -> None:
    raise AssertionError("a forward pass")


@pytest.mark.parametrize("dtype", list(CLOSE))
@pytest.mark.parametrize("name", ["llama", "tied", "qwen2"])
@pytest.mark.parametrize("gates", [0, 1, 3])
def test_kept_activations_give_the_same_step_without_a_forward_pass(
    name: str, dtype: torch.dtype, gates: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for how in ({}, {"rows": 4}, {"compact": False}):
        policy = tiny(name, dtype)
        most = sum(len(policy.tokenizer.encode(item.prompt)) for item in ITEMS) + 12 * 8
        least, wide = bytes_per_token(Body(policy.network))
        plain = drawn(policy, **how)
        assert not policy.tape  # nothing asked for it
        rows = drawn(policy, **how, keep_activations=most * (least + gates * wide))
        assert [(row.ids, row.logps) for row in rows] == [(row.ids, row.logps) for row in plain]
        assert sum(held.gate is not None for held in policy.tape.kept.layers) == gates
        kept = policy.tape
        for idle, budget in ((None, 4096), (1, 4096), (2, 6)):
            batch, cutting = examples(rows, idle), Cutting(budget)
            policy.tape = None
            wanted, slope = learned(policy, batch, replace(cutting, own=False))
            kept.spent, policy.tape = False, kept
            with monkeypatch.context() as patched:
                patched.setattr(Body, "forward", forbidden)
                monkeypatch_spend(patched)
                found, mine = learned(policy, batch, cutting)
            assert policy.tape is None
            assert near(mine, slope, CLOSE[dtype]), (how, idle, budget)
            assert found.logs == pytest.approx(wanted.logs, rel=1e-4, abs=1e-5)


def monkeypatch_spend(patched: pytest.MonkeyPatch) -> None:
    """Layers stay, so that one decoding can be learned from again."""
    whole = Body.backward

    def backward(self: Body, *args: Any, spend: bool) -> None:
        whole(self, *args, spend=False)

    patched.setattr(Body, "backward", backward)


def test_a_step_gives_up_the_layers_that_it_is_done_with() -> None:
    policy = tiny()
    rows = drawn(policy, keep_activations=1 << 30)
    kept = policy.tape.kept
    learned(policy, examples(rows), Cutting(16))
    assert kept.layers == [None] * 3


def test_what_other_weights_computed_is_not_used() -> None:
    policy = tiny()
    rows = drawn(policy, keep_activations=1 << 30)
    optimizer = torch.optim.AdamW(policy.model.parameters(), lr=0.01, fused=True)
    learned(policy, examples(rows), PLAIN)
    drawn(policy, keep_activations=1 << 30)
    stale = policy.tape
    optimizer.step()  # fused: it writes to the weights without counting
    _, wanted = learned(policy, examples(rows), PLAIN)
    policy.tape = stale
    _, found = learned(policy, examples(rows), OWN)
    assert near(found, wanted, 1e-9)


def test_too_little_memory_keeps_nothing_and_the_step_is_the_same() -> None:
    policy = tiny()
    rows = drawn(policy, keep_activations=1000)
    assert policy.tape is None
    _, wanted = learned(policy, examples(rows), PLAIN)
    assert near(learned(policy, examples(rows), OWN)[1], wanted, 1e-9)


def test_an_adapter_and_other_families_run_as_they_are() -> None:
    lora = {"rank": 2, "alpha": 4, "dropout": 0.0, "targets": "all-linear"}
    policy = tiny().with_adapter(lora)
    assert not served(policy.network)
    drawn(policy, keep_activations=1 << 30)
    assert policy.tape is None
    config = transformers.GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=300)
    assert not served(transformers.GPT2LMHeadModel(config))
    windowed = transformers.MistralConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, intermediate_size=48, sliding_window=8,
    )  # fmt: skip
    assert not served(transformers.MistralForCausalLM(windowed))
