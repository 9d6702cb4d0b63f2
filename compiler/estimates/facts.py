"""What a language model is made of: the sizes that memory and work follow from.

A configuration (Hugging Face keys) goes in, `ModelFacts` come out. Reading files is
`headers.py`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

_NORMS_PER_LAYER = {"gemma2": 4, "gemma3_text": 4, "gemma3": 4}
_QKV_BIAS = frozenset({"qwen2"})
_QK_NORM = frozenset({"qwen3", "gemma3_text", "gemma3"})


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A decoder. `parameters` counts shared ones once; `origin` says where the facts are from."""

    family: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    context: int
    tied: bool
    parameters: int
    origin: str
    number_bytes: int | None = None
    """Bytes of a stored number, where it differs from what the device computes in."""

    @property
    def gated(self) -> bool:
        """Whether the feed-forward layer has a gate beside its two matrices."""
        return self.family != "gpt2"

    @property
    def matrix_parameters(self) -> int:
        """Parameters of the layers, each used once per token: without embeddings and head."""
        return self.layers * _layer(self)

    @property
    def linear_shapes(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of the linear layers of one block."""
        width = self.heads * self.head_dim
        narrow = self.kv_heads * self.head_dim
        if not self.gated:
            return (
                (self.hidden, 3 * width),
                (width, self.hidden),
                (self.hidden, self.intermediate),
                (self.intermediate, self.hidden),
            )
        return (
            (self.hidden, width),
            (self.hidden, narrow),
            (self.hidden, narrow),
            (width, self.hidden),
            (self.hidden, self.intermediate),
            (self.hidden, self.intermediate),
            (self.intermediate, self.hidden),
        )


def facts_of(config: Mapping[str, Any], origin: str) -> ModelFacts:
    """Facts of a `config.json`. Raises ValueError when it does not describe a decoder."""
    config = config.get("text_config") or config

    def first(*names: str) -> Any:
        return next((config[name] for name in names if config.get(name) is not None), None)

    found = {
        "layers": first("num_hidden_layers", "n_layer"),
        "hidden": first("hidden_size", "n_embd"),
        "heads": first("num_attention_heads", "n_head"),
        "vocab": first("vocab_size"),
        "context": first("max_position_embeddings", "n_positions"),
    }
    missing = [name for name, value in found.items() if not isinstance(value, int) or value < 1]
    if missing:
        raise ValueError(f"{origin} does not tell {' and '.join(missing)}")
    family = str(config.get("model_type", "llama"))
    heads, hidden = found["heads"], found["hidden"]
    return counted(
        ModelFacts(
            family=family,
            layers=found["layers"],
            hidden=hidden,
            heads=heads,
            kv_heads=first("num_key_value_heads") or heads,
            head_dim=first("head_dim") or hidden // heads,
            intermediate=first("intermediate_size", "n_inner") or 4 * hidden,
            vocab=found["vocab"],
            context=found["context"],
            tied=bool(config.get("tie_word_embeddings", family == "gpt2")),
            parameters=0,
            origin=origin,
            number_bytes=8
            if "float64" in (config.get("dtype"), config.get("torch_dtype"))
            else None,
        )
    )


def counted(facts: ModelFacts) -> ModelFacts:
    """The facts with the parameters of the closed form."""
    hidden = facts.hidden
    total = facts.vocab * hidden * (1 if facts.tied else 2) + facts.layers * _layer(facts) + hidden
    if facts.family == "gpt2":
        total += facts.context * hidden + hidden
    return replace(facts, parameters=total)


def _layer(facts: ModelFacts) -> int:
    hidden, inner, width = facts.hidden, facts.intermediate, facts.heads * facts.head_dim
    weights = sum(rows * columns for rows, columns in facts.linear_shapes)
    if facts.family == "gpt2":
        return weights + 3 * width + hidden + inner + hidden + 4 * hidden
    narrow = facts.kv_heads * facts.head_dim
    extra = _NORMS_PER_LAYER.get(facts.family, 2) * hidden
    if facts.family in _QKV_BIAS:
        extra += width + 2 * narrow
    if facts.family in _QK_NORM:
        extra += 2 * facts.head_dim
    return weights + extra


def fresh_facts(settings: Mapping[str, Any]) -> ModelFacts:
    """Facts of `fresh(…)`: the vocabulary is the largest that its tokenizer may get."""
    config = {
        "model_type": settings["architecture"],
        "num_hidden_layers": settings["layers"],
        "hidden_size": settings["hidden"],
        "num_attention_heads": settings["heads"],
        "num_key_value_heads": settings["kv_heads"],
        "intermediate_size": settings["intermediate"],
        "vocab_size": max(settings["vocab"], 258) if settings["tokenizer"] == "trained" else 258,
        "max_position_embeddings": settings["context"],
        "tie_word_embeddings": True,
    }
    return facts_of(config, "its settings")


def adapter_parameters(facts: ModelFacts, adapter: Mapping[str, Any]) -> int:
    """Trainable parameters of a LoRA adapter: rank × (inputs + outputs) of each layer it is on."""
    shapes = facts.linear_shapes
    if isinstance(adapter["targets"], list):
        named = dict(zip(_names(facts), shapes, strict=True))
        shapes = tuple(named[name] for name in adapter["targets"] if name in named)
    per_layer = sum(rows + columns for rows, columns in shapes)
    return int(facts.layers * adapter["rank"] * per_layer)


def _names(facts: ModelFacts) -> tuple[str, ...]:
    if facts.gated:
        return ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    return ("c_attn", "attn.c_proj", "c_fc", "mlp.c_proj")
