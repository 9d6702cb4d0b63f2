"""Completions of several turns: the model writes, tools answer, and it goes on.

In: a policy, items and the tools. Out: rollouts whose `ids` hold everything in order: what the
model drew, and between it the tokens of results, which are read and never learned from. Nothing is
tokenised twice: a result is put behind the very ids that were drawn, one token a step like any
other, so that a row keeps its cache and does not depend on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from grape.runtime.artifacts import Completion, Item, Rollouts
from grape.runtime.core.models import Policy
from grape.runtime.core.rollout import generate_for
from grape.runtime.core.rows import Row
from grape.runtime.core.sampling import Stops, decoded
from grape.runtime.core.text import after_turn, knows_tools
from grape.runtime.errors import StageError
from grape.runtime.tools import CLOSE, Toolbox, chat_calls, tagged_calls, told


@dataclass(slots=True)
class _Talk:
    """One completion under way."""

    start: int = 0
    """Where the present turn begins."""
    queue: list[int] = field(default_factory=list)
    """Tokens of a result that are still to be read."""
    spans: list[tuple[int, int]] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    results: list[str] = field(default_factory=list)
    answered: bool = True
    """Whether the last turn is an answer, and not one more call."""


class Talks:
    """The conversations of all completions; `core.rollout` asks it after every token."""

    def __init__(
        self,
        policy: Policy,
        items: Sequence[Item],
        sampler: Mapping[str, Any],
        how: Mapping[str, Any],
        project: Path,
    ) -> None:
        self.items, self.sampler = items, sampler
        self.tokenizer, self.ends = policy.tokenizer, set(policy.eos_ids)
        self.most, self.stop = how["max_tokens"], list(how["stop"])
        self.toolbox = Toolbox(sampler, project)
        self.chat = _chats(sampler["format"], policy.tokenizer, items)
        self.tools = self.toolbox.schemas() if self.chat else None
        self.stops = Stops(policy.tokenizer, tuple(self.stop))
        self.calls = Stops(policy.tokenizer, () if self.chat else (CLOSE,))
        self.talks: dict[tuple[int, int], _Talk] = {}

    def _of(self, row: Row) -> _Talk:
        return self.talks.setdefault((row.item, row.sample), _Talk())

    def read(self, rows: Sequence[Row], tokens: Tensor) -> Tensor:
        """The next token of every row: the drawn one, or the next of a result."""
        given = {n: queue.pop(0) for n, row in enumerate(rows) if (queue := self._of(row).queue)}
        if not given:
            return tokens
        tokens = tokens.clone()
        for number, token in given.items():
            tokens[number] = token
        return tokens

    def ended(self, row: Row) -> bool:
        """Whether a row is finished after its newest token. A call is answered here."""
        talk = self._of(row)
        if len(row.ids) <= talk.start:
            return False  # a result is being read
        turn = row.ids[talk.start :]
        called = self.calls.met(turn)
        if called or turn[-1] in self.ends or self.stops.met(turn):
            return self._turned(row, talk)
        longest = self.sampler["turn_tokens"]
        row.truncated = len(row.ids) == self.most or len(turn) == longest
        if row.truncated:
            talk.texts.append(self._text(turn))
        return row.truncated

    def _text(self, turn: list[int]) -> str:
        """A turn with the tags that a tokenizer may hold for special, without its end."""
        ids = turn[:-1] if turn[-1] in self.ends else turn
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))

    def _turned(self, row: Row, talk: _Talk) -> bool:
        """A turn is over: an answer ends the row, a call is made and its result put before it."""
        text = self._text(row.ids[talk.start :])
        talk.texts.append(text)
        calls = chat_calls(text) if self.chat else tagged_calls(text)
        if not calls:
            return True
        talk.answered = False
        if len(talk.texts) < self.sampler["max"]:
            results = [self.toolbox.answer(call) for call in calls]
            results = [self._cut(result) for result in results]
            found = self._between(row, [call.name or "error" for call in calls], results)
            end = len(row.ids) + len(found)
            if end < self.most:
                talk.results.append("\n".join(results))
                talk.spans.append((len(row.ids), end))
                talk.queue, talk.start, talk.answered = found, end, True
                return False
        row.truncated = True
        return True

    def _between(self, row: Row, names: Sequence[str], results: Sequence[str]) -> list[int]:
        """The tokens between a call and the next turn."""
        text = told(results)
        if self.chat:
            item = self.items[row.item]
            text = after_turn(self.tokenizer, item, self.tools or [], names, results)
            if row.ids[-1] in self.ends:
                text = text.removeprefix(self.tokenizer.decode(row.ids[-1:]))
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _cut(self, result: str) -> str:
        """At most `max_result` tokens of a result, which may be megabytes long."""
        most = self.sampler["max_result"]
        result = result[: 64 * most]
        ids = self.tokenizer(result, add_special_tokens=False)["input_ids"]
        return result if len(ids) <= most else decoded(self.tokenizer, list(ids[:most]))

    def finished(self, row: Completion, item: int, sample: int) -> Completion:
        """A completion with its turns: log-probs and steps of what the model drew alone."""
        talk = self.talks[item, sample]
        read = {place for start, end in talk.spans for place in range(start, end)}
        own = [place for place in range(len(row.ids)) if place not in read]
        bounds = [0, *(end for _, end in talk.spans)]
        ends = [*(start for start, _ in talk.spans), len(row.ids)]
        results = [*talk.results, *[""] * (len(talk.texts) - len(talk.results))]
        turns = [{"text": t, "result": r} for t, r in zip(talk.texts, results, strict=True)]
        whole = self.tokenizer.decode(row.ids, skip_special_tokens=True)
        return replace(
            row,
            text=self._answer(row.ids[bounds[-1] :]) if talk.answered else "",
            logps=[row.logps[place] for place in own],
            observed=[list(span) for span in talk.spans],
            path=[[n, end - at] for n, (at, end) in enumerate(zip(bounds, ends, strict=True))],
            turns=turns,
            columns={**row.columns, "transcript": str(whole)},
        )

    def _answer(self, turn: list[int]) -> str:
        text = decoded(self.tokenizer, turn)
        cuts = [at for stop in self.stop if (at := text.find(stop)) >= 0]
        return text[: min(cuts)] if cuts else text


def _chats(form: str, tokenizer: Any, items: Sequence[Item]) -> bool:
    """Whether calls are written as the chat template says."""
    able = knows_tools(tokenizer) and all(item.prompt is None for item in items)
    if form == "chat" and not able:
        raise StageError(
            '`format = "chat"` needs data of `messages` and a chat template that knows tools',
            hint='write `format = "tags"`, and show the model how a call looks',
        )
    return able and form != "tags"


def conversed(
    policy: Policy,
    items: Sequence[Item],
    sampler: Mapping[str, Any],
    how: dict[str, Any],
    project: Path,
) -> Rollouts:
    """`group` completions of each item, each of up to `max` turns; `how` are the arguments of
    `generate_for`, whose `max_tokens` hold all turns and results."""
    talks = Talks(policy, items, sampler, how, project)
    made = generate_for(policy, items, **how, talks=talks)
    group = how["group"]
    rows = [talks.finished(row, n // group, n % group) for n, row in enumerate(made.rows)]
    shape = {"max": sampler["max"], "chat": talks.chat}
    return replace(
        made, rows=rows, sampling={**made.sampling, "sampler": {"kind": "turns", **shape}}
    )
