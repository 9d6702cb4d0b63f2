"""Text to token ids: prompts, completions and chats, the same way in training and sampling."""

from __future__ import annotations

from typing import Any

from grape.runtime.artifacts import Item, Place
from grape.runtime.errors import StageError


def prompt_ids(tokenizer: Any, item: Item) -> list[int]:
    """The ids of an item's prompt: plain text as it is, `messages` through the chat template.

    Raises StageError when there is nothing to begin from."""
    if isinstance(item, Place):
        return list(item.ids)
    if item.prompt is not None:
        return encode_prompt(tokenizer, item.prompt)
    turns = list(item.messages or ())
    while turns and turns[-1].get("role") == "assistant":
        turns.pop()
    return _templated(tokenizer, turns, generate=True)


def encode_prompt(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = list(tokenizer(text)["input_ids"])
    while ids and ids[-1] == tokenizer.eos_token_id:
        ids.pop()
    if not ids:
        first = tokenizer.bos_token_id or tokenizer.eos_token_id
        if first is None:
            raise StageError("a prompt is empty, and the tokenizer has no token to begin with")
        return [int(first)]
    return ids


def completion_ids(tokenizer: Any, text: str) -> list[int]:
    """The ids of a completion, with the end-of-sequence token that stops it."""
    ids: list[int] = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    return [*ids, int(tokenizer.eos_token_id)]


def chat_turns(tokenizer: Any, messages: list[dict[str, Any]]) -> list[tuple[list[int], list[int]]]:
    """One (prompt, completion) per assistant turn, as ids.

    Raises StageError for a template whose text for the first turns changes when one is added:
    what would be trained is then not what is sampled."""
    found = []
    for number, message in enumerate(messages):
        if message.get("role") != "assistant":
            continue
        before = _templated(tokenizer, messages[:number], generate=True)
        whole = _templated(tokenizer, messages[: number + 1], generate=False)
        if whole[: len(before)] != before:
            raise StageError(
                "the chat template rewrites earlier turns when an answer is added",
                hint="use a template that keeps its prefix, or prompt and completion texts",
            )
        found.append((before, whole[len(before) :]))
    return found


def _templated(tokenizer: Any, turns: list[dict[str, Any]], *, generate: bool) -> list[int]:
    if not tokenizer.chat_template:
        raise StageError(
            "the data has `messages`, and this model's tokenizer has no chat template",
            hint="use `prompt` and `completion` templates in the data block",
        )
    ids = tokenizer.apply_chat_template(
        turns, add_generation_prompt=generate, tokenize=True, return_dict=True
    )["input_ids"]
    return list(ids)
