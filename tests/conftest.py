"""A project folder in which the examples of every finding can be checked, probed and run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

REWARDS = '''"""Rewards of the examples."""


def short(completion: str, **columns: object) -> float:
    return float(len(completion) < 4)


def all_at_once(completions: list[str]) -> list[float]:
    return [0.0 for _ in completions]
'''
TOOLS = """def calculator(expression: str) -> int:
    return sum(int(number) for number in expression.split("+"))


def unlucky() -> str:
    raise RuntimeError("out of luck")
"""
LUCKY = """import random


def lucky(completion: str) -> float:
    return random.random()
"""
LOUD = """open("touched", "w").write("ran")


def short(completion: str) -> float:
    return 1.0
"""
FILES = (("rewards", REWARDS), ("lucky", LUCKY), ("loud", LOUD), ("tools", TOOLS))
TURN = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ END }}{% endfor %}"
ASK = "{% if add_generation_prompt %}<|assistant|>{% endif %}"
TEMPLATES = {
    "chat": TURN.replace("{{ END }}", "<|end|>") + ASK,
    "open": TURN.replace("{{ END }}", "<|im_end|>") + ASK,
    "rewriting": "{{ messages | length }}" + TURN.replace("{{ END }}", "<|end|>") + ASK,
    "endless": TURN.replace("{{ END }}", "<|end|>") + ASK,
    "mamba": TURN.replace("{{ END }}", "<|end|>") + ASK,
    "scorer": TURN.replace("{{ END }}", "<|end|>") + ASK,
    "broken": "",
}


def write_project(folder: Path) -> Path:
    """Data, rewards and model folders without weights below `folder / "project"`."""
    project = folder / "project"
    (project / "data").mkdir(parents=True)
    rows = [
        {"a": a, "b": b, "sum": a + b, "note": "", "now_and_then": "x" if a > 13 else ""}
        for a, b in zip(range(11, 23), range(21, 33), strict=True)
    ]
    _lines(project / "data" / "sums.jsonl", rows)
    _lines(
        project / "data" / "chat.jsonl",
        [
            {
                "messages": [
                    {"role": "user", "content": f"{row['a']} + {row['b']}?"},
                    {"role": "assistant", "content": str(row["sum"])},
                    {"role": "user", "content": "Sure?"},
                    {"role": "assistant", "content": "Yes."},
                ]
            }
            for row in rows
        ],
    )
    (project / "data" / "broken.jsonl").write_text('{"a": 1,\n', encoding="utf-8")
    for name, text in FILES:
        (project / f"{name}.py").write_text(text, encoding="utf-8")
    (project / "chain").mkdir()
    for number in range(60):
        text = f'grape 1\n\nuse a{number + 1} from "./c{number + 1}.grape"\n\n'
        text += f"reward a{number}() = a{number + 1}()\n"
        (project / "chain" / f"c{number}.grape").write_text(text, encoding="utf-8")
    for name, template in TEMPLATES.items():
        _model(project / "models" / name, template)
    return project


def _lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _model(folder: Path, template: str) -> None:
    from grape.runtime.core.tokenizer import train_core

    folder.mkdir(parents=True)
    kind = "mamba" if folder.name == "mamba" else "llama"
    config: dict[str, Any] = {"model_type": kind, "max_position_embeddings": 256}
    if folder.name == "scorer":
        config |= {"architectures": ["LlamaForSequenceClassification"], "id2label": {"0": "score"}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    core = train_core(iter(()), 0)
    core.add_special_tokens(["<|im_end|>", "<|user|>", "<|assistant|>"])
    core.save(str(folder / "tokenizer.json"))
    if folder.name == "broken":
        (folder / "tokenizer.json").write_text('{"model": 7', encoding="utf-8")
    about = {"chat_template": template, "eos_token": "<|end|>", "pad_token": "<|end|>"}
    if folder.name == "endless":
        del about["eos_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder for pipeline files, with what the examples name."""
    return write_project(tmp_path)
