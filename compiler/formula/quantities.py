"""The quantities of a batch: name, level, what they are, and which batches have them.

What a sampler or a scorer adds is declared here too, so that a formula can be checked before
anything runs; a batch holds only the ones that its makers supply.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from grape.compiler.formula.levels import Level

BATCHES = ("Demos", "Rollouts", "Preferences", "Ratings")
_ROLLOUTS = ("Rollouts",)
_ANY = (float("-inf"), float("inf"))
_LOG = (float("-inf"), 0.0)
_SHARE = (0.0, 1.0)
_COUNT = (0.0, float("inf"))


@dataclass(frozen=True, slots=True)
class Quantity:
    """What a formula may ask of a batch."""

    level: Level
    meaning: str
    on: tuple[str, ...] = BATCHES
    live: bool = False
    """Depends on the current forward pass, and carries gradient."""
    derived: bool = False
    """Follows from the shape of the batch; nobody has to supply it."""
    bounds: tuple[float, float] = _ANY
    """Between which values it lies."""


QUANTITIES: dict[str, Quantity] = {
    "logp": Quantity(Level.TOKEN, "log-prob of each token", live=True, bounds=_LOG),
    "entropy": Quantity(Level.TOKEN, "entropy of each token", live=True, bounds=_COUNT),
    "old_logp": Quantity(Level.TOKEN, "log-prob before the update", bounds=_LOG),
    "ref_logp": Quantity(Level.TOKEN, "log-prob under the reference", bounds=_LOG),
    "teacher_logp": Quantity(Level.TOKEN, "log-prob under the teacher", bounds=_LOG),
    "behavior_logp": Quantity(
        Level.TOKEN, "log-prob under what sampled it", on=_ROLLOUTS, bounds=_LOG
    ),
    "logp_all": Quantity(Level.VOCAB, "log-probs of the whole vocabulary", live=True, bounds=_LOG),
    "old_logp_all": Quantity(Level.VOCAB, "`logp_all` before the update", bounds=_LOG),
    "ref_logp_all": Quantity(Level.VOCAB, "`logp_all` under the reference", bounds=_LOG),
    "teacher_logp_all": Quantity(Level.VOCAB, "`logp_all` under the teacher", bounds=_LOG),
    "length": Quantity(
        Level.SEQUENCE, "tokens of the completion", derived=True, bounds=(1.0, float("inf"))
    ),
    "index": Quantity(Level.TOKEN, "place in the completion, from 0", derived=True, bounds=_COUNT),
    "active": Quantity(Level.TOKEN, "1 where a token counts", derived=True, bounds=(1.0, 1.0)),
    "step_index": Quantity(
        Level.STEP, "number of the step, from 0", on=_ROLLOUTS, derived=True, bounds=_COUNT
    ),
    "reward": Quantity(Level.SEQUENCE, "the reward", on=_ROLLOUTS),
    "step_reward": Quantity(Level.STEP, "reward of a step", on=_ROLLOUTS),
    "value": Quantity(Level.TOKEN, "the value head's estimate", on=_ROLLOUTS, live=True),
    "old_value": Quantity(Level.TOKEN, "`value` before the update", on=_ROLLOUTS),
    "truncated": Quantity(
        Level.SEQUENCE, "1 where `max_tokens` ended it", on=_ROLLOUTS, bounds=_SHARE
    ),
    "score": Quantity(Level.SEQUENCE, "the scalar head's output", live=True),
    "margin": Quantity(Level.PAIR, "how much better the chosen one is", on=("Preferences",)),
    "desirable": Quantity(Level.SEQUENCE, "1 for good, 0 for bad", on=("Ratings",), bounds=_SHARE),
    "mismatched": Quantity(
        Level.SEQUENCE,
        "log π/π_ref, summed, of another prompt's completion after this prompt",
        on=("Ratings",),
    ),
    "progress": Quantity(Level.BATCH, "0 to 1 over the run", bounds=_SHARE),
    "noise": Quantity(Level.TOKEN, "a uniform random number per token", bounds=_SHARE),
    "greedy_reward": Quantity(
        Level.SEQUENCE, "reward of the prompt's greedy completion", on=_ROLLOUTS
    ),
    "revised": Quantity(
        Level.SEQUENCE, "1 where it answers a critique", on=_ROLLOUTS, bounds=_SHARE
    ),
    "node_value": Quantity(Level.STEP, "mean leaf reward below the node", on=_ROLLOUTS),
    "parent_value": Quantity(Level.STEP, "`node_value` of the node above", on=_ROLLOUTS),
    "leaves": Quantity(
        Level.STEP, "leaves below the node", on=_ROLLOUTS, bounds=(1.0, float("inf"))
    ),
    "prefix_value": Quantity(
        Level.SEQUENCE, "value of the prefix it was continued from", on=_ROLLOUTS
    ),
    "diversity": Quantity(
        Level.SEQUENCE, "share of distinct members in its set", on=_ROLLOUTS, bounds=_SHARE
    ),
    "probe": Quantity(Level.SEQUENCE, "1 where a hint was injected", on=_ROLLOUTS, bounds=_SHARE),
    "module": Quantity(
        Level.SEQUENCE, "place of the call in its program, from 0", on=_ROLLOUTS, bounds=_COUNT
    ),
    "proposal_logp": Quantity(Level.TOKEN, "log-prob under the proposal of a probe", on=_ROLLOUTS),
}

PART_QUANTITIES = {
    "part": "reward",
    "confidence": "confidence",
    "applies": "applies",
    "weight": "weight",
}
"""Inside `sum_of_parts`: the word, and the quantity `PREFIX.PART` of level sequence it reads."""


def span_name(opening: str, closing: str) -> str:
    """The full name of a `span` of the text, as a formula writes it."""
    texts = (json.dumps(text, ensure_ascii=False) for text in (opening, closing))
    return f"span({', '.join(texts)})"


def markers_of(name: str) -> tuple[str, str] | None:
    """The two texts of a `span` by its full name; None for any other quantity."""
    if not name.startswith("span("):
        return None
    opening, closing = json.loads(f"[{name.removeprefix('span(')[:-1]}]")
    return opening, closing


def level_of(name: str) -> Level:
    """The level of a quantity by its full name: `reward.PART` is one per sequence, what `state`
    keeps is one number, a `span` is one per token."""
    if name.startswith("span("):
        return Level.TOKEN
    head, dot, _ = name.partition(".")
    if dot:
        return Level.BATCH if head == "state" else Level.SEQUENCE
    return QUANTITIES[name].level


TRAINED = frozenset(
    [
        *("logp", "entropy", "old_logp", "ref_logp", "teacher_logp", "behavior_logp"),
        *("logp_all", "old_logp_all", "ref_logp_all", "teacher_logp_all"),
        *("value", "old_value", "score", "length", "index", "active"),
        *("reward", "truncated", "margin", "desirable", "mismatched", "progress", "noise"),
    ]
)
"""What `train` can supply; the others are for `evaluate` with tensors of one's own."""

BEFORE_TRAINING = frozenset(
    ["reward", "length", "truncated", "behavior_logp", "old_logp", "index", "active"]
)
"""What `keep` may ask of rollouts, beside what their sampler adds."""

_TREE = "write `sampler = tree(roots = 2, expand = 2)` in the braces of `sample`"

SAMPLED: dict[str, str] = {
    "greedy_reward": "write `greedy = true` in the braces of `sample`",
    "revised": 'write `revise(policy, scored, RUBRIC) { gives = "group" }`',
    **dict.fromkeys(("set", "diversity"), "write `sampler = vine()` in the braces of `sample`"),
    "step": _TREE + ', or `turns(tools = [python("tools.py:name")])`: a turn is a step',
    "cluster": 'write `cluster = "number"` in the braces of `score`',
    "prefix_value": "sample from scored trees with `sampler = prefixes()`",
    "module": 'sample from rollouts with `sampler = module(prompt = "{completion}")`',
    **dict.fromkeys(
        ("probe", "proposal_logp"),
        'sample from scored rollouts with `sampler = probe(hints = [" Wait,"])`',
    ),
    **dict.fromkeys(("tree", "node_value", "parent_value", "leaves"), _TREE),
}
"""Quantities and levels that only some samplings bring, and what to write for them."""
