"""Completions of prompts: a batched decode loop over a transformers model.

In: a policy and data items. Out: `Rollouts` with ids, texts and the log-probability of every token
under the distribution it was drawn from. A prompt is run once for its whole group; finished rows
leave the batch. Each token's random number depends only on seed, round, item, sample and index.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from transformers import DynamicCache

from grape.runtime.artifacts import Completion, Item, Rollouts
from grape.runtime.context import Emit
from grape.runtime.core.logprob import head_of, logits_of
from grape.runtime.core.models import Policy
from grape.runtime.core.text import prompt_ids
from grape.runtime.errors import StageError

ROWS = 64
"""Completions decoded side by side."""
BLOCK = 256


def uniform(seed: int, round: int, item: str, sample: int, index: int) -> float:
    """The random number in [0, 1) of one token."""
    key = f"{seed}/{round}/{item}/{sample}/{index}".encode()
    return (int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 11) / (1 << 53)


def draw(logits: Tensor, uniforms: Tensor, temperature: float, top_p: float) -> tuple[Tensor, ...]:
    """Tokens [B] and their log-probabilities [B] for logits [B, V] and uniforms [B]; the likeliest
    token at temperature 0, whose log-probability is the model's own."""
    if temperature == 0:
        ids = logits.argmax(-1)
        return ids, torch.log_softmax(logits, -1).gather(1, ids[:, None])[:, 0]
    log_probs = torch.log_softmax(logits / temperature, -1)
    if top_p < 1:
        log_probs = _nucleus(log_probs, top_p)
    probs = torch.nn.functional.pad(log_probs.exp(), (0, -log_probs.shape[1] % BLOCK))
    blocks = probs.double().view(len(probs), -1, BLOCK)
    ends = blocks.sum(-1).cumsum(-1)
    wanted = uniforms[:, None] * ends[:, -1:]
    block = torch.searchsorted(ends, wanted, right=True).clamp_(max=ends.shape[1] - 1)
    before = torch.where(block > 0, ends.gather(1, (block - 1).clamp_(min=0)), 0.0)
    inner = blocks.gather(1, block[:, :, None].expand(-1, -1, BLOCK))[:, 0].cumsum(-1)
    left = torch.minimum(wanted - before, inner[:, -1:] * (1 - 1e-12))
    ids = (block * BLOCK + torch.searchsorted(inner, left, right=True))[:, 0]
    ids.clamp_(max=logits.shape[1] - 1)
    return ids, log_probs.gather(1, ids[:, None])[:, 0]


def _nucleus(log_probs: Tensor, top_p: float) -> Tensor:
    """Keep the likeliest tokens that together reach `top_p`, and renormalise."""
    ordered, order = log_probs.sort(-1, descending=True)
    before = ordered.exp().cumsum(-1) - ordered.exp()
    kept = torch.zeros_like(before, dtype=torch.bool).scatter(1, order, before < top_p)
    return torch.log_softmax(log_probs.masked_fill(~kept, -torch.inf), -1)


@dataclass(frozen=True, slots=True)
class Sampling:
    group: int
    temperature: float
    top_p: float
    max_tokens: int
    stop: tuple[str, ...]
    seed: int
    round: int


@dataclass(slots=True)
class _Row:
    item: int
    sample: int
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    truncated: bool = False


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
) -> Rollouts:
    """`group` completions of each item, in the order of the items; `group` numbers of the result
    count items from 0. Raises StageError when a prompt leaves no room for `max_tokens`."""
    how = Sampling(group, temperature, top_p, max_tokens, tuple(stop), seed, round)
    prompts = [prompt_ids(policy.tokenizer, item) for item in items]
    _check_room(policy, items, prompts, max_tokens)
    was_training = policy.model.training
    policy.model.eval()
    rows: list[Completion] = []
    size = max(1, ROWS // group)
    for at in range(0, len(items), size):
        part = slice(at, at + size)
        done = _decode(policy, prompts[part], [item.id for item in items[part]], how)
        for row in done:
            index = at + row.item
            rows.append(_completion(policy, items[index], index, prompts[index], row, how))
        emit(
            {
                "event": "progress",
                "done": len(rows),
                "total": len(items) * group,
                "unit": "completions",
            }
        )
    policy.model.train(was_training)
    sampling = {
        "group": group,
        "temperature": temperature,
        "top_p": top_p,
        "max_tokens": max_tokens,
        "stop": list(stop),
        "engine": "transformers",
    }
    return Rollouts(rows, sampling, str(policy.updates))


def _check_room(
    policy: Policy, items: Sequence[Item], prompts: list[list[int]], max_tokens: int
) -> None:
    for item, prompt in zip(items, prompts, strict=True):
        if len(prompt) + max_tokens > policy.context_length:
            raise StageError(
                f"The prompt of item {item.id} has {len(prompt)} tokens; with {max_tokens} more it "
                f"does not fit the model's {policy.context_length}.",
                hint="Lower `max_tokens` or shorten the prompt.",
            )


def _decode(
    policy: Policy, prompts: list[list[int]], names: list[str], how: Sampling
) -> list[_Row]:
    """Decode one chunk of prompts; rows come back in order of item and sample."""
    device, body = policy.device, policy.network.base_model
    head, after = head_of(policy.network)
    width = max(map(len, prompts))
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    attend = torch.zeros(len(prompts), width, dtype=torch.long)
    for b, prompt in enumerate(prompts):
        ids[b, width - len(prompt) :] = torch.tensor(prompt)
        attend[b, width - len(prompt) :] = 1
    ids, attend = ids.to(device), attend.to(device)
    cache = DynamicCache(config=policy.network.config)
    places = (attend.cumsum(-1) - 1).clamp(min=0)
    made = body(
        input_ids=ids,
        attention_mask=attend,
        position_ids=places,
        past_key_values=cache,
        use_cache=True,
    )
    hidden = made.last_hidden_state[:, -1].repeat_interleave(how.group, 0)
    cache.batch_repeat_interleave(how.group)
    attend = attend.repeat_interleave(how.group, 0)
    rows = [_Row(item, sample) for item in range(len(prompts)) for sample in range(how.group)]
    ends = set(policy.eos_ids)
    live = list(rows)
    for index in range(how.max_tokens):
        numbers = [uniform(how.seed, how.round, names[r.item], r.sample, index) for r in live]
        uniforms = torch.tensor(numbers, dtype=torch.float64, device=device)
        tokens, logps = draw(logits_of(head, after, hidden), uniforms, how.temperature, how.top_p)
        chosen = tokens.tolist()
        for row, token, logp in zip(live, chosen, logps.tolist(), strict=True):
            row.ids.append(token)
            row.logps.append(logp)
        last = index + 1 == how.max_tokens
        going = [i for i, row in enumerate(live) if not _finished(policy, row, ends, how, last)]
        if not going:
            break
        if len(going) < len(live):
            kept = torch.tensor(going, device=device)
            cache.batch_select_indices(kept)
            attend, tokens = attend[kept], tokens[kept]
            live = [live[i] for i in going]
        attend = torch.cat([attend, attend.new_ones(len(attend), 1)], 1)
        places = attend.sum(-1, keepdim=True) - 1
        made = body(
            input_ids=tokens[:, None],
            attention_mask=attend,
            position_ids=places,
            past_key_values=cache,
            use_cache=True,
        )
        hidden = made.last_hidden_state[:, -1]
    return rows


def _finished(policy: Policy, row: _Row, ends: set[int], how: Sampling, last: bool) -> bool:
    if row.ids[-1] in ends:
        return True
    if how.stop:
        text = _text(policy, row.ids)
        if any(stop in text for stop in how.stop):
            return True
    row.truncated = last
    return last


def _text(policy: Policy, ids: list[int]) -> str:
    return str(cast(Any, policy.tokenizer).decode(ids, skip_special_tokens=True))


def _completion(
    policy: Policy, item: Item, group: int, prompt: list[int], row: _Row, how: Sampling
) -> Completion:
    text = _text(policy, row.ids)
    cuts = [at for stop in how.stop if (at := text.find(stop)) >= 0]
    shown = item.prompt
    if shown is None:
        shown = str(cast(Any, policy.tokenizer).decode(prompt))
    return Completion(
        item=item.id,
        group=group,
        prompt=shown,
        prompt_ids=prompt,
        text=text[: min(cuts)] if cuts else text,
        ids=row.ids,
        logps=row.logps,
        truncated=row.truncated,
        answer=item.answer,
        columns=item.columns,
    )
