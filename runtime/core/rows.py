"""What a decoding works on: its settings, the completions under way, and what becomes of one.

In: items and drawn tokens. Out: `Completion` values. Nothing here runs a model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from torch import Tensor

from grape.runtime.artifacts import Completion, Item
from grape.runtime.core.models import Policy
from grape.runtime.core.sampling import decoded
from grape.runtime.errors import StageError


@dataclass(frozen=True, slots=True)
class Sampling:
    group: int
    temperature: float
    top_p: float
    max_tokens: int
    stop: tuple[str, ...]
    seed: int
    round: int
    rows: int
    """Completions decoded side by side."""
    compact: bool
    """Finished rows leave at once, or stay until the last one beside them is finished."""
    own_layers: bool = True
    """Run layers that are known here as they are written here, or the model's own."""
    keep: int = 0
    """Most bytes of activations that are kept for a step that learns from the completions."""
    pack: int = 0
    """Most bytes of a copy of the weights that is laid out for the processor."""


@dataclass(slots=True)
class Row:
    """A completion under way: of which item, which of its completions, and what was drawn."""

    item: int
    sample: int
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    truncated: bool = False
    done: bool = False
    stem: int = 0
    """Where its prompt begins on the tape."""
    places: list[int] = field(default_factory=list)
    """Where its tokens are there."""


@dataclass(frozen=True, slots=True)
class Begun:
    """The first tokens of a completion that is to be gone on with, and their log-probs; `name`
    makes its random numbers its own."""

    name: str
    ids: list[int]
    logps: list[float]


class Turning(Protocol):
    """What puts other tokens between those that are drawn: see `core.turns`."""

    tools: list[dict[str, Any]] | None
    """What the chat template shows of them."""

    def read(self, rows: Sequence[Row], tokens: Tensor) -> Tensor: ...
    def ended(self, row: Row) -> bool: ...


def names_of(items: Sequence[Item]) -> list[str]:
    """The items' ids; one that comes again gets a name, and so completions, of its own."""
    times = Counter[str]()
    names = []
    for item in items:
        names.append(f"{item.id}#{times[item.id]}" if times[item.id] else item.id)
        times[item.id] += 1
    return names


def check_room(
    policy: Policy, items: Sequence[Item], prompts: list[list[int]], max_tokens: int
) -> None:
    for item, prompt in zip(items, prompts, strict=True):
        if len(prompt) + max_tokens > policy.context_length:
            raise StageError(
                f"The prompt of item {item.id} has {len(prompt)} tokens; with {max_tokens} more it "
                f"does not fit the model's {policy.context_length}.",
                hint="Lower `max_tokens` or shorten the prompt.",
            )


def completion_of(
    policy: Policy, item: Item, prompt: list[int], row: Row, how: Sampling
) -> Completion:
    text = decoded(policy.tokenizer, row.ids)
    cuts = [at for stop in how.stop if (at := text.find(stop)) >= 0]
    shown = item.prompt
    if shown is None:
        shown = str(cast(Any, policy.tokenizer).decode(prompt))
    return Completion(
        item=item.id,
        group=row.item,
        prompt=shown,
        prompt_ids=prompt,
        text=text[: min(cuts)] if cuts else text,
        ids=row.ids,
        logps=row.logps,
        truncated=row.truncated,
        answer=item.answer,
        columns=item.columns,
    )
