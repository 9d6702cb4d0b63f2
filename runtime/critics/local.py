"""A critic whose weights are here: the probabilities of the allowed answers are the judgement.

Nothing is generated. The critic's own tokenizer and chat template turn the question into tokens;
score is the expected answer under the probabilities of the allowed ones, confidence is one minus
their entropy as a share of the largest possible one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from grape.runtime.artifacts import Item
from grape.runtime.core.logprob import head_of, logits_of
from grape.runtime.core.models import Policy
from grape.runtime.core.text import prompt_ids
from grape.runtime.critics.questions import Answer, Failed, Question, Verdict, in_one_word
from grape.runtime.errors import StageError

TOKENS = 8192
"""Tokens sent through the critic at once, padding included."""


@dataclass(frozen=True, slots=True)
class _Path:
    """Tokens of one way to write an answer of a question."""

    question: int
    answer: int
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Run:
    """One sequence through the model: the answers read off from position `start` on."""

    ids: tuple[int, ...]
    start: int
    paths: tuple[_Path, ...]


def judge(
    policy: Policy, questions: Sequence[Question], done: Callable[[int], None]
) -> list[Answer]:
    """An answer for each question; Failed where the question does not fit the critic's context.
    `done` is told how many questions are answered. Raises StageError for a tokenizer that cannot
    tell the answers apart."""
    made: list[Answer] = [Failed("was not asked")] * len(questions)
    runs: list[_Run] = []
    written: dict[int | None, list[list[tuple[int, ...]]]] = {}
    for number, question in enumerate(questions):
        ids = tuple(_prompt(policy.tokenizer, question))
        if question.scale not in written:
            written[question.scale] = _written(policy.tokenizer, question)
        ways = written[question.scale]
        longest = len(ids) + max(len(way) for answer in ways for way in answer)
        if longest > policy.context_length:
            reason = f"the question has {len(ids)} tokens, the critic takes {policy.context_length}"
            made[number] = Failed(reason)
            continue
        runs += _runs(number, ids, ways)
    found = _read(policy, runs, len(questions), done)
    for number, logps in found.items():
        made[number] = _verdict(questions[number], logps)
    return made


def _prompt(tokenizer: Any, question: Question) -> list[int]:
    text = in_one_word(question)
    if tokenizer.chat_template:
        return prompt_ids(tokenizer, Item("", messages=[{"role": "user", "content": text}]))
    return prompt_ids(tokenizer, Item("", prompt=f"{text}\nReply:"))


def _written(tokenizer: Any, question: Question) -> list[list[tuple[int, ...]]]:
    """The ways to write each answer, as tokens."""
    space = "" if tokenizer.chat_template else " "
    ways = []
    for answer in question.answers:
        texts = [space + text for text in dict.fromkeys((answer, answer.capitalize()))]
        encoded = [tuple(tokenizer(t, add_special_tokens=False)["input_ids"]) for t in texts]
        ways.append(list(dict.fromkeys(encoded)))
    every = [way for answer in ways for way in answer]
    if len(set(every)) < len(every) or () in every:
        words = ", ".join(question.answers)
        raise StageError(f"the critic's tokenizer cannot tell the answers {words} apart")
    return ways


def _runs(number: int, ids: tuple[int, ...], ways: list[list[tuple[int, ...]]]) -> list[_Run]:
    """Answers of one token share a run of the question alone; a longer one needs its own."""
    paths = [_Path(number, at, way) for at, answer in enumerate(ways) for way in answer]
    short = tuple(path for path in paths if len(path.tokens) == 1)
    runs = [_Run(ids, len(ids) - 1, short)] if short else []
    runs += [
        _Run((*ids, *path.tokens[:-1]), len(ids) - 1, (path,))
        for path in paths
        if len(path.tokens) > 1
    ]
    return runs


@torch.no_grad()
def _read(
    policy: Policy, runs: list[_Run], total: int, done: Callable[[int], None]
) -> dict[int, dict[int, float]]:
    """Question to answer to log-probability."""
    found: dict[int, dict[int, float]] = {}
    was_training = policy.model.training
    policy.model.eval()
    order = sorted(range(len(runs)), key=lambda at: -len(runs[at].ids))
    at = 0
    while at < len(order):
        width = len(runs[order[at]].ids)
        batch = [runs[index] for index in order[at : at + max(1, TOKENS // width)]]
        at += len(batch)
        for run, rows in zip(batch, _logps(policy, batch), strict=True):
            for path in run.paths:
                logp = sum(float(rows[step, token]) for step, token in enumerate(path.tokens))
                answers = found.setdefault(path.question, {})
                before = answers.get(path.answer, -math.inf)
                answers[path.answer] = _logaddexp(before, logp)
        done(min(total, at * total // len(order)))
    policy.model.train(was_training)
    return found


def _logps(policy: Policy, batch: list[_Run]) -> list[Tensor]:
    """Log-probabilities [positions, vocabulary] of each run from its `start` on."""
    width = max(len(run.ids) for run in batch)
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    attend = torch.zeros(len(batch), width, dtype=torch.long)
    for number, run in enumerate(batch):
        ids[number, : len(run.ids)] = torch.tensor(run.ids)
        attend[number, : len(run.ids)] = 1
    body = policy.network.base_model
    hidden = body(
        input_ids=ids.to(policy.device), attention_mask=attend.to(policy.device), use_cache=False
    ).last_hidden_state
    head, after = head_of(policy.network)
    rows = []
    for number, run in enumerate(batch):
        logits = logits_of(head, after, hidden[number, run.start : len(run.ids)])
        rows.append(torch.log_softmax(logits, -1).cpu())
    return rows


def _logaddexp(a: float, b: float) -> float:
    high, low = max(a, b), min(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))


def _verdict(question: Question, logps: dict[int, float]) -> Verdict:
    largest = max(logps.values())
    weights = {answer: math.exp(logp - largest) for answer, logp in logps.items()}
    total = sum(weights.values())
    if not math.isfinite(total):
        raise StageError(
            "the critic gives probabilities that are no numbers: its weights are broken"
        )
    shares = {answer: weight / total for answer, weight in weights.items()}
    score = sum(share * question.score(answer) for answer, share in shares.items())
    entropy = -sum(share * math.log(share) for share in shares.values() if share > 0)
    confidence = 1 - entropy / math.log(len(question.answers))
    return Verdict(min(1.0, max(0.0, score)), min(1.0, max(0.0, confidence)))
