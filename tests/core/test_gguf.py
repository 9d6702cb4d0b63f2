"""A GGUF file written here becomes the model that it was made from, and is saved as a plain one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from torch import Tensor

import grape
from grape.compiler import gguf as headers
from grape.compiler.plan import Plan, PlannedStage
from grape.runtime import worker
from grape.runtime.core import sources
from grape.runtime.core.models import Policy
from grape.runtime.core.sources import pretrained
from grape.runtime.errors import StageError
from grape.runtime.verbs.fresh import new_model, train_tokenizer

HEADS, KV_HEADS = 4, 2
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def source() -> Policy:
    settings = {
        "architecture": "llama",
        "layers": 2,
        "hidden": 32,
        "heads": HEADS,
        "kv_heads": KV_HEADS,
        "intermediate": 48,
        "context": 64,
    }
    return new_model(settings, train_tokenizer(iter(["12 + 34 = 46"] * 4), 280), 3)


def pairs_apart(weight: Tensor, heads: int) -> Tensor:
    """GGUF keeps the two halves of a rotation beside each other."""
    rows = weight.shape[0] // heads // 2
    return weight.view(heads, 2, rows, -1).transpose(1, 2).reshape(weight.shape)


def write(policy: Policy, path: Path) -> None:
    config = policy.model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    vocab = policy.tokenizer.get_vocab()
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(sorted(vocab, key=lambda token: vocab[token]))
    special = set(policy.tokenizer.all_special_ids)
    writer.add_token_types([3 if number in special else 1 for number in range(len(vocab))])
    merges = policy.tokenizer.backend_tokenizer.to_str()
    writer.add_token_merges([" ".join(pair) for pair in _merges(merges)])
    writer.add_eos_token_id(policy.tokenizer.eos_token_id)
    writer.add_bos_token_id(policy.tokenizer.eos_token_id)
    writer.add_pad_token_id(policy.tokenizer.pad_token_id)
    for name, weight in policy.model.state_dict().items():
        place = _place(name)
        if place is None:
            continue
        heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(place.split(".")[-2])
        kept = pairs_apart(weight, heads) if heads else weight
        writer.add_tensor(place, kept.contiguous().float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _merges(text: str) -> list[list[str]]:
    found: list[list[str]] = json.loads(text)["model"]["merges"]
    return found


def _place(name: str) -> str | None:
    if name in ("model.embed_tokens.weight", "model.norm.weight"):
        return {"embed_tokens": "token_embd", "norm": "output_norm"}[name.split(".")[1]] + ".weight"
    if not name.startswith("model.layers."):
        return None  # the head, which is the embedding
    _, _, layer, rest = name.split(".", 3)
    return f"blk.{layer}.{NAMES[rest.removesuffix('.weight')]}.weight"


def test_a_gguf_file_is_read_and_saved_as_a_plain_model(tmp_path: Path) -> None:
    original = source()
    write(original, tmp_path / "tiny.gguf")
    options = {"project": tmp_path, "dtype": "auto", "trust_remote_code": False}
    loaded = pretrained("tiny.gguf", **options)  # type: ignore[arg-type]
    loaded.save(tmp_path / "saved")
    again = pretrained("saved", **options)  # type: ignore[arg-type]
    text = "12 + 34 = 46"
    ids = torch.tensor([original.tokenizer(text).input_ids])
    wanted = original.model(ids).logits
    for policy in (loaded, again):
        assert policy.tokenizer(text, add_special_tokens=False).input_ids == ids[0].tolist()
        assert policy.tokenizer.decode(ids[0]) == text
        assert policy.eos_ids == original.eos_ids
        torch.testing.assert_close(policy.model(ids).logits, wanted, atol=1e-5, rtol=1e-5)
    state = again.model.state_dict()
    assert all(torch.equal(state[name], value) for name, value in loaded.model.state_dict().items())


@pytest.mark.parametrize("share", [0.9, 0.5, 0.02, 0.001, 0])
def test_a_gguf_file_that_was_cut_off_is_named(tmp_path: Path, share: float) -> None:
    path = tmp_path / "tiny.gguf"
    write(source(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(StageError, match=r"`tiny\.gguf` could not be read as GGUF: .+"):
        pretrained("tiny.gguf", project=tmp_path, dtype="auto", trust_remote_code=False)


PIPELINE = """grape 1

use sft from "std/algorithms"

pipeline p() {
  model base = pretrained("tiny.gguf")
  data sums = jsonl("sums.jsonl") { prompt = "{a} + {b} =", completion = " {sum}" }
  stage one = train(base, sums) { algorithm = sft(), lr = 1e-3 }
  stage two = train(base, sums) { algorithm = sft(), lr = 1e-4 }
  output one as "one"
  output two as "two"
}
"""


def test_a_gguf_file_is_dequantised_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the first of two runs, for all stages of both; and its header is read once."""
    write(source(), tmp_path / "tiny.gguf")
    (tmp_path / "sums.jsonl").write_text('{"a": 1, "b": 2, "sum": 3}\n')
    (tmp_path / "p.grape").write_text(PIPELINE)
    dequantised = counted(monkeypatch, sources, "_gguf")
    headers._read.cache_clear()
    states = []
    for _ in range(2):
        plan = grape.load(tmp_path / "p.grape").plan()
        states.append({stage.name: stage.state for stage in plan.stages})
        for stage in plan.stages:
            if stage.state != "cached":
                work(stage, plan, tmp_path)
    assert set(states[0].values()) == {"run"} and set(states[1].values()) == {"cached"}
    assert len(dequantised) == 1
    assert headers._read.cache_info().misses == 1


def counted(monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> list[Any]:
    calls, real = [], getattr(module, name)

    def call(*args: Any, **how: Any) -> Any:
        calls.append(args)
        return real(*args, **how)

    monkeypatch.setattr(module, name, call)
    return calls


def work(stage: PlannedStage, plan: Plan, project: Path) -> None:
    """A stage as its worker makes it, in this process."""
    job = {
        "stage": stage.model_dump(mode="json"),
        "store": str(project / ".grape" / "store"),
        "kinds": {one.name: one.type for one in plan.stages},
        "keys": {one.name: one.key for one in plan.stages},
        "project": str(project),
    }
    worker._run(job, Silent())


class Silent(worker.Events):
    def __init__(self) -> None:
        self.secrets = []

    def emit(self, event: dict[str, Any]) -> None:
        assert event["event"] != "error"
