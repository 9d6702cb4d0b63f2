"""Failed completions that go on after a hint: the probe sampler (REX-RAG).

In: a policy, scored rollouts, hints. Out: the same rollouts without their rewards, and beside them
in their groups the probes: what was there, a hint, and what the policy writes then. Every token
has the log-prob of the policy, and `proposal_logp`, that of what put it there. It scores nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grape.runtime.artifacts import Completion, Place, Rollouts
from grape.runtime.core.models import Policy
from grape.runtime.core.packing import Example
from grape.runtime.core.rollout import generate_for
from grape.runtime.core.rows import Begun
from grape.runtime.core.sampling import decoded, uniform
from grape.runtime.core.step import Cutting, logprobs


@dataclass(frozen=True, slots=True)
class _Start:
    """A failed completion as far as it is kept, and the hint behind it."""

    name: str
    row: Completion
    kept: int
    hint: list[int]

    @property
    def ids(self) -> list[int]:
        return self.row.ids[: self.kept] + self.hint


def probed(
    policy: Policy, rollouts: Rollouts, sampler: Mapping[str, Any], how: dict[str, Any]
) -> Rollouts:
    """All rollouts, and a probe for `share` of those whose reward is below `success`. `how` are
    the arguments of `generate_for`; what leaves no room within `max_tokens` gets no probe."""
    hints = [
        list(policy.tokenizer(hint, add_special_tokens=False)["input_ids"])
        for hint in sampler["hints"]
    ]
    failed = [row for row in rollouts.rows if (row.reward or 0.0) < sampler["success"]]
    starts = _starts(policy, rollouts.rows, hints, sampler, how)
    plain = [
        replace(
            row.unscored(),
            added={"probe": 0.0},
            tokens={"proposal_logp": list(row.logps)},
            weights=row.weights or rollouts.weights,
        )
        for row in rollouts.rows
    ]
    rate = len(failed) / max(len(rollouts.rows), 1)
    probes = _continued(policy, starts, hints, rate, how) if starts else []
    rows = sorted([*plain, *probes], key=lambda row: row.group)
    sampling = {**rollouts.sampling, "sampler": dict(sampler)}
    return Rollouts(rows, sampling, str(policy.updates), rollouts.environment)


def _starts(
    policy: Policy,
    rows: Sequence[Completion],
    hints: list[list[int]],
    sampler: Mapping[str, Any],
    how: Mapping[str, Any],
) -> list[_Start]:
    """What is gone on with; which ones, and with which hint, follows from the seed."""
    found = []
    seen: dict[int, int] = {}
    for row in rows:
        place = seen[row.group] = seen.get(row.group, -1) + 1
        if (row.reward or 0.0) >= sampler["success"]:
            continue
        name = f"{row.item}/{row.group}/probe/{place}"
        chance, choice = (uniform(how["seed"], how["round"], name, 0, n) for n in (0, 1))
        hint = hints[int(choice * len(hints))]
        kept = _kept(policy, row, how["stop"])
        room = kept + len(hint) < how["max_tokens"]
        if chance < sampler["share"] and hint and room:
            found.append(_Start(name, row, kept, hint))
    return found


def _kept(policy: Policy, row: Completion, stops: Sequence[str]) -> int:
    """How many tokens of a completion stay: not those that ended it."""
    ids = list(row.ids)
    while ids and ids[-1] in policy.eos_ids:
        ids.pop()
    while ids and any(stop in decoded(policy.tokenizer, ids) for stop in stops):
        ids.pop()
    return len(ids)


def _continued(
    policy: Policy,
    starts: Sequence[_Start],
    hints: list[list[int]],
    rate: float,
    how: dict[str, Any],
) -> list[Completion]:
    examples = [Example(tuple(one.row.prompt_ids), tuple(one.ids), 0) for one in starts]
    temperature = how["temperature"] or 1.0
    likely = logprobs(policy, examples, Cutting(), temperature=temperature).tolist()
    items, begun, at = [], [], 0
    for one in starts:
        own = likely[at + one.kept : at + len(one.ids)]
        at += len(one.ids)
        row = one.row
        items.append(
            Place(row.item, row.prompt, answer=row.answer, columns=row.columns, ids=row.prompt_ids)
        )
        begun.append(Begun(one.name, one.ids, row.logps[: one.kept] + own))
    made = generate_for(policy, items, **{**how, "group": 1}, begun=begun).rows
    return [
        replace(
            row,
            group=one.row.group,
            added={"probe": 1.0},
            tokens={"proposal_logp": _proposal(row, one, hints, rate)},
        )
        for row, one in zip(made, starts, strict=True)
    ]


def _proposal(row: Completion, one: _Start, hints: list[list[int]], rate: float) -> list[float]:
    """The log-prob of every token under what put it there: before the hint the policy, given that
    it failed (the rate of failure spread evenly); of the hint the share of hints that go on so,
    the first token being certain; behind it the policy."""
    before = [logp - math.log(rate) / one.kept for logp in row.logps[: one.kept]]
    inside = [0.0]
    for place in range(1, len(one.hint)):
        same = [hint for hint in hints if hint[:place] == one.hint[:place] and len(hint) > place]
        going = sum(hint[place] == one.hint[place] for hint in same)
        inside.append(math.log(going / len(same)))
    return before + inside + row.logps[len(one.ids) :]
