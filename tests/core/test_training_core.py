"""The training core on tiny models: gradients ignore cutting, decoding equals generate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import grape
from grape.runtime.artifacts import Item
from grape.runtime.core import logprob
from grape.runtime.core.logprob import Weights, head_gradient, token_values
from grape.runtime.core.models import Policy, prepared
from grape.runtime.core.packing import Example
from grape.runtime.core.rollout import generate_for
from grape.runtime.core.step import Cutting, gradient
from grape.runtime.formula import compile_formula
from grape.runtime.verbs.fresh import new_model, train_tokenizer

torch.set_num_threads(1)


def tiny(architecture: str = "llama", dtype: torch.dtype = torch.float64) -> Policy:
    settings = {
        "architecture": architecture,
        "layers": 2,
        "hidden": 32,
        "heads": 4,
        "kv_heads": 2,
        "intermediate": 48,
        "context": 128,
    }
    policy = new_model(settings, train_tokenizer(iter(()), 0), 3)
    policy.model = prepared(policy.model.to(dtype))
    return policy


def examples(paired: bool) -> list[Example]:
    make = torch.Generator().manual_seed(5)
    found = []
    for number in range(8):
        group = number // (2 if paired else 4)
        prompt = tuple(range(10 + group, 15 + 3 * group))
        size = int(torch.randint(1, 7, (1,), generator=make))
        done = tuple(torch.randint(5, 250, (size,), generator=make).tolist())
        known = [-(0.1 + 0.2 * (i % 3)) * 20 for i in range(size)]
        found.append(
            Example(
                prompt,
                done,
                group,
                {"old_logp": known, "ref_logp": known},
                {"reward": float(number % 3) if paired or group else 1.0},
            )
        )
    return found


def gradients(
    name: str,
    how: Cutting,
    options: dict[str, Any],
    architecture: str,
    dtype: torch.dtype = torch.float64,
) -> tuple[float, torch.Tensor]:
    policy = tiny(architecture, dtype)
    compiled = compile_formula(grape.algorithm(name, **options).formula)
    batch = examples(name == "dpo")
    step = gradient(policy, compiled, batch, given={}, how=how)
    flat = [p.grad.flatten() for p in policy.model.parameters() if p.grad is not None]
    return step.loss, torch.cat(flat)


PLAIN = Cutting(10**6, share=False, packed=False, fused=False, skip=False)
CUTS = [
    Cutting(budget, share, packed, fused=budget != 30, skip=budget != 4096)
    for budget in (1, 30, 4096)
    for share in (True, False)
    for packed in (True, False)
] + [Cutting(), Cutting(fused=False), Cutting(skip=False)]


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize(
    "name,options", [("sft", {}), ("grpo", {"beta": 0.1}), ("grpo", {}), ("dpo", {})]
)
def test_gradient_does_not_depend_on_how_the_batch_is_cut(
    name: str, options: dict[str, Any], architecture: str
) -> None:
    loss, wanted = gradients(name, PLAIN, options, architecture)
    assert wanted.norm() > 1e-6
    for how in CUTS:
        found_loss, found = gradients(name, how, options, architecture)
        assert abs(found_loss - loss) <= 1e-12 * max(1.0, abs(loss)), how
        assert (found - wanted).norm() <= 1e-12 * wanted.norm(), how


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("name", ["sft", "grpo", "dpo"])
def test_every_technique_gives_the_same_step_in_float32(name: str, architecture: str) -> None:
    loss, wanted = gradients(name, PLAIN, {}, architecture, torch.float32)
    off = [{"share": False}, {"packed": False}, {"fused": False}, {"skip": False}]
    for how in ({}, *off):
        found_loss, found = gradients(name, Cutting(30, **how), {}, architecture, torch.float32)
        assert abs(found_loss - loss) <= 1e-5 * max(1.0, abs(loss)), how
        assert (found - wanted).norm() <= 1e-5 * wanted.norm(), how


@pytest.mark.parametrize("softcap", [None, 3.0])
def test_the_fused_head_equals_autograd(softcap: float | None, monkeypatch: Any) -> None:
    monkeypatch.setattr(logprob, "CELLS", 600)
    policy = tiny()
    policy.network.config.final_logit_softcapping = softcap
    hidden = torch.randn(9, 32, dtype=torch.float64, requires_grad=True)
    targets, head = torch.arange(9), policy.network.get_output_embeddings()
    pull, stir = torch.randn(2, 9, dtype=torch.float64)
    logp, entropy = token_values(policy.network, hidden, targets, entropy=True, temperature=0.7)
    assert entropy is not None
    wanted = torch.autograd.grad((pull * logp + stir * entropy).sum(), [hidden, head.weight])
    found = head_gradient(
        policy.network, hidden.detach(), targets, Weights(pull, stir), temperature=0.7
    )
    for mine, plain in zip([*found, head.weight.grad], [logp, entropy, *wanted], strict=True):
        assert torch.allclose(mine, plain, atol=1e-12)


def test_no_gradient_at_all_is_a_gradient_of_zero() -> None:
    policy = tiny()
    batch = [Example((1, 2), (3, 4), 0, {}, {"reward": 1.0}) for _ in range(4)]
    compiled = compile_formula(grape.algorithm("grpo").formula)
    step = gradient(policy, compiled, batch, given={}, how=Cutting())
    assert step.loss == 0
    assert all(weight.grad.abs().max() == 0 for weight in policy.model.parameters())


def test_token_values_equal_log_softmax() -> None:
    policy = tiny()
    hidden = torch.randn(9, 32, dtype=torch.float64, requires_grad=True)
    targets = torch.arange(9)
    logp, entropy = token_values(
        policy.network, hidden, targets, entropy=True, temperature=0.7, chunk=2
    )
    full = torch.log_softmax(policy.network.get_output_embeddings()(hidden) / 0.7, -1)
    assert entropy is not None
    direct, spread = full[torch.arange(9), targets], -(full.exp() * full).sum(-1)
    assert torch.allclose(logp, direct) and torch.allclose(entropy, spread)
    mine = torch.autograd.grad((logp * entropy).sum(), hidden, retain_graph=True)[0]
    plain = torch.autograd.grad((direct * spread).sum(), hidden)[0]
    assert torch.allclose(mine, plain)


def sampled(policy: Policy, items: list[Item], temperature: float) -> list[list[int]]:
    made = generate_for(
        policy,
        items,
        group=2,
        temperature=temperature,
        top_p=1.0,
        max_tokens=7,
        stop=[],
        seed=1,
        round=0,
        emit=lambda event: None,
    )
    return [row.ids for row in made.rows]


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gpt2"])
def test_decoding(architecture: str) -> None:
    policy = tiny(architecture)
    items = [Item(f"i{n}", prompt="a longer prompt"[: 3 + 4 * n]) for n in range(3)]
    whole = sampled(policy, items, 1.0)
    alone = [ids for item in items for ids in sampled(policy, [item], 1.0)]
    assert whole == alone
    for number, item in enumerate(items):
        prompt = torch.tensor([policy.tokenizer(item.prompt).input_ids])
        wanted = policy.model.generate(
            prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=7
        )[0, prompt.shape[1] :].tolist()
        assert sampled(policy, items, 0.0)[2 * number] == wanted


def test_adapter_is_saved_merged(tmp_path: Path) -> None:
    policy = tiny().with_adapter(
        {"kind": "lora", "rank": 2, "alpha": 4, "targets": "all-linear", "dropout": 0.0}
    )
    for name, weight in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    ids = torch.tensor([[7, 8, 9]])
    policy.save(tmp_path)
    plain = prepared(AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64))
    assert torch.allclose(plain(ids).logits, policy.model(ids).logits, atol=1e-9)
