"""Contracts of a running training: what must hold, and what is watched from update to update.

A broken contract stops the run with a `StageError`; a watchdog that barks sends a `note` and lets
it go on. Both carry a G9 code, the stage, its place in the file, the last values and a way out.
Nothing here changes a number that training uses, and no torch is imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Protocol

from grape.runtime.context import Context
from grape.runtime.errors import StageError


class Learned(Protocol):
    """What a contract reads of an example (`core.packing.Example`)."""

    @property
    def completion(self) -> Sequence[int]: ...
    @property
    def group(self) -> int: ...
    @property
    def tokens(self) -> dict[str, list[float]]: ...
    @property
    def scalars(self) -> dict[str, float]: ...


def broken(context: Context, code: str, what: str, hint: str) -> StageError:
    """The error of a contract: code, what happened, where it stands in the file, the way out."""
    message = f"{code}: {what} ({place(context)})"
    return StageError(message, hint=f"{hint} (`grape explain {code}`)", code=code)


def place(context: Context) -> str:
    """`next`, round 3, at quickstart.grape:22."""
    stage = context.stage
    turn = f", round {context.round + 1}" if context.rounds > 1 else ""
    where = f", at {stage.file}:{stage.line}" if stage.file and stage.line else ""
    return f"`{stage.name}`{turn}{where}"


def check_weights(context: Context, weights: str, updates: int) -> None:
    """G902: rollouts must come from the weights that are about to be trained.

    `weights` names those that drew them, `updates` counts the optimizer steps of the model. A
    formula that reads `behavior_logp` corrects for older weights itself; with `staleness` they are
    those that the round before began with."""
    formula = context.stage.formula
    if formula is None or "behavior_logp" in formula["needs"] or context.rounds == 1:
        return
    expected = updates if context.drawn is None else context.drawn
    if weights != str(expected):
        raise broken(
            context,
            "G902",
            f"the rollouts were drawn by the weights of update {weights}, and the model is at "
            f"update {updates}",
            "sample inside the repeat, from the model that it trains",
        )


def check_stale(context: Context, versions: Sequence[str], updates: int) -> None:
    """G971: completions of earlier rounds must be corrected for.

    `versions` names the weights that drew each completion, "" for those of this round."""
    formula = context.stage.formula
    old = [version for version in versions if version not in ("", str(updates))]
    if formula is None or "behavior_logp" in formula["needs"] or not old:
        return
    raise broken(
        context,
        "G971",
        f"{len(old)} of {len(versions)} completions were drawn by the weights of earlier updates, "
        f"the oldest by those of update {min(old, key=int)} of {updates}",
        "train with a formula that reads `behavior_logp`, or leave `replay` out of `keep`",
    )


def check_targets(context: Context, examples: Sequence[Learned]) -> None:
    """G909: there must be a token to learn from. In a repeat a round may keep nothing."""
    if any(len(example.completion) for example in examples):
        return
    if not examples and context.rounds > 1:
        return
    raise broken(
        context,
        "G909",
        f"{len(examples)} sequences and no token to learn from: training would change nothing",
        "give the rows completions, or conversations with an answer of the assistant",
    )


def check_first_ratio(context: Context, recorded: Sequence[float], now: Sequence[float]) -> None:
    """G901: before the first update, the model must give its own samples the log-probabilities
    that the sampler wrote down: every importance ratio is 1, up to `ratio_tolerance`."""
    gap = fmean(abs(a - b) for a, b in zip(recorded, now, strict=True))
    tolerance = context.stage.settings["ratio_tolerance"]
    if gap <= tolerance:
        return
    raise broken(
        context,
        "G901",
        f"the model's log-probabilities differ from the sampled ones by {gap:.3g} a token, before "
        f"any update; {tolerance:g} is tolerated",
        "sample from the model that is trained, with the same temperature and tokenizer",
    )


ANOTHER_MODEL = 1.0
"""Nats a token: no rounding of another engine comes near."""


def check_vocabulary(context: Context, examples: Sequence[Learned], size: int) -> None:
    """G923: token ids that a server gave must be ids of the model that learns from them."""
    largest = max((max(example.completion, default=0) for example in examples), default=0)
    if largest < size:
        return
    raise broken(
        context,
        "G923",
        f"the server gave token id {largest}, and the model has {size} tokens",
        "serve a model with the tokenizer of the one that is trained",
    )


def check_together(context: Context, name: str | None) -> None:
    """G914: all processes must hold the same weights. `name` is the first that differs."""
    if name is None:
        return
    raise broken(
        context,
        "G914",
        f"the processes that train together no longer hold the same weights: `{name}` differs",
        "run again, which goes on from the last checkpoint; where it comes back, the machine's "
        "devices do not compute alike: train with `processes = 1`",
    )


def not_finite(context: Context, error: StageError, last: dict[str, float]) -> StageError:
    """G908: a loss that is no number, with the values of the last update."""
    shown = ", ".join(f"{name} {value:.4g}" for name, value in last.items())
    before = f"; the update before had {shown}" if shown else "; it is the first update"
    hint = error.hint or "lower the learning rate"
    return broken(context, "G908", f"{error.message}{before}", hint)


@dataclass(slots=True)
class Watch:
    """What a train stage remembers between updates: how long each thing has been wrong."""

    since: dict[str, int] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)
    last: dict[str, float] = field(default_factory=dict)
    """The metrics of the last update."""
    told_next: dict[str, float] = field(default_factory=dict)
    """What the metrics of the next update hold beside its own."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, so that a run that goes on waits and speaks as if unbroken."""
        return {"since": self.since, "told": sorted(self.told), "last": self.last}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.since, self.told = dict(state["since"]), set(state["told"])
        self.last = dict(state["last"])

    def update(
        self, context: Context, examples: Sequence[Learned], metrics: dict[str, Any]
    ) -> None:
        """Look at one update. `metrics` are its logged values."""
        shown = ("loss", "grad_norm", "reward_mean", "truncated")
        self.last = {name: float(metrics[name]) for name in shown if name in metrics}
        settings = context.stage.settings
        for code, (wrong, what, hint) in _looks(examples, settings).items():
            self.since[code] = self.since.get(code, 0) + 1 if wrong else 0
            if self.since[code] >= settings["patience"] and code not in self.told:
                self.told.add(code)
                text = f"{code}: {what} in {self.since[code]} updates ({place(context)}); {hint}"
                context.emit({"event": "note", "code": code, "text": text})

    def engine_gap(
        self, context: Context, engine: str, recorded: Sequence[float], now: Sequence[float]
    ) -> None:
        """G913: how far the log-probabilities of another engine are from the model's own, before
        any update of a batch. G901 where it cannot have had these weights."""
        gap = fmean(abs(a - b) for a, b in zip(recorded, now, strict=True))
        self.told_next = {"engine_gap": gap}
        limit = context.stage.settings["engine_tolerance"]
        if gap > ANOTHER_MODEL:
            raise broken(
                context,
                "G901",
                f"the log-probabilities that `{engine}` wrote down differ from the model's by "
                f"{gap:.3g} a token, which is no rounding: it ran other weights",
                "look at the versions of the engine and of transformers, and at the tokenizer",
            )
        if gap > limit and "G913" not in self.told:
            self.told.add("G913")
            text = (
                f"G913: `{engine}` and the model differ by {gap:.3g} nats a token on the same "
                f"weights, over {limit:g} ({place(context)}); use a formula that reads "
                "`behavior_logp`, or a wider dtype"
            )
            context.emit({"event": "note", "code": "G913", "text": text})

    def reference_gap(self, context: Context, gap: float) -> None:
        """G907: nats a token between the policy and its reference, once for each batch."""
        limit = context.stage.settings["max_kl"]
        if gap > limit and "G907" not in self.told:
            self.told.add("G907")
            text = (
                f"G907: the model is {gap:.3g} nats a token from its reference, over {limit:g} "
                f"({place(context)}); lower `lr`, or weigh the reference more (`beta`)"
            )
            context.emit({"event": "note", "code": "G907", "text": text})


def _looks(
    examples: Sequence[Learned], settings: dict[str, Any]
) -> dict[str, tuple[bool, str, str]]:
    """By code: whether it is wrong in this update, what, and what to do."""
    found: dict[str, tuple[bool, str, str]] = {}
    if "reward" in examples[0].scalars:
        spread = _spread(examples)
        found["G904"] = (
            spread == 0,
            "no group's rewards differ, so there is nothing to learn",
            "look at samples: the task may be too hard, too easy, or `max_tokens` too small",
        )
    if "truncated" in examples[0].scalars:
        share = fmean(example.scalars["truncated"] for example in examples)
        found["G905"] = (
            share > settings["max_truncated"],
            f"{share:.0%} of the completions are cut by `max_tokens`",
            "raise `max_tokens`, or ask for shorter answers",
        )
    drawn = [logp for example in examples for logp in example.tokens.get("behavior_logp", ())]
    if drawn:
        entropy = -fmean(drawn)
        found["G906"] = (
            entropy < settings["min_entropy"],
            f"the samples are all but certain: {entropy:.2g} nats a token",
            "the model no longer explores: lower `lr`, raise the temperature, reward entropy",
        )
    return found


def _spread(examples: Sequence[Learned]) -> float:
    """The widest gap between two rewards of one group."""
    low: dict[int, float] = {}
    high: dict[int, float] = {}
    for example in examples:
        reward = example.scalars["reward"]
        low[example.group] = min(reward, low.get(example.group, reward))
        high[example.group] = max(reward, high.get(example.group, reward))
    return max(high[group] - low[group] for group in high)
