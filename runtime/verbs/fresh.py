"""`fresh("llama")`: a new model with random weights, and a tokenizer. It trains no weights."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    LlamaConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from grape.runtime.context import Context
from grape.runtime.core.models import Policy, prepared
from grape.runtime.core.tokenizer import END, PAD, texts_of, train_core
from grape.runtime.errors import StageError


def train_tokenizer(texts: Iterable[str], vocab: int) -> PreTrainedTokenizerBase:
    """Byte-level BPE with an end and a padding token; without texts, bytes only."""
    make: Any = PreTrainedTokenizerFast
    core = train_core(texts, vocab)
    return cast(PreTrainedTokenizerBase, make(tokenizer_object=core, eos_token=END, pad_token=PAD))


def new_model(settings: dict[str, Any], tokenizer: PreTrainedTokenizerBase, seed: int) -> Policy:
    """A float32 model of the settings' size with weights from `seed`."""
    shared: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
        "pad_token_id": tokenizer.pad_token_id,
    }
    hidden, heads = settings["hidden"], settings["heads"]
    if hidden % heads:
        raise StageError(f"`hidden` ({hidden}) is not a multiple of `heads` ({heads}).")
    inner = settings["intermediate"] or 4 * hidden
    config: GPT2Config | LlamaConfig | Qwen2Config
    if settings["architecture"] == "gpt2":
        config = GPT2Config(
            n_embd=hidden,
            n_layer=settings["layers"],
            n_head=heads,
            n_inner=inner,
            n_positions=settings["context"],
            attn_pdrop=0.0,
            embd_pdrop=0.0,
            resid_pdrop=0.0,
            **shared,
        )
    else:
        kind = {"llama": LlamaConfig, "qwen2": Qwen2Config}[settings["architecture"]]
        config = kind(
            hidden_size=hidden,
            num_hidden_layers=settings["layers"],
            num_attention_heads=heads,
            num_key_value_heads=settings["kv_heads"] or heads,
            intermediate_size=inner,
            max_position_embeddings=settings["context"],
            tie_word_embeddings=True,
            **shared,
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        build: Any = AutoModelForCausalLM.from_config
        model = build(config)
    return Policy(prepared(model), tokenizer)


def run(context: Context, inputs: dict[str, object]) -> Policy:
    """A new model. Raises StageError when the tokenizer's folder is not there."""
    settings = context.stage.settings
    tokenizer: PreTrainedTokenizerBase
    match settings["tokenizer"]:
        case "trained" | "bytes" as kind:
            texts = texts_of(inputs.get("data")) if kind == "trained" else iter(())
            tokenizer = train_tokenizer(texts, settings["vocab"])
        case name:
            folder: Path = context.project / name
            if not folder.is_dir():
                raise StageError(f"There is no tokenizer folder at {folder}.")
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    return new_model(settings, tokenizer, settings["seed"])
