"""A published reward model: the layout that transformers reads as a sequence classifier.

In comes a copied model folder and the heads that lie beside the model in the store. Only files are
changed: the score head joins the weights, and the configuration names the classifier's class.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from grape.runtime.artifacts import HEADS

WEIGHTS, INDEX, SHARD = "model.safetensors", "model.safetensors.index.json", "score.safetensors"


def with_score(stored: Path, folder: Path) -> bool:
    """Give a copied model its score head, so that `AutoModelForSequenceClassification` loads it;
    whether there was one."""
    heads = load_file(stored / HEADS)
    if "score" not in heads:
        return False
    _join(folder, heads["score"])
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config["architectures"] = [
        name.replace("ForCausalLM", "ForSequenceClassification").replace(
            "LMHeadModel", "ForSequenceClassification"
        )
        for name in config["architectures"]
    ]
    config |= {"id2label": {"0": "score"}, "label2id": {"score": 0}}
    path.write_text(json.dumps(config, indent=2), encoding="utf-8")
    return True


def _join(folder: Path, weight: Tensor) -> None:
    index = folder / INDEX
    if index.is_file():  # a further shard
        listed = json.loads(index.read_text(encoding="utf-8"))
        listed["weight_map"]["score.weight"] = SHARD
        index.write_text(json.dumps(listed, indent=2), encoding="utf-8")
        save_file({"score.weight": weight}, folder / SHARD, metadata={"format": "pt"})
        return
    tensors = load_file(folder / WEIGHTS) | {"score.weight": weight}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
