"""Completions of prompts: a batched decode loop over a transformers model.

In: a policy and data items. Out: `Rollouts` with ids, texts and the log-probability of every token
under the distribution it was drawn from. A prompt is run once for its whole group; a finished row
makes room for the next prompt. What a row draws does not depend on the rows beside it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor, nn

from grape.runtime import ranks
from grape.runtime.artifacts import Completion, Item, Rollouts
from grape.runtime.context import Emit
from grape.runtime.core.attention import (
    Forest,
    Slots,
    Tree,
    attending,
    check_served,
)
from grape.runtime.core.cache import Placing, RowCache
from grape.runtime.core.layers import Body, served
from grape.runtime.core.logprob import head_of, logits_of
from grape.runtime.core.models import Policy
from grape.runtime.core.products import InEights, Packed, packable, size_of
from grape.runtime.core.rows import (
    Begun,
    Row,
    Sampling,
    Turning,
    check_room,
    completion_of,
    names_of,
)
from grape.runtime.core.sampling import Stops, draw, uniform
from grape.runtime.core.tape import Tape, cached, version
from grape.runtime.core.tape import begun as tape_begun
from grape.runtime.core.text import prompt_ids

ROWS = 64
"""Completions decoded side by side."""
PACKED = 4 << 30
"""Most bytes of weights that are laid out anew for decoding."""
PAYS = 8
"""Fewest tokens of a completion for which that is worth the time."""


@torch.no_grad()
def generate_for(
    policy: Policy,
    items: Sequence[Item],
    *,
    group: int,
    temperature: float,
    top_p: float,
    max_tokens: int,
    stop: Sequence[str],
    seed: int,
    round: int,
    emit: Emit,
    rows: int = ROWS,
    compact: bool = True,
    own_layers: bool = True,
    keep_activations: int = 0,
    pack_weights: int = PACKED,
    begun: Sequence[Begun] = (),
    talks: Turning | None = None,
    finished: Callable[[Sequence[Completion]], None] | None = None,
) -> Rollouts:
    """`group` completions of each item, in the order of the items; `group` numbers of the result
    count items from 0. `begun`, one for each item, is what their completions begin with; `talks`
    says when one is over; `finished` hears of each group when its last completion is. Raises
    StageError when a prompt leaves no room for `max_tokens`, or for a model whose layers keep more
    than keys and values."""
    alone = not begun and talks is None and ranks.size() == 1
    keep = keep_activations if alone else 0
    texts, way = tuple(stop), (rows, compact, own_layers, keep, pack_weights)
    how = Sampling(group, temperature, top_p, max_tokens, texts, seed, round, *way)
    check_served(policy.network)
    tools = talks.tools if talks is not None else None
    prompts = [prompt_ids(policy.tokenizer, item, tools) for item in items]
    check_room(policy, items, prompts, how.max_tokens)
    was_training = policy.model.training
    policy.model.eval()
    begun = begun or [Begun(name, [], []) for name in names_of(items)]
    mine = ranks.share([len(prompt) + group * max_tokens for prompt in prompts])
    groups: dict[int, list[Completion]] = {}

    def complete(place: int, rows: list[Row]) -> None:
        item = mine[place]
        own = [replace(row, item=item) for row in rows]
        groups[item] = [completion_of(policy, items[item], prompts[item], row, how) for row in own]
        if finished is not None:
            finished(groups[item])

    if keep:
        policy.tape = None
    if mine:
        shared = [begun[item] for item in mine], [prompts[item] for item in mine]
        decoding = _Decoding(policy, *shared, how, emit, complete, talks)
        decoding.run()
        policy.tape = decoding.taped() if keep else policy.tape
    groups = {item: rows for part in ranks.gathered(groups) for item, rows in part.items()}
    policy.model.train(was_training)
    made = [row for item in range(len(items)) for row in groups[item]]
    sampling = {
        "group": group,
        "temperature": temperature,
        "top_p": top_p,
        "max_tokens": max_tokens,
        "stop": list(stop),
        "engine": "transformers",
    }
    return Rollouts(made, sampling, str(policy.updates))


class _Decoding:
    """Rows that are being decoded, the prompts that wait, and the cache they share."""

    def __init__(
        self,
        policy: Policy,
        begun: Sequence[Begun],
        prompts: list[list[int]],
        how: Sampling,
        emit: Emit,
        complete: Callable[[int, list[Row]], None],
        talks: Turning | None = None,
    ) -> None:
        self.talks = talks
        self.network = policy.network
        self.device = policy.device
        self.names = [one.name for one in begun]
        self.prompts = [[*p, *one.ids] for p, one in zip(prompts, begun, strict=True)]
        self.how, self.emit, self.complete = how, emit, complete
        self.left = [how.group] * len(prompts)
        """Completions of each prompt that are not finished."""
        self.head: nn.Module | Packed | InEights
        self.head, self.after = head_of(self.network)
        self.ends = set(policy.eos_ids)
        self.stops = Stops(policy.tokenizer, how.stop)
        self.rows = [
            Row(item, sample, list(one.ids), list(one.logps))
            for item, one in enumerate(begun)
            for sample in range(how.group)
        ]
        self.waiting = deque(range(len(prompts)))
        self.live: list[Row] = []
        size = min(max(how.rows, how.group), len(self.rows))
        self.cache = self._cache(size)
        self.hidden: Tensor | None = None
        self.finished = self.told = 0
        own = how.own_layers and served(self.network)
        self.body = Body(self.network) if own else None
        self._pack(size)
        self.tape = self._tape() if own and how.keep and self.cache.stems else None

    def _tape(self) -> Tape | None:
        most = sum(map(len, self.prompts)) + len(self.rows) * (self.how.max_tokens - 1)
        return tape_begun(self.network, most, self.how.keep)

    def _pack(self, rows: int) -> None:
        """Lay out what is worth it for steps of so many rows: layers known here, and the head."""
        head, left = self.head, self.how.pack
        if self.how.max_tokens < PAYS or rows < 2 or not packable(head):
            return
        if self.body is not None:
            self.body, left = self.body.packed(rows, left)
        if size_of([head]) <= left:
            self.head = Packed([head], rows)
        elif self.how.pack:
            self.head = InEights(head)

    def _cache(self, size: int) -> RowCache:
        """Prompts are kept apart where several rows share one and plain attention will do."""
        config, how = self.network.config, self.how
        height = max(map(len, self.prompts), default=0)
        plain = not any(
            getattr(config, name, None) for name in ("sliding_window", "attn_logit_softcapping")
        )
        if how.group > 1 and plain and self.device.type == "cpu":
            stems = min(size, len(self.prompts))
            return RowCache(size, how.max_tokens, stems, height, self.device)
        return RowCache(size, height + how.max_tokens, 0, 0, self.device)

    def run(self) -> None:
        """Draw all rows to their end; `complete` hears of each prompt whose rows are finished."""
        while self.waiting or self.live:
            if self._room():
                self._admit()
            tokens = self._draw()
            tokens = self._leave(tokens)
            if self.live:
                self._forward(tokens)

    def _room(self) -> bool:
        """Whether prompts are to come in: a few at a time, since each time costs a forward pass."""
        if not self.waiting or not self.live:
            return bool(self.waiting)
        free = self.cache.rows - self.cache.count
        return self.how.compact and free >= max(self.how.group, self.cache.rows // 8)

    def _admit(self) -> None:
        """Run waiting prompts, as many as there is room for, as one packed row."""
        ids: list[int] = []
        positions: list[int] = []
        places, trees, lasts = [], [], []
        row, group = self.cache.count, self.how.group
        stems = self.cache.free_stems() or [0] * len(self.waiting)
        while self.waiting and row + group <= self.cache.rows:
            item = self.waiting.popleft()
            prompt, start = self.prompts[item], len(ids)
            ids += prompt
            positions += range(len(prompt))
            places.append(Placing(start, len(ids), row, group, stems.pop(0)))
            trees.append(Tree(start, len(ids), len(ids), ()))
            lasts.append(len(ids) - 1)
            self.live += self.rows[item * group : (item + 1) * group]
            row += group
        self.cache.admit(places)
        made = self._through(ids, positions, Forest(tuple(trees)))
        if self.tape is not None:
            first = self.tape.used - len(ids)
            for place in places:
                for entered in self.live[place.row : place.row + group]:
                    entered.stem = first + place.start
        new = made[torch.tensor(lasts, device=self.device)].repeat_interleave(group, 0)
        self.hidden = new if self.hidden is None else torch.cat([self.hidden, new])

    def _through(
        self, ids: list[int] | Tensor, positions: list[int] | Tensor, view: Forest | Slots
    ) -> Tensor:
        """Last hidden states [n, width] of new tokens [n]: of a packed row of prompts, or of one
        token of every live row."""
        fed, at = (torch.as_tensor(x, device=self.device) for x in (ids, positions))
        if self.body is None:
            axis = 0 if isinstance(view, Forest) else 1
            with attending(self.network, view):
                found = self.network.base_model(
                    input_ids=fed.unsqueeze(axis),
                    attention_mask=None,
                    position_ids=at.unsqueeze(axis),
                    past_key_values=self.cache,
                    use_cache=True,
                )
            return cast(Tensor, found.last_hidden_state.squeeze(axis))
        attend = cached(self.body, self.cache, view)
        if self.tape is None:
            return self.body.forward(fed, at, attend)
        start = self.tape.take(len(fed))
        return self.body.forward(fed, at, attend, self.tape.kept, start)

    def taped(self) -> Tape | None:
        """What was kept, with every completion noted; nothing if a weight changed meanwhile."""
        tape = self.tape
        if tape is None or tape.version != version(self.network):
            return None
        for row in self.rows:
            tape.note(self.prompts[row.item], row.ids, row.stem, row.places)
        return tape

    def _draw(self) -> Tensor:
        """The next token of every live row, noted with its log-prob."""
        how = self.how
        uniforms = torch.tensor(
            [
                uniform(how.seed, how.round, self.names[row.item], row.sample, len(row.ids))
                for row in self.live
            ],
            dtype=torch.float64,
            device=self.device,
        )
        assert self.hidden is not None
        logits = logits_of(self.head, self.after, self.hidden)
        tokens, logps = draw(logits, uniforms, how.temperature, how.top_p)
        if self.talks is not None:
            tokens = self.talks.read(self.live, tokens)
        for row, token, logp in zip(self.live, tokens.tolist(), logps.tolist(), strict=True):
            if not row.done:
                row.ids.append(token)
                row.logps.append(logp)
        return tokens

    def _leave(self, tokens: Tensor) -> Tensor:
        """Finished rows leave the cache; the tokens of those that stay."""
        for row in self.live:
            if not row.done and self._ended(row):
                self._finish(row)
        going = [number for number, row in enumerate(self.live) if not row.done]
        self._tell(last=not going and not self.waiting)
        if len(going) == len(self.live) or (going and not self.how.compact):
            return tokens
        order = self.cache.keep(going)
        self.live = [self.live[number] for number in order]
        if not order:
            self.hidden = None
        return tokens[torch.tensor(order, dtype=torch.long, device=self.device)]

    def _finish(self, row: Row) -> None:
        row.done = True
        self.finished += 1
        self.left[row.item] -= 1
        if not self.left[row.item]:
            group = self.how.group
            self.complete(row.item, self.rows[row.item * group : (row.item + 1) * group])

    def _ended(self, row: Row) -> bool:
        if self.talks is not None:
            return self.talks.ended(row)
        if row.ids[-1] in self.ends or self.stops.met(row.ids):
            return True
        row.truncated = len(row.ids) == self.how.max_tokens
        return row.truncated

    def _tell(self, *, last: bool) -> None:
        if last or self.finished - self.told >= self.cache.rows // 2 + 1:
            self.told = self.finished
            done = {"done": self.finished, "total": len(self.rows), "unit": "completions"}
            self.emit({"event": "progress", **done})

    def _forward(self, tokens: Tensor) -> None:
        """One token more for every live row."""
        places = self.cache.advance()
        assert self.hidden is not None
        self.hidden = self._through(tokens, places, self.cache.view(self.hidden.dtype))
        if self.tape is not None:
            start = self.tape.used - len(self.live)
            for number, row in enumerate(self.live):
                row.places.append(start + number)
