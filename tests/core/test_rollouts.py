"""Decoding: equal to `generate` and to a full forward pass, whatever lies beside a row."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from grape.runtime.artifacts import Completion, Item
from grape.runtime.core.models import Policy, prepared
from grape.runtime.core.rollout import generate_for
from grape.runtime.core.sampling import Stops, draw
from grape.runtime.errors import StageError
from grape.runtime.verbs.fresh import train_tokenizer

torch.set_num_threads(1)

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "qwen2": ("Qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {"head_dim": 8}),
    "mistral": ("Mistral", {"sliding_window": 5}),
    "gemma2": ("Gemma2", {"head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8}),
    "gemma3": ("Gemma3Text", {"head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8}),
    "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}),
}


def tiny(name: str, dtype: torch.dtype = torch.float64) -> Policy:
    family, extra = SHAPES[name]
    tokenizer = train_tokenizer(iter(()), 0)
    sizes: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 128,
    }
    ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": tokenizer.pad_token_id}
    config = getattr(transformers, f"{family}Config")(
        vocab_size=len(tokenizer), **({} if name == "gpt2" else sizes), **extra, **ids
    )
    torch.manual_seed(3)
    names = {"Gemma3Text": "Gemma3ForCausalLM", "GPT2": "GPT2LMHeadModel"}
    kind = getattr(transformers, names.get(family, f"{family}ForCausalLM"))
    soft = "eager" if name == "gemma2" else "sdpa"
    model = kind._from_config(config, attn_implementation=soft).to(dtype).eval()
    for weight in model.parameters():  # apart enough that tokens differ
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.3)
    return Policy(prepared(model), tokenizer)


def sample(policy: Policy, items: list[Item], **how: Any) -> list[Completion]:
    settings: dict[str, Any] = {
        "group": 3,
        "temperature": 1.0,
        "top_p": 1.0,
        "max_tokens": 9,
        "stop": [],
        "seed": 1,
        "round": 0,
    }
    return generate_for(policy, items, **{**settings, **how}, emit=lambda event: None).rows


ITEMS = [Item(f"i{n}", prompt="some longer prompt"[: 2 + 3 * n]) for n in range(5)]


@pytest.mark.parametrize("name", SHAPES)
def test_greedy_equals_generate(name: str) -> None:
    policy = tiny(name)
    rows = sample(policy, ITEMS, temperature=0.0, group=2, rows=4)
    for number, item in enumerate(ITEMS):
        prompt = torch.tensor([policy.tokenizer(item.prompt).input_ids])
        ends = {"eos_token_id": policy.tokenizer.eos_token_id}
        wanted = policy.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=9,
            **ends,
        )[0, prompt.shape[1] :].tolist()
        assert [rows[2 * number].ids, rows[2 * number + 1].ids] == [wanted, wanted]


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_recorded_logps_are_the_models(name: str, dtype: torch.dtype) -> None:
    policy = tiny(name, dtype)
    close = 1e-9 if dtype is torch.float64 else 1e-5
    for row in sample(policy, ITEMS[:3], temperature=0.7):
        ids = torch.tensor([row.prompt_ids + row.ids])
        with torch.no_grad():
            logits = policy.model(ids).logits[0, len(row.prompt_ids) - 1 : -1]
        wanted = torch.log_softmax(logits / 0.7, -1).gather(1, torch.tensor(row.ids)[:, None])[:, 0]
        assert torch.allclose(wanted, torch.tensor(row.logps, dtype=dtype), atol=close)


# Rows side by side share a matrix product, whose rounding may change with its height; in float64 a
# draw within 1e-12 of a boundary is not to be expected.
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_sample_does_not_depend_on_what_lies_beside_it(name: str) -> None:
    policy = tiny(name)
    policy.model.generation_config.eos_token_id = list(range(0, 250, 12))
    wanted = [row.ids for item in ITEMS for row in sample(policy, [item])]
    assert len({len(ids) for ids in wanted}) > 2
    for how in ({}, {"rows": 3}, {"rows": 4}, {"rows": 7}, {"compact": False}):
        assert [row.ids for row in sample(policy, ITEMS, **how)] == wanted, how


def test_draws_follow_the_distribution() -> None:
    make = torch.Generator().manual_seed(0)
    logits = torch.randn(600, generator=make)[None].expand(20000, -1)
    ids, logps = draw(logits, torch.rand(20000, generator=make, dtype=torch.float64), 0.8, 1.0)
    wanted = torch.softmax(logits[0] / 0.8, -1).double()
    counts = torch.bincount(ids, minlength=600).double()
    big = wanted * 20000 >= 5
    square = ((counts - 20000 * wanted) ** 2 / (20000 * wanted))[big].sum()
    assert square < int(big.sum()) + 5 * (2 * int(big.sum())) ** 0.5
    assert torch.allclose(logps, wanted.log()[ids].float(), atol=1e-5)


def test_the_nucleus_is_renormalised() -> None:
    logits = torch.log(torch.tensor([[0.5, 0.3, 0.15, 0.05]], dtype=torch.float64))
    spread = torch.arange(0.004, 1, 0.01, dtype=torch.float64)
    ids, logps = draw(logits.expand(100, -1), spread, 1.0, 0.6)
    assert ids.bincount().tolist() == [63, 37]
    assert torch.allclose(logps.exp(), torch.where(ids == 0, 0.625, 0.375).double())


def test_stops_are_found_as_in_the_whole_text() -> None:
    tokenizer: Any = train_tokenizer(iter(()), 0)
    stops = Stops(tokenizer, ("\n\n", "né", "end"))
    for text in ("a\n\n", "nee né", "the end", "none", "n\n\tx", "en d", "é"):
        ids: list[int] = []
        met = []
        for token in tokenizer(text).input_ids:
            ids.append(token)
            met.append(stops.met(ids))
        heads = [tokenizer.decode(ids[: n + 1]) for n in range(len(ids))]
        whole = [any(stop in head for stop in stops.stops) for head in heads]
        first = whole.index(True) if True in whole else len(whole)
        assert met[: first + 1] == whole[: first + 1]


def test_a_model_with_other_layers_is_refused() -> None:
    config = transformers.MambaConfig(vocab_size=300, hidden_size=16, num_hidden_layers=1)
    policy = Policy(transformers.MambaForCausalLM(config), train_tokenizer(iter(()), 0))
    with pytest.raises(StageError, match="Grape cannot run"):
        sample(policy, ITEMS[:1])
