"""Where a text of a completion lies among its tokens: `span(OPENING, CLOSING)` of formulas.

In: token ids, the tokenizer that reads them, and two texts. Out: 1 at the tokens between the two,
0 elsewhere. The texts themselves are outside; nothing is tokenized anew.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from grape.runtime.core.packing import Example


def span_of(tokenizer: Any, examples: Sequence[Example], markers: tuple[str, str]) -> Tensor:
    """The indicator [N] of a span over what all examples count, one after another: results of
    tools are part of the text and have no value."""
    found = [(one, within(tokenizer, one.completion, *markers)) for one in examples]
    return torch.tensor([row[place] for one, row in found for place in one.places()])


def within(tokenizer: Any, ids: Sequence[int], opening: str, closing: str) -> list[float]:
    """1 for each token that begins between an opening and the next closing text, else 0. Without
    an opening text the span begins with the completion; where none closes, it ends with it."""
    found = [0.0] * len(ids)
    places = _Places(tokenizer, ids)
    for start, stop in _stretches(_text(tokenizer, ids), opening, closing):
        first, last = places.at(start), places.at(stop)
        found[first:last] = [1.0] * (last - first)
    return found


def _stretches(text: str, opening: str, closing: str) -> Iterator[tuple[int, int]]:
    """The first and the last character (exclusive) of each span of a text."""
    at = 0
    while True:
        start = text.find(opening, at)
        if start < 0:
            return
        start += len(opening)
        stop = text.find(closing, start) if closing else len(text)
        yield start, len(text) if stop < 0 else stop
        if stop < 0 or not opening or not closing:
            return
        at = stop + len(closing)


def _text(tokenizer: Any, ids: Sequence[int]) -> str:
    """With special tokens, which may be markers; a character that is not whole yet is left out."""
    made = tokenizer.decode(
        list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
    )
    return str(made).rstrip("\ufffd")


class _Places(Sequence[int]):
    """By token: how many characters stand before it; the last entry counts them all."""

    def __init__(self, tokenizer: Any, ids: Sequence[int]) -> None:
        self.tokenizer, self.ids = tokenizer, ids

    def __len__(self) -> int:
        return len(self.ids) + 1

    def __getitem__(self, place: Any) -> Any:
        return len(_text(self.tokenizer, self.ids[:place]))

    def at(self, character: int) -> int:
        """The first token that begins at a character or after it."""
        return min(bisect_left(self, character), len(self.ids))
