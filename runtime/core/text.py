"""Text to token ids: prompts, completions and chats, the same way in training and sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from grape.runtime.artifacts import Item, Place
from grape.runtime.errors import StageError


def prompt_ids(tokenizer: Any, item: Item, tools: list[dict[str, Any]] | None = None) -> list[int]:
    """The ids of an item's prompt: plain text as it is, `messages` through the chat template, which
    is shown the tools.

    Raises StageError when there is nothing to begin from."""
    if isinstance(item, Place):
        return list(item.ids)
    if item.prompt is not None:
        return encode_prompt(tokenizer, item.prompt)
    return _templated(tokenizer, _asked(item), generate=True, tools=tools)


def _asked(item: Item) -> list[dict[str, Any]]:
    """A conversation up to where the model is to speak."""
    turns = list(item.messages or ())
    while turns and turns[-1].get("role") == "assistant":
        turns.pop()
    return turns


def knows_tools(tokenizer: Any) -> bool:
    """Whether there is a chat template that shows tools."""
    return "tools" in (tokenizer.chat_template or "")


_SPOKEN = "grape0spoke0here"


def after_turn(
    tokenizer: Any,
    item: Item,
    tools: list[dict[str, Any]],
    names: Sequence[str],
    results: Sequence[str],
) -> str:
    """What the chat template writes between what a model said and where it speaks again: the end of
    its turn, the results of its calls, the head of the next turn.

    Raises StageError for a template that hides what was said, or refuses results."""
    said = {"role": "assistant", "content": _SPOKEN}
    answers = [
        {"role": "tool", "name": name, "content": result}
        for name, result in zip(names, results, strict=True)
    ]
    try:
        text = tokenizer.apply_chat_template(
            [*_asked(item), said, *answers], tools=tools, add_generation_prompt=True, tokenize=False
        )
    except Exception as error:  # a template is a program of somebody else's
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise StageError(
            f"the chat template refuses the result of a tool: {reason}",
            hint='write `format = "tags"` in `turns(…)`',
        ) from None
    _, spoken, after = text.rpartition(_SPOKEN)
    if not spoken:
        raise StageError(
            "the chat template leaves out what the model said before a result",
            hint='write `format = "tags"` in `turns(…)`',
        )
    return str(after)


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


def _templated(
    tokenizer: Any,
    turns: list[dict[str, Any]],
    *,
    generate: bool,
    tools: list[dict[str, Any]] | None = None,
) -> list[int]:
    if not tokenizer.chat_template:
        raise StageError(
            "the data has `messages`, and this model's tokenizer has no chat template",
            hint="use `prompt` and `completion` templates in the data block",
        )
    shown = {"tools": tools} if tools else {}
    ids = tokenizer.apply_chat_template(
        turns, add_generation_prompt=generate, tokenize=True, return_dict=True, **shown
    )["input_ids"]
    return list(ids)
