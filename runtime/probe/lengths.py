"""Rows as token ids: is there something to learn, does it end, does it fit.

The functions that make ids are those of training and sampling (`core.text`).
"""

from __future__ import annotations

from collections.abc import Iterator

from grape.compiler.graph import Stage
from grape.compiler.hygiene.walk import Scope, setting_span
from grape.dsl import ast
from grape.dsl.findings import Finding, Label
from grape.dsl.source import Span
from grape.runtime.artifacts import Item
from grape.runtime.core.text import chat_turns, completion_ids, encode_prompt, prompt_ids
from grape.runtime.errors import StageError
from grape.runtime.probe.facts import Model
from grape.runtime.probe.tokens import Light
from grape.runtime.rewards.clock import Late, within_seconds

SECONDS = 20.0
"""Longest time for the rows of one stage; a chat template is a program."""

Pair = tuple[list[int], list[int]]


def check_targets(
    scope: Scope, declared: ast.PipelineDecl, data: Stage, items: list[Item], model: Model
) -> Iterator[Finding]:
    """The rows that a stage trains on directly: G408 to G412, G419, G428."""
    tokenizer = model.tokenizer
    if tokenizer is None:
        return
    part = "messages" if "messages" in data.type.columns else "completion"
    span = setting_span(data, declared, part)
    labels = (Label(scope.stage.span, "trained on here"),)
    if tokenizer.eos_token_id is None:
        message = "the tokenizer has no end token, so the model never learns to stop"
        yield Finding("G409", message, span, labels, hint="set `eos_token` in its config")
        return
    if part == "messages" and not tokenizer.chat_template:
        message = "these are conversations, and the model's tokenizer has no chat template"
        hint = "write `prompt` and `completion` templates, or take an instruct model"
        yield Finding("G411", message, span, labels, hint=hint)
        return
    made = _made(items, tokenizer, span, labels)
    if isinstance(made, Finding):
        yield made
        return
    yield from _learnable(made, span, labels)
    yield from _ended(made, tokenizer, part, span, labels)
    yield from _fitting(made, scope.stage, declared, model, labels)


def _made(
    items: list[Item], tokenizer: Light, span: Span, labels: tuple[Label, ...]
) -> list[list[Pair]] | Finding:
    """(prompt, completion) ids of each row, or why there are none."""
    rows: list[list[Pair]] = []

    def work() -> float:
        for number, item in enumerate(items, 1):
            rows.append(_pairs(item, tokenizer, number))
        return 0.0

    try:
        within_seconds(SECONDS, work)
    except StageError as error:
        return Finding("G428", error.message, span, labels, hint=error.hint)
    except Late:
        message = f"{len(rows)} rows took longer than {SECONDS:g} seconds to turn into tokens"
        return Finding("G428", message, span, labels, hint="look at the chat template")
    return rows


def _pairs(item: Item, tokenizer: Light, number: int) -> list[Pair]:
    if item.messages is not None and (item.prompt is None or item.completion is None):
        try:
            return chat_turns(tokenizer, item.messages)
        except StageError:
            raise
        except Exception as error:  # a template is a program of somebody else's
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise StageError(
                f"the chat template refuses row {number}: {reason}",
                hint="give the conversation the roles in the order that the template expects",
            ) from None
    prompt = encode_prompt(tokenizer, item.prompt or "")
    sides = [side for side in (item.completion, item.chosen, item.rejected) if side is not None]
    return [(prompt, completion_ids(tokenizer, side)) for side in sides]


def _learnable(rows: list[list[Pair]], span: Span, labels: tuple[Label, ...]) -> Iterator[Finding]:
    """Rows whose answer is empty: at most their end token is trained."""
    bare = [n for n, row in enumerate(rows, 1) if not any(len(done) > 1 for _, done in row)]
    if not bare:
        return
    hint = "look at the template of the completion, or at the roles of the conversation"
    if len(bare) == len(rows):
        message = f"none of the first {len(rows)} rows has a token to learn from"
        yield Finding("G410", message, span, labels, hint=hint)
        return
    message = f"{len(bare)} of the first {len(rows)} rows have an empty answer, row {bare[0]} first"
    yield Finding("G419", message, span, labels, hint=hint)


def _ended(
    rows: list[list[Pair]],
    tokenizer: Light,
    part: str,
    span: Span,
    labels: tuple[Label, ...],
) -> Iterator[Finding]:
    """A chat template must end an answer with a token at which sampling stops."""
    answers = [done for row in rows for _, done in row if done]
    if part != "messages" or not answers:
        return
    open_ended = [done for done in answers if not tokenizer.ends & set(done)]
    if open_ended:
        last = tokenizer.core.decode(open_ended[0][-1:], skip_special_tokens=False)
        message = (
            f"answers end in {last!r}, and sampling stops at `{tokenizer.eos_token}` only: the "
            "model would learn to go on"
        )
        hint = "name the template's end token as `eos_token` in the tokenizer's config"
        yield Finding("G408", message, span, labels, hint=hint)


def _fitting(
    rows: list[list[Pair]],
    stage: Stage,
    declared: ast.PipelineDecl,
    model: Model,
    labels: tuple[Label, ...],
) -> Iterator[Finding]:
    """Lengths against the limit: a histogram in words."""
    limits = [n for n in (model.context, stage.settings["max_length"]) if n is not None]
    lengths = sorted(max((len(a) + len(b) for a, b in row), default=0) for row in rows)
    if not limits or not lengths or lengths[-1] <= min(limits):
        return
    limit = min(limits)
    over = sum(length > limit for length in lengths)
    drops = stage.settings["overlong"] == "drop"
    if drops and 2 * over < len(lengths):
        return
    typical = lengths[len(lengths) // 2]
    message = (
        f"{over} of the first {len(lengths)} rows are longer than {limit} tokens "
        f"(half have {typical}, the longest {lengths[-1]})"
    )
    message += ": most of the data would be left out" if drops else ", and the run would stop there"
    name = "max_length" if stage.settings["max_length"] == limit else "overlong"
    span = setting_span(stage, declared, name)
    hint = 'shorten them, raise the limit, or write `overlong = "drop"`'
    yield Finding("G412", message, span, labels, hint=hint)


def check_prompts(
    scope: Scope, declared: ast.PipelineDecl, data: Stage, items: list[Item], model: Model
) -> Iterator[Finding]:
    """Prompts and reference answers against `max_tokens` and the context: G411, G414, G415."""
    tokenizer, stage = model.tokenizer, scope.stage
    if tokenizer is None:
        return
    if not tokenizer.chat_template and any(item.prompt is None for item in items):
        span = setting_span(data, declared, "messages")
        message = "these are conversations, and the model's tokenizer has no chat template"
        yield Finding("G411", message, span, hint="write a `prompt` template")
        return
    lengths: list[int] = []
    answers: list[int] = []

    def work() -> float:
        for item in items:
            lengths.append(len(prompt_ids(tokenizer, item)))
            told = item.completion if item.completion is not None else item.answer
            if told is not None:
                answers.append(len(tokenizer(told)["input_ids"]) + 1)
        return 0.0

    try:
        within_seconds(SECONDS, work)
    except (StageError, Late, ValueError):
        return
    room = stage.settings["max_tokens"]
    span = setting_span(stage, declared, "max_tokens")
    if model.context is not None and max(lengths, default=0) + room > model.context:
        message = (
            f"a prompt of {max(lengths)} tokens and `max_tokens = {room}` do not fit the model's "
            f"{model.context}"
        )
        labels = (Label(data.span, f"among its first {len(items)} rows"),)
        least = model.context - max(lengths)
        hint = f"at most {least} are left" if least > 0 else "shorten the prompts"
        yield Finding("G414", message, span, labels, hint=hint)
    long = [length for length in answers if length > room]
    if answers and 2 * len(long) > len(answers):
        message = (
            f"{len(long)} of the first {len(answers)} reference answers are longer than "
            f"`max_tokens = {room}`, so right answers are cut off"
        )
        hint = f"the longest has {max(long)} tokens"
        yield Finding("G415", message, span, (Label(data.span, "the answers"),), hint=hint)
