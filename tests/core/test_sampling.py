"""What a rollout draws: stop strings end it, top-p keeps it in the nucleus, seeds fix it."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from grape.runtime.artifacts import Completion, Item
from grape.runtime.core.models import Policy, prepared
from grape.runtime.core.rollout import generate_for
from grape.runtime.verbs.fresh import new_model, train_tokenizer

torch.set_num_threads(1)

ITEMS = [Item(f"i{number}", prompt="a longer prompt"[: 3 + 4 * number]) for number in range(3)]


@cache
def policy() -> Policy:
    settings = {
        "architecture": "llama",
        "layers": 1,
        "hidden": 16,
        "heads": 2,
        "kv_heads": 1,
        "intermediate": 24,
        "context": 64,
    }
    made = new_model(settings, train_tokenizer(iter(()), 0), 3)
    with torch.no_grad():  # a head that is sure of something: an untrained one is nearly uniform
        made.model.get_input_embeddings().weight *= 20
    return Policy(prepared(made.model.to(torch.float64)), made.tokenizer)


def drawn(
    *, stop: tuple[str, ...] = (), top_p: float = 1.0, temperature: float = 1.0
) -> list[Completion]:
    return generate_for(
        policy(),
        ITEMS,
        group=4,
        temperature=temperature,
        top_p=top_p,
        max_tokens=10,
        stop=list(stop),
        seed=1,
        round=0,
        emit=lambda event: None,
    ).rows


def tables(row: Completion, temperature: float) -> Tensor:
    """The model's log-probs before each token of a completion, [T, V], from one plain pass."""
    ids = torch.tensor([row.prompt_ids + row.ids])
    with torch.no_grad():
        logits = policy().model(ids).logits[0, len(row.prompt_ids) - 1 : -1]
    return torch.log_softmax(logits / temperature, -1)


def test_a_stop_string_ends_the_completion_before_it() -> None:
    free = drawn()
    stop = next(row.text[2:4] for row in free if len(row.text) > 5)
    stopped = drawn(stop=(stop, "never there"))
    assert any(stop in row.text for row in free)
    for before, after in zip(free, stopped, strict=True):
        assert stop not in after.text
        assert after.ids == before.ids[: len(after.ids)]
        assert after.logps == pytest.approx(before.logps[: len(after.ids)], abs=1e-12)
        if stop in before.text:
            assert after.text == before.text[: before.text.index(stop)]
            assert not after.truncated
            decoded = policy().tokenizer.decode(after.ids[:-1], skip_special_tokens=True)
            assert stop not in decoded, "the token that completes the stop string is the last one"
        else:
            assert (after.ids, after.truncated) == (before.ids, before.truncated)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("top_p", [0.2, 0.6, 0.95])
def test_top_p_draws_from_the_nucleus_and_says_so(top_p: float, temperature: float) -> None:
    cut_off = 0
    for row in drawn(top_p=top_p, temperature=temperature):
        for token, logp, table in zip(row.ids, row.logps, tables(row, temperature), strict=True):
            probs, order = table.exp().sort(descending=True)
            size = int((probs.cumsum(0) - probs < top_p).sum())
            nucleus = order[:size]
            assert token in nucleus.tolist()
            share = table[nucleus].logsumexp(0)
            assert logp == pytest.approx(float(table[token] - share), abs=1e-9)
            cut_off += size < len(table)
    assert cut_off, "a nucleus of everything would prove nothing"


def test_log_probs_are_those_of_the_tempered_model() -> None:
    for row in drawn(temperature=0.7):
        table = tables(row, 0.7)
        wanted = table[torch.arange(len(row.ids)), torch.tensor(row.ids)]
        assert row.logps == pytest.approx(wanted.tolist(), abs=1e-9)


def test_a_tiny_top_p_is_greedy() -> None:
    assert [row.ids for row in drawn(top_p=1e-9)] == [row.ids for row in drawn(temperature=0.0)]
