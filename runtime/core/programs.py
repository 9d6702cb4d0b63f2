"""The next call of programs: a completion of a prompt that the call before it answers to.

In: a policy, the calls so far, and a template of prompts. Out: all calls so far without rewards,
and one more of each program. A group is the calls of one module for one prompt of the data. What
a program is worth is `score`'s business.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from grape.compiler.templates import Template, parse_template
from grape.runtime.artifacts import Completion, Item, Rollouts
from grape.runtime.core.models import Policy
from grape.runtime.core.rollout import generate_for
from grape.runtime.core.rows import Begun
from grape.runtime.errors import StageError


def called(
    policy: Policy, rollouts: Rollouts, sampler: Mapping[str, Any], how: dict[str, Any]
) -> Rollouts:
    """One more call of every program. `how` are the arguments of `generate_for`. Raises
    StageError where the template names a column that there is not."""
    before = [
        replace(
            row.unscored(),
            added={
                "module": row.added.get("module", 0.0),
                "program": row.added.get("program", float(number)),
            },
            weights=row.weights or rollouts.weights,
        )
        for number, row in enumerate(rollouts.rows)
    ]
    last = max(row.added["module"] for row in before)
    ends = [row for row in before if row.added["module"] == last]
    template = parse_template(sampler["prompt"])
    items = [_item(row, template) for row in ends]
    begun = [
        Begun(f"{row.item}/{row.group}/module/{last:g}/{row.added['program']:g}", [], [])
        for row in ends
    ]
    made = generate_for(policy, items, **{**how, "group": 1}, begun=begun).rows
    following = max(row.group for row in before) + 1 - min(row.group for row in ends)
    rows = [
        replace(
            row,
            group=end.group + following,
            added={"module": last + 1, "program": end.added["program"]},
        )
        for row, end in zip(made, ends, strict=True)
    ]
    return replace(rollouts, rows=[*before, *rows], weights=str(policy.updates), companions=[])


def _item(row: Completion, template: Template) -> Item:
    known = {**row.columns, "prompt": row.prompt, "completion": row.text}
    missing = [name for name in template.columns if name not in known]
    if missing:
        raise StageError(
            f"the prompt of a module names `{missing[0]}`, and there is no such column",
            hint=f"there are {', '.join(sorted(known))}",
        )
    return Item(row.item, prompt=template.render(known), answer=row.answer, columns=row.columns)
