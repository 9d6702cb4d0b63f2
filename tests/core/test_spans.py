"""Spans of the text among tokens: `span(OPENING, CLOSING)`."""

from __future__ import annotations

from typing import Any

import pytest

from grape.runtime.core.spans import within
from grape.runtime.verbs.fresh import train_tokenizer

BYTES: Any = train_tokenizer(iter(()), 0)
WORDS: Any = train_tokenizer(
    iter(["think about it, then say it, think again and say more"] * 9), 300
)


def inside(tokenizer: Any, text: str, opening: str, closing: str) -> str:
    """The text of the tokens that a span covers."""
    ids = tokenizer(text)["input_ids"]
    found = within(tokenizer, ids, opening, closing)
    assert len(found) == len(ids) and set(found) <= {0.0, 1.0}
    return str(tokenizer.decode([one for one, yes in zip(ids, found, strict=True) if yes]))


@pytest.mark.parametrize("tokenizer", [BYTES, WORDS], ids=["bytes", "words"])
@pytest.mark.parametrize(
    ("text", "opening", "closing", "wanted"),
    [
        ("<t> one </t> two", "<t>", "</t>", " one "),
        ("a <t>x</t> b <t>y</t> c", "<t>", "</t>", "xy"),
        ("<t>never closed", "<t>", "</t>", "never closed"),
        ("begun before</t> rest", "", "</t>", "begun before"),
        ("<t>x</t> the answer", "</t>", "", " the answer"),
        ("nothing here", "<t>", "</t>", ""),
        ("<t></t>", "<t>", "</t>", ""),
        ("</t><t>x</t>", "<t>", "</t>", "x"),
        ("é<t>日本 語</t>ü", "<t>", "</t>", "日本 語"),
        ("", "<t>", "</t>", ""),
    ],
)
def test_a_span_covers_what_lies_between_two_texts(
    tokenizer: Any, text: str, opening: str, closing: str, wanted: str
) -> None:
    assert inside(tokenizer, text, opening, closing) == wanted


def test_special_tokens_may_be_markers() -> None:
    ids = [*BYTES("so ")["input_ids"], BYTES.eos_token_id, *BYTES("on")["input_ids"]]
    assert within(BYTES, ids, BYTES.eos_token, "") == [0.0, 0.0, 0.0, 0.0, 1.0, 1.0]


def test_a_token_belongs_where_it_begins() -> None:
    """`think` is one token here, and the opening text ends inside it."""
    ids = WORDS(" think about")["input_ids"]
    assert any(len(WORDS.decode([one])) > 2 for one in ids)
    assert not within(WORDS, ids, " thi", "about")[0]
