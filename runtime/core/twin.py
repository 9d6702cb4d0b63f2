"""A second copy of a model, so that one draws while the other is trained."""

from __future__ import annotations

import copy

import torch

from grape.runtime.core.models import Policy


@torch.no_grad()
def twin_of(policy: Policy, last: Policy | None = None) -> Policy:
    """The model as it is now, in weights of its own; those that are not trained are shared. `last`
    is an earlier twin that nobody uses any more: its memory is taken again."""
    if last is None or last.adapter != policy.adapter:
        fixed = [item for item in policy.model.parameters() if not item.requires_grad]
        model = copy.deepcopy(policy.model, {id(item): item for item in fixed})
        tokenizer = copy.deepcopy(policy.tokenizer)
    else:
        model, tokenizer = last.model, last.tokenizer
        pairs = zip(model.parameters(), policy.model.parameters(), strict=True)
        for mine, theirs in pairs:
            if mine is not theirs:
                mine.copy_(theirs)
    heads = copy.deepcopy(policy.heads)
    return Policy(model, tokenizer, policy.adapter, policy.updates, heads)


def beside(policy: Policy) -> Policy:
    """The same weights under modules of their own, for use in two threads at once."""
    shared = {id(item): item for item in (*policy.model.parameters(), *policy.model.buffers())}
    model = copy.deepcopy(policy.model, shared)
    tokenizer = copy.deepcopy(policy.tokenizer)
    return Policy(model, tokenizer, policy.adapter, policy.updates, policy.heads)
