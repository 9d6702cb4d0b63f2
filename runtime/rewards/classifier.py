"""The reward `classifier`: a sequence classifier or a reward model reads the text.

It has its own tokenizer and, where that has one, its own chat template; token ids of the policy
never reach it. All completions are scored at once when the stage begins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from grape.runtime.artifacts import MARK, Completion, Rollouts
from grape.runtime.core.judging import scores_of
from grape.runtime.core.models import Policy, device, dtype_for
from grape.runtime.core.text import completion_ids, encode_prompt
from grape.runtime.errors import StageError
from grape.runtime.rewards.text import Scorer

ROWS = 16
"""Texts read at once."""


def classifier(params: Mapping[str, Any], rollouts: Rollouts, project: Path) -> Scorer:
    """The probability of `label`; of a model with one output, or of one with a score head, that
    number, through a sigmoid with `squash`. Raises StageError for a model that is no classifier
    and a label that it does not have."""
    if isinstance(params["source"], Policy):
        values = scores_of(params["source"], rollouts.rows)
        if params["squash"]:
            values = torch.tensor(values).sigmoid().tolist()
        return _known(rollouts, values)
    model, tokenizer = _load(params["source"], project)
    column = _column(model, params)
    rows = rollouts.rows
    if params["reads"] == "both" and _ours(params["source"], project):
        texts = [
            [*encode_prompt(tokenizer, row.prompt), *completion_ids(tokenizer, row.text)]
            for row in rows
        ]
    else:
        texts = [_ids(tokenizer, row, params["reads"]) for row in rows]
    limit = getattr(model.config, "max_position_embeddings", None)
    for row, ids in zip(rows, texts, strict=True):
        if limit is not None and len(ids) > limit:
            raise StageError(
                f"a completion has {len(ids)} tokens for the classifier, which reads {limit}: "
                f"{row.text[:60]!r}"
            )
    values = _scores(model, tokenizer, texts, column, params["squash"])
    return _known(rollouts, values)


def _known(rollouts: Rollouts, values: Sequence[float]) -> Scorer:
    found = {id(row): value for row, value in zip(rollouts.rows, values, strict=True)}
    return lambda row: found[id(row)]


@lru_cache(maxsize=2)
def _load(source: str, project: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    name, _, revision = source.removeprefix("hf:").partition("@")
    place = name if source.startswith("hf:") else str(project / source)
    options: dict[str, Any] = {"revision": revision or None} if source.startswith("hf:") else {}
    try:
        made: Any = AutoModelForSequenceClassification.from_pretrained(
            place, dtype=dtype_for("auto"), output_loading_info=True, **options
        )
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
    except (OSError, ValueError) as error:
        first = str(error).splitlines()[0]
        raise StageError(f"`{source}` is no classifier that can be loaded: {first}") from error
    model, loading = made
    if loading["missing_keys"]:
        names = ", ".join(sorted(loading["missing_keys"])[:3])
        raise StageError(
            f"`{source}` is no classifier: it has no weights for {names}",
            hint="name a model with a classification head, such as a reward model",
        )
    return model.to(device()).eval(), tokenizer


def _column(model: Any, params: Mapping[str, Any]) -> int | None:
    """The output that is the score; None for a model with one."""
    labels = {int(number): str(name) for number, name in model.config.id2label.items()}
    if len(labels) == 1:
        return None
    wanted = params["label"]
    for number, name in labels.items():
        if name == wanted:
            return number
    raise StageError(
        f"`{params['source']}` tells {len(labels)} labels apart, and `label` names none of them",
        hint=f"its labels are: {', '.join(labels.values())}",
    )


def _ours(source: str, project: Path) -> bool:
    """Whether Grape trained a classifier: it then reads texts up to the token that ends them."""
    return not source.startswith("hf:") and (project / source / MARK).is_file()


def _ids(tokenizer: Any, row: Completion, reads: str) -> list[int]:
    ids = _encoded(tokenizer, row, reads)
    return ids or [tokenizer.eos_token_id]  # an empty text has a score too


def _encoded(tokenizer: Any, row: Completion, reads: str) -> list[int]:
    if reads == "completion":
        return list(tokenizer(row.text)["input_ids"])
    if tokenizer.chat_template:
        turns = [
            {"role": "user", "content": row.prompt},
            {"role": "assistant", "content": row.text},
        ]
        made = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True)
        return list(made["input_ids"])
    return list(tokenizer(row.prompt + row.text)["input_ids"])


@torch.no_grad()
def _scores(
    model: Any, tokenizer: Any, texts: Sequence[list[int]], column: int | None, squash: bool
) -> list[float]:
    """Texts of equal length are read together, so that no padding token is needed."""
    values = [0.0] * len(texts)
    order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
    at = 0
    while at < len(order):
        width = len(texts[order[at]])
        chosen = [n for n in order[at : at + ROWS] if len(texts[n]) == width]
        at += len(chosen)
        ids = torch.tensor([texts[number] for number in chosen], device=model.device)
        logits = _last(model, ids).float()
        if column is None:
            outputs = logits[:, 0].sigmoid() if squash else logits[:, 0]
        else:
            outputs = logits.softmax(-1)[:, column]
        for number, value in zip(chosen, outputs.tolist(), strict=True):
            values[number] = value
    return values


def _last(model: Any, ids: torch.Tensor) -> torch.Tensor:
    """The outputs at the last token. A model without a padding token refuses more than one text at
    once, so that it is told of one that never occurs."""
    before = model.config.pad_token_id
    try:
        if before is None:
            model.config.pad_token_id = -1
        made = model(input_ids=ids, attention_mask=torch.ones_like(ids))
    finally:
        model.config.pad_token_id = before
    logits: torch.Tensor = made.logits
    return logits
