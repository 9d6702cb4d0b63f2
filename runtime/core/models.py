"""Models in memory and in folders: `Policy` is what flows along a Model edge.

A folder is a plain Hugging Face model: safetensors weights, config, tokenizer. An adapter is merged
when it is saved, so that every output loads with `AutoModelForCausalLM.from_pretrained`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from grape.runtime.core import heads
from grape.runtime.errors import StageError


def device() -> torch.device:
    """The accelerator when there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def dtype_for(name: str) -> torch.dtype:
    """`auto` is bfloat16 where the processor computes in it and float32 elsewhere.

    Without bf16 instructions a CPU emulates bfloat16, tens of times slower than float32.
    """
    if name != "auto":
        return {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}[
            name
        ]
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.float32


@dataclass(slots=True)
class Policy:
    """A causal language model with its tokenizer."""

    kind: ClassVar[str] = "Model"
    model: Any
    tokenizer: Any
    adapter: dict[str, Any] | None = None
    updates: int = 0
    """Optimizer steps since it was loaded: names the weights that rollouts came from."""
    heads: heads.Heads = field(default_factory=dict)
    """`value` and `score`, where something trained them."""
    tape: Any = None
    """What the last decoding kept of its activations, for the step that learns from it."""

    def head(self, name: str) -> nn.Linear:
        """The head of that name, made where there was none."""
        if name not in self.heads:
            self.heads[name] = heads.new_head(self.network)
        return self.heads[name]

    def parameters(self) -> Iterator[nn.Parameter]:
        """Of the model, then of its heads."""
        yield from self.model.parameters()
        for _, head in sorted(self.heads.items()):
            yield from head.parameters()

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """The same with their names."""
        yield from self.model.named_parameters()
        for name, head in sorted(self.heads.items()):
            yield f"{name} head", head.weight

    def state_dict(self) -> dict[str, Any]:
        """Weights, heads and the number of updates, as a checkpoint keeps them."""
        kept = heads.state_of(self.heads)
        return {"model": self.model.state_dict(), "heads": kept, "updates": self.updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put them back in place; heads that are there already stay the same objects."""
        self.model.load_state_dict(state["model"])
        for name, head in heads.restored(state.get("heads", {}), self.device).items():
            self.head(name).load_state_dict(head.state_dict())
        self.updates = state["updates"]

    @property
    def network(self) -> Any:
        """The transformers model itself, below any adapter wrapper."""
        return self.model.get_base_model() if self.adapter else self.model

    @property
    def device(self) -> torch.device:
        found: torch.device = next(self.model.parameters()).device
        return found

    @property
    def eos_ids(self) -> list[int]:
        """Token ids that end a completion."""
        config: Any = getattr(self.network, "generation_config", None)
        found = config.eos_token_id if config is not None else None
        ids = found if isinstance(found, list) else [found]
        both = [*ids, self.tokenizer.eos_token_id]
        return sorted({int(item) for item in both if item is not None})

    @property
    def context_length(self) -> int:
        """The longest sequence that the model was built for, in tokens."""
        return int(self.network.config.max_position_embeddings)

    def with_adapter(self, adapter: dict[str, Any], seed: int = 0) -> Policy:
        """The same weights, frozen, under a new LoRA adapter that begins as `seed` says."""
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            r=adapter["rank"],
            lora_alpha=adapter["alpha"],
            lora_dropout=adapter["dropout"],
            target_modules=adapter["targets"],
            task_type="CAUSAL_LM",
        )
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            model = get_peft_model(self.model, config)
            return Policy(model, self.tokenizer, adapter, heads=self.heads)

    def merged(self) -> Policy:
        """The model with its adapter folded into the weights; itself when it has none."""
        if not self.adapter:
            return self
        return Policy(self.model.merge_and_unload(), self.tokenizer, heads=self.heads)

    def save(self, folder: Path) -> None:
        whole = self
        if self.adapter:  # merging is in place, and training may go on with the original
            import copy

            whole = Policy(copy.deepcopy(self.model), self.tokenizer, self.adapter).merged()
        whole.model.save_pretrained(folder, safe_serialization=True)
        self.tokenizer.save_pretrained(folder)
        heads.save(self.heads, folder)

    @classmethod
    def load(cls, folder: Path, *, dtype: str = "auto") -> Self:
        """A model from a Hugging Face folder. Raises StageError when it is none."""
        try:
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=_saved_dtype(folder, dtype), attn_implementation="sdpa"
            )
            tokenizer = AutoTokenizer.from_pretrained(folder)
        except (OSError, ValueError, KeyError) as error:
            raise StageError(
                f"`{folder}` does not hold a model that transformers can load: "
                f"{str(error).splitlines()[0]}"
            ) from error
        return cls(prepared(model), tokenizer, heads=heads.load(folder, device()))


def _saved_dtype(folder: Path, name: str) -> torch.dtype:
    """Models trained in float64 for tests stay so; anything else follows the processor."""
    import json

    if name == "auto":
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        if "float64" in (config.get("dtype"), config.get("torch_dtype")):
            return torch.float64
    return dtype_for(name)


def prepared(model: Any) -> Any:
    """Ready for this machine: on its device, dropout off, so that log-probs are reproducible, and
    float64 throughout when its weights are."""
    model = model.to(device()).eval()
    if next(model.parameters()).dtype == torch.float64:
        _keep_float64(model)
    return model


class Float64Norm(nn.Module):
    """Root mean square normalisation of [..., width] without a detour through float32."""

    def __init__(self, weight: nn.Parameter, eps: float, offset: float) -> None:
        super().__init__()
        self.weight = weight
        self.eps = eps
        self.offset = offset
        """What the family adds to the weight: 1 in Gemma's, 0 in Llama's."""

    def forward(self, hidden: Tensor) -> Tensor:
        scale = torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.eps)
        return (self.offset + self.weight) * (hidden * scale)


def _keep_float64(model: nn.Module) -> None:
    """Replace the norms that round to float32 inside, whatever the dtype of their weights."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__.endswith("RMSNorm"):
                setattr(parent, name, _float64_norm(child))


@torch.no_grad()
def _float64_norm(norm: nn.Module) -> nn.Module:
    """The same norm in float64; `norm` itself when it is of a form that is not known here."""
    weight = getattr(norm, "weight", None)
    eps = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    if not isinstance(weight, nn.Parameter) or not isinstance(eps, float):
        return norm
    probe = torch.linspace(-1, 2, weight.numel(), dtype=weight.dtype, device=weight.device)
    for offset in (0.0, 1.0):
        exact = Float64Norm(weight, eps, offset)
        if torch.allclose(exact(probe), norm(probe), rtol=1e-5, atol=1e-6):
            return exact
    return norm
