"""Critiques: a critic says in words what is wrong with a completion, item by item.

In come what critics are told (`questions.find_fault`) and critics, here or behind a server; out
comes a text for each, or why there is none. Judging is not done here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grape.runtime.artifacts import Item
from grape.runtime.critics.questions import Failed
from grape.runtime.critics.server import Served

if TYPE_CHECKING:
    from grape.runtime.core.models import Policy


@dataclass(frozen=True, slots=True)
class Critique:
    """What a critic says; "" where what it `wrote` cannot be read."""

    text: str
    wrote: str = ""


@dataclass(frozen=True, slots=True)
class Writing:
    """How critiques are written: `tokens` and `rows` bound those of a model of the pipeline,
    `memory` is the folder of remembered answers of servers."""

    tokens: int
    rows: int
    seed: int
    round: int
    memory: Path
    done: Callable[[int], None]


def critiques(critic: Any, told: Sequence[str], how: Writing) -> list[Critique | Failed]:
    """The critique that answers each text. Raises StageError where a server cannot be used."""
    if isinstance(critic, Served):
        return _served(critic, told, how)
    return _here(critic, told, how)


def _served(served: Served, told: Sequence[str], how: Writing) -> list[Critique | Failed]:
    from grape.runtime.critics.remote import Asked, body_of, texts_of

    form = 'Reply with a JSON object and nothing else: {"critique": the critique}'
    asked = [
        Asked(
            body_of(served, f"{text}\n\n{form}", "critique", {"critique": {"type": "string"}}),
            lambda written: bool(read_critique(written)),
        )
        for text in told
    ]
    texts = texts_of(served, asked, how.done, memory=how.memory)
    return [
        text if isinstance(text, Failed) else Critique(read_critique(text), text) for text in texts
    ]


def read_critique(text: str) -> str:
    """The critique in what a server wrote; "" where there is none. Words without any JSON are one:
    not every server keeps to a form."""
    from grape.runtime.critics.remote import objects_in

    for found in objects_in(text):
        if isinstance(found.get("critique"), str):
            return " ".join(found["critique"].split())
    return "" if "{" in text else " ".join(text.split())


def _here(policy: Policy, told: Sequence[str], how: Writing) -> list[Critique | Failed]:
    """The likeliest words of a model, up to the end of a line where it has no chat template."""
    from grape.runtime.core.rollout import generate_for
    from grape.runtime.core.text import prompt_ids

    chat = bool(policy.tokenizer.chat_template)
    items = [
        Item(str(number), messages=[{"role": "user", "content": text}])
        if chat
        else Item(str(number), prompt=f"{text}\nCritique:")
        for number, text in enumerate(told)
    ]
    made: list[Critique | Failed] = [Critique("")] * len(items)
    room = policy.context_length - how.tokens
    fitting: list[Item] = []
    for number, item in enumerate(items):
        size = len(prompt_ids(policy.tokenizer, item))
        if size <= room:
            fitting.append(item)
        else:
            made[number] = Failed(f"the question has {size} tokens, and the critic takes {room}")
    if not fitting:
        return made
    rollouts = generate_for(
        policy,
        fitting,
        group=1,
        temperature=0.0,
        top_p=1.0,
        max_tokens=how.tokens,
        stop=() if chat else ("\n",),
        seed=how.seed,
        round=how.round,
        emit=lambda event: how.done(event["done"]),
        rows=how.rows,
    )
    for row in rollouts.rows:
        made[int(row.item)] = Critique(" ".join(row.text.split()), row.text)
    return made
