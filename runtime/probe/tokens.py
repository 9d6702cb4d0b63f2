"""A tokenizer without its model: what `core.text` asks of one, read from files in a fraction of a
second. No torch, no transformers, no network; code that comes with a model never runs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers


@dataclass(slots=True)
class Light:
    """The part of a tokenizer's interface that prompts, completions and chats need."""

    core: Tokenizer
    eos_token: str | None = None
    bos_token: str | None = None
    pad_token: str | None = None
    chat_template: str | None = None
    stops: list[int] = field(default_factory=list)
    """Ids that end a completion beside the end token."""

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": self.core.encode(text, add_special_tokens=add_special_tokens).ids}

    @property
    def eos_token_id(self) -> int | None:
        return self._id(self.eos_token)

    @property
    def bos_token_id(self) -> int | None:
        return self._id(self.bos_token)

    @property
    def pad_token_id(self) -> int | None:
        return self._id(self.pad_token)

    @property
    def ends(self) -> set[int]:
        """Every id at which sampling stops."""
        own = self.eos_token_id
        return {*self.stops, *([] if own is None else [own])}

    def _id(self, token: str | None) -> int | None:
        found: int | None = self.core.token_to_id(token) if token is not None else None
        return found

    def identity(self) -> str:
        """Equal for tokenizers that give every text the same ids."""
        vocabulary = sorted(self.core.get_vocab().items())
        return hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest()[:16]

    def apply_chat_template(
        self,
        turns: list[dict[str, Any]],
        *,
        add_generation_prompt: bool,
        tokenize: bool = True,
        return_dict: bool = True,
    ) -> dict[str, list[int]]:
        """Ids of a conversation, as `transformers` makes them."""
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        def refuse(message: str) -> None:
            raise ValueError(message)

        space = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        space.globals["raise_exception"] = refuse
        assert self.chat_template is not None
        text = space.from_string(self.chat_template).render(
            messages=turns,
            add_generation_prompt=add_generation_prompt,
            eos_token=self.eos_token or "",
            bos_token=self.bos_token or "",
            pad_token=self.pad_token or "",
        )
        return self(text, add_special_tokens=False)


def from_folder(files: Mapping[str, Path]) -> Light | None:
    """The tokenizer of a Hugging Face folder, given its files by name; None where it has no
    `tokenizer.json`. Raises ValueError when a file cannot be read."""
    if "tokenizer.json" not in files:
        return None
    try:
        core = Tokenizer.from_file(str(files["tokenizer.json"]))
    except Exception as error:  # the library raises bare exceptions
        raise ValueError(f"its tokenizer.json cannot be read: {str(error)[:80]}") from None
    config = _json(files.get("tokenizer_config.json"))
    chat = config.get("chat_template")
    if "chat_template.jinja" in files:
        chat = files["chat_template.jinja"].read_text(encoding="utf-8")
    if isinstance(chat, list):
        named = {item.get("name"): item.get("template") for item in chat if isinstance(item, dict)}
        chat = named.get("default")
    ends = _json(files.get("generation_config.json")).get("eos_token_id")
    return Light(
        core,
        _token(config.get("eos_token")),
        _token(config.get("bos_token")),
        _token(config.get("pad_token")),
        chat if isinstance(chat, str) else None,
        [one for one in (ends if isinstance(ends, list) else [ends]) if isinstance(one, int)],
    )


def _json(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise ValueError(f"its {path.name} is no JSON") from None
    return found if isinstance(found, dict) else {}


def _token(value: object) -> str | None:
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def from_gguf(header: Mapping[str, Any]) -> Light | None:
    """The byte-level BPE of a GGUF header; None for another kind of vocabulary."""
    if header.get("tokenizer.ggml.model") != "gpt2":
        return None
    tokens: list[str] = header["tokenizer.ggml.tokens"]
    merges = [tuple(pair.split(" ", 1)) for pair in header.get("tokenizer.ggml.merges", [])]
    core = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges))
    steps: list[Any] = [pre_tokenizers.ByteLevel(add_prefix_space=False)]
    if header.get("tokenizer.ggml.pre") in ("smollm", "qwen2", "llama-bpe"):
        steps.insert(0, pre_tokenizers.Digits(individual_digits=True))
    core.pre_tokenizer = pre_tokenizers.Sequence(steps)
    core.decoder = decoders.ByteLevel()
    kinds = header.get("tokenizer.ggml.token_type", [])
    special = [t for t, kind in zip(tokens, kinds, strict=False) if kind in (3, 4)]
    core.add_special_tokens([AddedToken(t, normalized=False) for t in special])

    def named(what: str) -> str | None:
        index = header.get(f"tokenizer.ggml.{what}_token_id")
        return tokens[index] if isinstance(index, int) and 0 <= index < len(tokens) else None

    chat = header.get("tokenizer.chat_template")
    return Light(core, named("eos"), named("bos"), named("padding"), chat)
