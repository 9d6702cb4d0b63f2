"""The round of critique and revision: what is criticised, what the model is given, what is kept.

In come scored rollouts, their rubric and critics; out come revisions, judged like the rollouts.
A revision is drawn after the critique and belongs to the prompt without it: its `logps` are those
of the draw, and training computes others, after the prompt alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from grape.compiler.templates import parse_template
from grape.runtime.artifacts import Completion, Item, Rollouts
from grape.runtime.context import Context
from grape.runtime.critics.critique import Critique, Writing, critiques
from grape.runtime.critics.questions import Failed, filled, find_fault, known_of, plain_fault
from grape.runtime.critics.sampling import completions_of
from grape.runtime.critics.server import Served
from grape.runtime.errors import StageError
from grape.runtime.rubric import Scoring, short

if TYPE_CHECKING:
    from grape.runtime.core.models import Policy

Node = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fault:
    """An item on which the completion `row` scored low; `critic` is a port, or None where no model
    is asked."""

    row: int
    item: Node
    critic: str | None


def faults_of(rubric: Node, rows: Sequence[Completion], settings: Node) -> list[Fault]:
    """Every item below the bound, by completion and in the order of the rubric. Items that weigh
    nothing are nobody's fault."""
    found = []
    categories = {category["name"]: category for category in rubric["categories"]}
    everywhere = _critics(item for category in categories.values() for item in category["items"])
    for number, row in enumerate(rows):
        items = categories[row.category or ""]["items"]
        first = next(iter([*_critics(items), *everywhere]), None)
        for item in items:
            score = row.parts.get(item["name"])
            if score is None or score >= settings["below"] or not item["weight"]:
                continue
            if "ask" in item:
                found.append(Fault(number, item, item["ask"]["critic"]))
            elif settings["verified"] != "none":
                critic = first if settings["verified"] == "critic" else None
                found.append(Fault(number, item, critic))
    return found


def _critics(items: Any) -> list[str]:
    return [item["ask"]["critic"] for item in items if "ask" in item]


def written(
    faults: Sequence[Fault], rows: Sequence[Completion], scoring: Scoring, context: Context
) -> dict[int, str]:
    """The critique of each completion that gets one, by its number: a line for each item. Raises
    StageError for a critic that fails, where `on_error` says so."""
    settings = context.stage.settings
    lines: dict[int, dict[str, str]] = {}
    for critic in dict.fromkeys(fault.critic for fault in faults):
        own = [fault for fault in faults if fault.critic == critic]
        if critic is None:
            texts: list[Critique | Failed] = [
                Critique(plain_fault(fault.item, rows[fault.row])) for fault in own
            ]
        else:
            told = [find_fault(fault.item, rows[fault.row]) for fault in own]
            how = Writing(
                settings["critique_tokens"],
                settings["rows"],
                settings["seed"],
                context.round,
                scoring.answers,
                _progress(context, len(own)),
            )
            texts = critiques(scoring.critics[critic], told, how)
        for fault, text in zip(own, _usable(own, texts, rows, scoring), strict=True):
            if text:
                lines.setdefault(fault.row, {})[fault.item["name"]] = text
    order = {fault.row: [f.item["name"] for f in faults if f.row == fault.row] for fault in faults}
    return {
        row: "\n".join(f"- {found[name]}" for name in order[row] if name in found)
        for row, found in sorted(lines.items())
    }


def _progress(context: Context, total: int) -> Any:
    def done(count: int) -> None:
        progress = {"done": count, "total": total, "unit": "critiques"}
        context.emit({"event": "progress", **progress})

    return done


def _usable(
    faults: Sequence[Fault],
    texts: Sequence[Critique | Failed],
    rows: Sequence[Completion],
    scoring: Scoring,
) -> list[str]:
    """The critiques, "" for those that are left out, of which a note tells."""
    failed = [text.reason for text in texts if isinstance(text, Failed)]
    unread = [text.wrote for text in texts if isinstance(text, Critique) and not text.text]
    if failed and scoring.on_error == "stop":
        at = next(n for n, text in enumerate(texts) if isinstance(text, Failed))
        row = rows[faults[at].row]
        raise StageError(
            f"the critic wrote no critique for the item `{faults[at].item['name']}`: {failed[0]}\n"
            f"  prompt:     {short(row.prompt)}\n  completion: {short(row.text)}",
            hint="mend the critic, or go on without such critiques: `on_error = 0`",
        )
    for some, why, first in (
        (failed, "the critic failed", failed[:1]),
        (unread, "none can be read in what the critic wrote", [short(t) for t in unread[:1]]),
    ):
        if some:
            text = f"{len(some)} of {len(texts)} critiques left out: {why}; the first: {first[0]}"
            scoring.emit({"event": "note", "text": text})
    return [text.text if isinstance(text, Critique) else "" for text in texts]


def revised(
    model: Any, rollouts: Rollouts, told: Mapping[int, str], context: Context, seed: int
) -> Rollouts:
    """`tries` answers to each critique, in the order of the completions. Raises StageError for a
    model that cannot revise these rollouts."""
    settings, sampling = context.stage.settings, rollouts.sampling
    how = {
        name: sampling[name] if settings[name] is None else settings[name]
        for name in ("temperature", "top_p", "max_tokens")
    }
    template = parse_template(settings["template"])
    numbers, items = [], []
    for number, critique in told.items():
        row = rollouts.rows[number]
        text = filled(
            template, {**known_of(row), "critique": critique}, "the template of a revision"
        )
        numbers.append(number)
        items.append(Item(row.item, prompt=text, answer=row.answer, columns=row.columns))
    if not isinstance(model, Served):
        _check_room(model, items, how["max_tokens"])
    made = completions_of(
        model,
        items,
        group=settings["tries"],
        **how,
        stop=sampling.get("stop", []),
        seed=seed,
        round=context.round,
        emit=context.emit,
        rows=settings["rows"],
    )
    rows = [
        _belonging(model, row, rollouts.rows[numbers[row.group]], told[numbers[row.group]])
        for row in made.rows
    ]
    return replace(made, rows=rows, environment=rollouts.environment)


def _check_room(policy: Policy, items: Sequence[Item], most: int) -> None:
    from grape.runtime.core.text import prompt_ids

    longest = max(len(prompt_ids(policy.tokenizer, item)) for item in items)
    if longest + most > policy.context_length:
        raise StageError(
            f"a task, its answer and the critique have {longest} tokens; with {most} of a revision "
            f"they do not fit the {policy.context_length} of the model that revises",
            hint="lower `critique_tokens` or `max_tokens`, or shorten `template`",
        )


def _belonging(model: Any, row: Completion, before: Completion, critique: str) -> Completion:
    """A revision as an answer to the prompt of what it revises."""
    greedy = {name: before.added[name] for name in ("greedy_reward",) if name in before.added}
    return replace(
        row,
        group=before.group,
        prompt=before.prompt,
        prompt_ids=before.prompt_ids if isinstance(model, Served) else _prompt(model, before),
        critique=critique,
        revises=before.text,
        added={**greedy, "revised": 1.0},
    )


def _prompt(model: Any, before: Completion) -> list[int]:
    """The prompt in the tokens of the model that revises. Where a prompt was made of messages, its
    text does not tell its tokens, and those it was sampled with stand."""
    from grape.runtime.core.text import encode_prompt

    own = encode_prompt(model.tokenizer, before.prompt)
    decoded = str(model.tokenizer.decode(before.prompt_ids)) if before.prompt_ids else ""
    return list(before.prompt_ids) if decoded == before.prompt else own
